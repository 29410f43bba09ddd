/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * shard_alloc - memory that moves with a portable coroutine
 *
 * Why:         what malloc() gave is other bytes in another shard.
 * Use:         in a portable coroutine: list = shard_alloc(n * sizeof(*list));  if (!list) … -ENOMEM
 *              shard_co_move(&mesh, 3);  list is as it was;  shard_free(list)
 * Concurrency: the coroutine that it belongs to, wherever that runs
 * Lifetime:    until shard_free(), or the coroutine's end, or its loss with the shard that runs it
 * Not here:    what calls and answers travel in (shard/heap.h)
 *
 * All coroutines of the instance share two pages each on average, so this is for what must travel
 * and is too large for the stack's 60 KiB, or outlives the frame that made it.
 */
#include <stddef.h>

#define SHARD_ALLOC_MAX ((size_t)64 * 1024 - 16)

/* Bytes at a multiple of 16, whatever was there before. NULL: none are left, bytes is 0 or above
 * SHARD_ALLOC_MAX, or what runs is no portable coroutine. */
void *shard_alloc(size_t bytes);

/* NULL does nothing. Aborts where it is not of the running coroutine. */
void shard_free(void *memory);
