/* SPDX-License-Identifier: MIT */
#include "shard/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shard/mesh_inside.h"

struct waiting_call {
    struct mesh_call call;
    Coroutine *co;
    struct call_answer *answer;
    int status;
    bool in_place;
    bool done;
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

static bool is_reading(const struct mesh *mesh, const Coroutine *co)
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
    waiting->done = true;
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
    r = serve_local(mesh, request->method, request->args, request->args_len, request->deadline_ns,
        request->depth, request->path, &answer, &ret_answer->copy);
    if (r < 0)
        return refused(r, ret_answer);
    ret_answer->data = ret_answer->copy;
    ret_answer->end = answer.end;
    ret_answer->len = answer.len;
    return answer.status;
}

int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    struct waiting_call waiting = {
        .call = {.target = request->target,
            .method = request->method,
            .args = request->args,
            .args_len = request->args_len,
            .deadline_ns = request->deadline_ns,
            .depth = request->depth,
            .path = request->path,
            .lane = request->lane,
            .done = on_done},
        .co = coroutine_self(),
        .answer = ret_answer,
        .in_place = request->in_place,
    };
    int r;

    if (mesh->reading && is_reading(mesh, waiting.co))
        return refused(-EDEADLK, ret_answer);
    if (request->target == mesh->self)
        return call_self(mesh, request, ret_answer);
    r = mesh_call_start(mesh, &waiting.call);
    if (r < 0)
        return refused(r, ret_answer);
    coroutine_yield_at("call");
    return waiting.status;
}
