/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_memory - the memory that one client and the shards share: made, filled with pages, sealed
 *
 * Why:         a client can neither cut it short under a shard (SIGBUS) nor make the machine run out
 *              of memory later: all pages are there from the beginning, or the attach fails.
 * Use:         int fd; int r = attach_memory_make(bytes, &fd);
 * Concurrency: a coroutine; the pages come from a worker thread, for they may be many
 * Lifetime:    fresh for each client, and the kernel's zeroed pages: never another client's
 */
#include <stdint.h>

#include "runtime/coroutine.h"

/* 0; -ENOMEM or -ENOSPC: there is no memory for it; -EMFILE; -errno. */
int coroutine_fn attach_memory_make(uint64_t bytes, int *ret_fd);
