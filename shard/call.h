/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call - shard_call(): a method runs in another shard, the calling coroutine sleeps until the
 * answer
 *
 * Use:         struct call_answer answer;
 *              int r = shard_call(mesh, &(struct call_request){.target = 1, .method = m}, &answer);
 *              …
 *              call_answer_deinit(&answer);
 * Concurrency: coroutine of the mesh's loop. A call to the own shard runs in the calling coroutine.
 */
#include "runtime/coroutine.h"
#include "shard/mesh.h"

struct call_request {
    uint32_t target;
    uint32_t method;
    const void *args;
    size_t args_len;
    int64_t deadline_ns; /* INT64_MAX: none */
    uint32_t depth;      /* 0, or one more than the call that is being served */
};

struct call_answer {
    enum call_end end;
    void *data; /* malloc; NULL where len is 0 */
    size_t len;
};

void call_answer_deinit(struct call_answer *answer);

/* 0 where end is DONE, else -errno with ret_answer->end; both set on every return. What
 * mesh_call_start() refuses ends as NOT_STARTED. */
int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer);
