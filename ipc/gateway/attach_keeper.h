/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_keeper - the gateway's end of the channel to who keeps its fds (shard/fd_keep.h)
 *
 * Why:         a client's memory and bells are fds, and would end with the gateway: whoever keeps
 *              them hands them to its replacement.
 * Use:         keeper_put() in a coroutine: the fd is kept when it returns 0, whoever dies from
 *              then on; keeper_drop() at the end of the key
 * Concurrency: owner loop; several coroutines may wait at a time
 * Lifetime:    keeper_stop(), then a turn of the loop in which whoever waits returns, then
 *              keeper_deinit()
 */
#include <stdbool.h>

#include "runtime/aio.h"
#include "runtime/coroutine.h"
#include "shard/fd_keep.h"

struct keeper_wait;

struct keeper {
    AioContext *ctx;
    int channel;
    bool stopping;
    struct keeper_wait *waits; /* for replies */
};

/* 0 or -errno. */
int keeper_init(struct keeper *keeper, AioContext *ctx, int channel);

/* Whoever waits returns -ECANCELED, in a turn to come. */
void keeper_stop(struct keeper *keeper);
void keeper_deinit(struct keeper *keeper);

/* Has fd kept, of which the caller keeps its copy. 0; what it was refused with; -ECANCELED. */
int coroutine_fn keeper_put(struct keeper *keeper, const struct fd_keep_message *what, int fd);

/* n bytes of `peers` (a bit a peer) say who is to be told in any case. False: there is no room now;
 * ask again. */
bool keeper_drop(
    struct keeper *keeper, uint32_t key, uint64_t generation, const uint64_t *peers, size_t n);
