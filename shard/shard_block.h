/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * shard_block - what stands in front of each block of shard_alloc()
 *
 * Why:         a block is given back, and looked into, by its address alone.
 * Concurrency: the coroutine's shard
 * Not here:    who hands them out (shard/shard_alloc.h), who looks into them (shard/private_scan.h)
 */
#include "shard/arena.h"

#define SHARD_BLOCK_MIN_SHIFT  5u /* 32 bytes, with this header */
#define SHARD_BLOCK_LISTS      7u /* of small ones, by powers of two; above them whole pages */
#define SHARD_BLOCK_LARGE      0x80u
#define SHARD_BLOCK_MAX_CHUNKS 16u

struct shard_block {
    arena_co co;   /* whose it is; 0: free */
    uint32_t kind; /* list, or SHARD_BLOCK_LARGE */
    uint32_t n_chunks;
};

/* With its header; 0 where that makes no sense. */
static inline uint64_t shard_block_bytes(const struct shard_block *block)
{
    if (block->kind < SHARD_BLOCK_LISTS)
        return UINT64_C(1) << (SHARD_BLOCK_MIN_SHIFT + block->kind);
    if (block->kind == SHARD_BLOCK_LARGE && block->n_chunks <= SHARD_BLOCK_MAX_CHUNKS)
        return (uint64_t)block->n_chunks * ARENA_CHUNK_BYTES;
    return 0;
}
