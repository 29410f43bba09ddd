/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * gather - one method in many shards at a time, each with arguments of its own; waits for all
 *
 * Why:         what is spread over shards is asked for in the time of the slowest, not of all.
 * Use:         struct gather_call calls[2] = {{.target = 0, …}, {.target = 1, …}};
 *              r = shard_gather(mesh, &(struct gather_request){.method = m,
 *                  .deadline_ns = INT64_MAX}, calls, 2);
 *              … calls[i].status and .answer …
 *              gather_deinit(calls, 2);
 * Concurrency: coroutine of the mesh's loop. The own shard may be among the targets, and a shard
 *              more than once.
 * Lifetime:    calls and their arguments stay where they are until gather_deinit()
 * Not here:    one call (shard/call.h); for methods, service_gather() in shard/service.h
 */
#include "shard/call.h"

struct gather_call {
    uint32_t target;
    const void *args;
    size_t args_len;

    /* How it ended; set on every return. */
    int status; /* as shard_call()'s */
    struct call_answer answer;
};

struct gather_request {
    uint32_t method;
    int64_t deadline_ns; /* of all of them; INT64_MAX: none */
    uint32_t depth;      /* these four as in struct call_request */
    uint32_t path;
    uint64_t origin;
    uint32_t lane;
    bool fail_fast; /* once one has failed the others are cancelled: -ECANCELED */
};

/*
 * Returns once each of the n calls has ended: 0 where all are DONE, else the status of the first
 * that was not. A scope of the calling coroutine that ends cancels those that have not ended yet;
 * a scope's deadline is the calls' too. -EDEADLK, with nothing called: as shard_call().
 */
int coroutine_fn shard_gather(
    struct mesh *mesh, const struct gather_request *request, struct gather_call *calls, size_t n);

/* Gives back the answers. Owner loop. */
void gather_deinit(struct gather_call *calls, size_t n);
