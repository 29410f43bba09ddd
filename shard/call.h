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
 * Concurrency: coroutine of the mesh's loop. A scope (runtime/co_cancel.h) that ends takes the call
 *              back: CANCELLED and -ECANCELED, or EXPIRED and -ETIMEDOUT; its deadline is the
 *              call's too. A call to the own shard runs in the calling coroutine.
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
    uint32_t path;       /* 0, or path_within() the call that is being served */
    uint32_t lane;       /* enum mesh_lane */
    /* An answer that is not small is read where it lies, in the callee's memory, until
     * call_answer_deinit(). Until then the coroutine that asked makes no other call (-EDEADLK). For
     * answers that are passed on or looked at once; see struct mesh_answer for what is parsed. */
    bool in_place;
};

/* Not to be moved or copied while it is alive; one that is read in place is given back by the
 * coroutine that asked, before it ends. */
struct call_answer {
    enum call_end end;
    const void *data; /* NULL where len is 0; with a NUL behind it, unless it is read in place */
    size_t len;

    /* The call's own. */
    void *copy; /* malloc; where data is not in place */
    struct mesh *mesh;
    struct mesh_hold hold;
    Coroutine *reader;
    struct call_answer *next;
};

/* Gives back what it holds. Owner loop. */
void call_answer_deinit(struct call_answer *answer);

/* The earlier of deadline_ns and that of the calling coroutine's scopes. Coroutine or loop. */
int64_t call_deadline_ns(int64_t deadline_ns);

/* Whether co reads an answer in place. Owner loop. */
bool call_is_reading(const struct mesh *mesh, const Coroutine *co);

/* 0 where end is DONE, else -errno with ret_answer->end; both set on every return. What
 * mesh_call_start() refuses ends as NOT_STARTED, and so does a call of a coroutine that reads an
 * answer in place: -EDEADLK. */
int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer);
