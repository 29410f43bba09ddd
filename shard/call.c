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
    bool done;
};

void call_answer_deinit(struct call_answer *answer)
{
    free(answer->data);
    *answer = (struct call_answer){0};
}

static int keep_answer(const struct mesh_answer *from, struct call_answer *answer)
{
    *answer = (struct call_answer){.end = from->end};
    if (!from->len)
        return from->status;
    answer->data = malloc(from->len + 1);
    if (!answer->data) {
        answer->end = CALL_END_FAILED;
        return -ENOMEM;
    }
    memcpy(answer->data, from->data, from->len);
    ((char *)answer->data)[from->len] = '\0'; /* a text is a string */
    answer->len = from->len;
    return from->status;
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct waiting_call *waiting = (struct waiting_call *)call;

    waiting->status = keep_answer(answer, waiting->answer);
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
        request->depth, &answer, &ret_answer->data);
    if (r < 0)
        return refused(r, ret_answer);
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
            .done = on_done},
        .co = coroutine_self(),
        .answer = ret_answer,
    };
    int r;

    if (request->target == mesh->self)
        return call_self(mesh, request, ret_answer);
    r = mesh_call_start(mesh, &waiting.call);
    if (r < 0)
        return refused(r, ret_answer);
    coroutine_yield_at("call");
    return waiting.status;
}
