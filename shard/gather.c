/* SPDX-License-Identifier: MIT */
/*
 * Each call is made by a coroutine of its own, in a scope of one token: cancelling it ends all that
 * wait. The last to end wakes the one that gathers.
 */
#include "shard/gather.h"

#include <errno.h>

#include "runtime/co_wait.h"
#include "shard/mesh_inside.h"

struct gather {
    struct co_wait wait; /* first: withdraw() gets a pointer to it */
    struct mesh *mesh;
    const struct gather_request *request;
    int64_t deadline_ns;
    CoCancel token;
    Coroutine *co;
    size_t n_left;
    bool waits;
    int status; /* of the first that failed */
};

/* What the coroutine of one call begins with; gone once that has yielded. */
struct member {
    struct gather *gather;
    struct gather_call *call;
};

static void note_end(struct gather *gather, int status)
{
    if (status < 0 && gather->status == 0) {
        gather->status = status;
        if (gather->request->fail_fast)
            co_cancel(&gather->token);
    }
    if (--gather->n_left == 0 && gather->waits)
        aio_co_wake(gather->co);
}

static void coroutine_fn call_one(void *opaque)
{
    const struct member *member = opaque;
    struct gather *gather = member->gather;
    struct gather_call *call = member->call;
    const struct gather_request *request = gather->request;
    CoScope scope;

    co_scope_begin(&scope, &gather->token, CO_NO_DEADLINE);
    call->status = shard_call(gather->mesh,
        &(struct call_request){.target = call->target,
            .method = request->method,
            .args = call->args,
            .args_len = call->args_len,
            .deadline_ns = gather->deadline_ns,
            .depth = request->depth,
            .path = request->path,
            .origin = request->origin,
            .lane = request->lane},
        &call->answer);
    co_scope_end(&scope);
    note_end(gather, call->status);
}

static void begin_one(struct gather *gather, struct gather_call *call)
{
    struct member member = {gather, call};
    Coroutine *co = NULL;
    int status = -ENOMEM;

    if (co_cancelled(&gather->token))
        status = -ECANCELED;
    else
        co = coroutine_create_full(call_one, &member, "gather", 0);
    if (co) {
        coroutine_enter(co);
        return;
    }
    call->status = status;
    call->answer = (struct call_answer){
        .end = status == -ECANCELED ? CALL_END_CANCELLED : CALL_END_NOT_STARTED};
    note_end(gather, status);
}

/* The scope around the gathering has ended: each call ends soon, and the last of them wakes it. */
static bool withdraw(struct co_wait *wait)
{
    co_cancel(&((struct gather *)wait)->token);
    return false;
}

int coroutine_fn shard_gather(
    struct mesh *mesh, const struct gather_request *request, struct gather_call *calls, size_t n)
{
    struct gather gather = {.wait.withdraw = withdraw,
        .mesh = mesh,
        .request = request,
        .deadline_ns = call_deadline_ns(request->deadline_ns),
        .co = co_wait_self("gather"),
        .n_left = n};

    for (size_t i = 0; i < n; i++) {
        calls[i].status = -EDEADLK;
        calls[i].answer = (struct call_answer){.end = CALL_END_NOT_STARTED};
    }
    if (call_is_reading(mesh, gather.co))
        return -EDEADLK;
    co_cancel_init(&gather.token);
    for (size_t i = 0; i < n; i++)
        begin_one(&gather, &calls[i]);
    if (gather.n_left > 0) {
        gather.waits = true;
        co_wait(&gather.wait, "gather");
    }
    co_cancel_deinit(&gather.token);
    return gather.status;
}

void gather_deinit(struct gather_call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        call_answer_deinit(&calls[i].answer);
}
