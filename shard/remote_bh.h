/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * remote_bh - a function that runs once in another shard's loop: a bottom half across processes
 *
 * Why:         the smallest piece of work there is; all shards are forked from one image, so a
 *              function has one address in all of them.
 * Use:         static void count(struct mesh *mesh, const void *args, size_t len) { … }
 *              shard_bh_schedule(mesh, &(struct shard_bh){.target = 2, .fn = count,
 *                  .args = &n, .args_len = sizeof(n)});
 * Concurrency: owner loop; fn runs in the target's loop, in a coroutine of its own, and must not
 *              wait
 * Lifetime:    args are copied
 * Not here:    work that answers or waits: a method (shard/service.h, shard/call.h)
 *
 * It is a call of the mesh's own, so the target's death means for it what it means for a call: what
 * was not begun runs in the replacement, what was begun is never run a second time, and done()
 * tells which.
 */
#include "shard/mesh.h"

#define SHARD_BH_ARGS_MAX (SEGMENT_INLINE_BYTES - sizeof(uint64_t))

typedef void shard_bh_fn(struct mesh *mesh, const void *args, size_t len);

/* DONE: fn has run. NOT_STARTED: it has not, and will not. IN_DOUBT: the target died with it begun.
 * FAILED: the target refuses the address. */
typedef void shard_bh_done_fn(void *opaque, enum call_end end, int status);

struct shard_bh {
    uint32_t target;
    shard_bh_fn *fn; /* of the executable, or of a service that was loaded at the start */
    const void *args;
    size_t args_len;        /* at most SHARD_BH_ARGS_MAX */
    uint32_t lane;          /* enum mesh_lane */
    shard_bh_done_fn *done; /* NULL: nobody asks. Called once, in this loop, never before the return
                               of shard_bh_schedule() */
    void *opaque;           /* done's */
};

/* 0; -ENODEV: no such shard; -EMSGSIZE; -EINVAL: fn is not of the image, or no such lane; -ENOMEM.
 * On failure there is no done(). Context: owner loop. */
int shard_bh_schedule(struct mesh *mesh, const struct shard_bh *bh);
