/* SPDX-License-Identifier: MIT */
/*
 * A scope of the calling coroutine that ends takes the call back like mesh_call_cancel(); its end
 * still comes by done(), and only then the coroutine goes on, because the call lies in its frame.
 */
#include "shard/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/co_wait.h"
#include "shard/mesh_inside.h"

struct waiting_call {
    struct mesh_call call; /* first: on_done() gets a pointer to it */
    struct co_wait wait;
    Coroutine *co;
    struct call_answer *answer;
    int status;
    bool in_place;
    bool withdrawn; /* by the end of a scope */
};

/* An answer that is read in place is in the mesh's list, so that its reader is known. */
static void begin_reading(struct mesh *mesh, const struct mesh_answer *from, Coroutine *reader,
    struct call_answer *answer)
{
    mesh_answer_hold(mesh, from, &answer->hold);
    answer->mesh = mesh;
    answer->reader = reader;
    answer->data = from->data;
    answer->len = from->len;
    answer->next = mesh->reading;
    mesh->reading = answer;
}

static void end_reading(struct call_answer *answer)
{
    struct call_answer **link = &answer->mesh->reading;

    while (*link != answer)
        link = &(*link)->next;
    *link = answer->next;
    mesh_hold_release(answer->mesh, &answer->hold);
}

bool call_is_reading(const struct mesh *mesh, const Coroutine *co)
{
    for (const struct call_answer *answer = mesh->reading; answer; answer = answer->next)
        if (answer->reader == co)
            return true;
    return false;
}

void call_answer_deinit(struct call_answer *answer)
{
    if (answer->hold.held)
        end_reading(answer);
    free(answer->copy);
    *answer = (struct call_answer){0};
}

static int copy_answer(const struct mesh_answer *from, struct call_answer *answer)
{
    *answer = (struct call_answer){.end = from->end};
    if (!from->len)
        return from->status;
    answer->copy = malloc(from->len + 1);
    if (!answer->copy) {
        answer->end = CALL_END_FAILED;
        return -ENOMEM;
    }
    memcpy(answer->copy, from->data, from->len);
    ((char *)answer->copy)[from->len] = '\0'; /* a text is a string */
    answer->data = answer->copy;
    answer->len = from->len;
    return from->status;
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct waiting_call *waiting = (struct waiting_call *)call;

    if (waiting->in_place && answer->hold && answer->end == CALL_END_DONE) {
        *waiting->answer = (struct call_answer){.end = answer->end};
        begin_reading(call->mesh, answer, waiting->co, waiting->answer);
        waiting->status = answer->status;
    } else {
        waiting->status = copy_answer(answer, waiting->answer);
        if (answer->hold)
            mesh_count_payload(call->mesh, true, answer->len);
    }
    aio_co_wake(waiting->co);
}

static int refused(int r, struct call_answer *ret_answer)
{
    *ret_answer = (struct call_answer){.end = CALL_END_NOT_STARTED};
    return r;
}

static int coroutine_fn call_self(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    struct mesh_answer answer;
    int r;

    if (request->depth >= SEGMENT_MAX_DEPTH)
        return refused(-ELOOP, ret_answer);
    if (request->args_len > SEGMENT_PAYLOAD_MAX)
        return refused(-EMSGSIZE, ret_answer);
    if (!registry_method(mesh->registry, request->method, NULL))
        return refused(-ENOENT, ret_answer);
    *ret_answer = (struct call_answer){0};
    r = serve_local(mesh, request->method, request->args, request->args_len,
        call_deadline_ns(request->deadline_ns), request->depth, request->path, &answer,
        &ret_answer->copy);
    if (r < 0)
        return refused(r, ret_answer);
    ret_answer->data = ret_answer->copy;
    /* A method that ended because a scope of ours did was cancelled by us. */
    ret_answer->end = answer.status == -ECANCELED && co_scope_status() == -ECANCELED
                          ? CALL_END_CANCELLED
                          : answer.end;
    ret_answer->len = answer.len;
    return answer.status;
}

int64_t call_deadline_ns(int64_t deadline_ns)
{
    const CoScope *scope = co_scope_innermost();

    return scope && scope->deadline_ns < deadline_ns ? scope->deadline_ns : deadline_ns;
}

static bool withdraw(struct co_wait *wait)
{
    struct waiting_call *waiting =
        (struct waiting_call *)((char *)wait - offsetof(struct waiting_call, wait));

    waiting->withdrawn = true;
    mesh_call_cancel(waiting->call.mesh, &waiting->call);
    return false; /* done() comes */
}

/* A call that a scope took back ended for the scope's reason. */
static int told_status(const struct waiting_call *waiting)
{
    if (!waiting->withdrawn || waiting->answer->end != CALL_END_CANCELLED ||
        co_scope_status() != -ETIMEDOUT)
        return waiting->status;
    waiting->answer->end = CALL_END_EXPIRED;
    return -ETIMEDOUT;
}

/* Field by field, without zeroing the rest, which is the mesh's own: that took longer than all else. */
static void coroutine_fn fill_in(struct waiting_call *waiting, const struct call_request *request,
    struct call_answer *ret_answer)
{
    struct mesh_call *call = &waiting->call;

    call->target = request->target;
    call->method = request->method;
    call->args = request->args;
    call->args_len = request->args_len;
    call->deadline_ns = call_deadline_ns(request->deadline_ns);
    call->depth = request->depth;
    call->path = request->path;
    call->lane = request->lane;
    call->origin = 0;
    call->done = on_done;
    waiting->wait.withdraw = withdraw;
    waiting->co = coroutine_self();
    waiting->answer = ret_answer;
    waiting->in_place = request->in_place;
    waiting->withdrawn = false;
}

int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    struct waiting_call waiting;
    int r;

    if (mesh->reading && call_is_reading(mesh, coroutine_self()))
        return refused(-EDEADLK, ret_answer);
    if (request->target == mesh->self)
        return call_self(mesh, request, ret_answer);
    fill_in(&waiting, request, ret_answer);
    r = mesh_call_start(mesh, &waiting.call);
    if (r < 0)
        return refused(r, ret_answer);
    co_wait(&waiting.wait, "call");
    return told_status(&waiting);
}
