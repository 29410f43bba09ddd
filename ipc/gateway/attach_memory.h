/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_memory - the memory that one client and the shards share: made, filled with pages, sealed
 *
 * Why:         a client can neither cut it short under a shard (SIGBUS) nor make the machine run
 *              out of memory later: all pages are there from the beginning, or the attach fails.
 * Use:         struct attach_memory memory = ATTACH_MEMORY_INIT(bytes);
 *              while ((r = attach_memory_grow(&memory)) > 0) is it still wanted?
 *              r == 0: memory.fd is the caller's; in the end attach_memory_close(fd, …)
 * Concurrency: a coroutine; pages are made and given back by worker threads, for they may be many
 * Lifetime:    fresh for each client, and the kernel's zeroed pages: never another client's
 */
#include <stdint.h>

#include "runtime/coroutine.h"

struct attach_memory {
    uint64_t bytes, done;
    int fd; /* -1: none yet, or none any more */
};

#define ATTACH_MEMORY_INIT(n)  \
    {                          \
        .bytes = (n), .fd = -1 \
    }

/* Makes a piece of it, which takes about a millisecond. 1: there is more to be made; 0: it is
 * whole, and sealed; -ENOMEM or -ENOSPC: there is no memory for it; -EMFILE; -errno, and nothing is
 * left of it. */
int coroutine_fn attach_memory_grow(struct attach_memory *memory);

/* Where nobody else has it any more its pages go back. *n_closing counts those that are under way,
 * and is 0 before the loop may end. -1 does nothing. Context: owner loop. */
void attach_memory_close(int fd, uint32_t *n_closing);
