/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * keys - which shard owns a key: keymap 1
 *
 * Why:         who submits over the data plane picks the shard itself, and all have to agree.
 * Concurrency: pure functions
 *
 * A key has a 64-bit hash, the hash one of 16,384 slots, and the slots lie in the shards in
 * contiguous ranges, as even as can be.
 */
#include <stddef.h>
#include <stdint.h>

#define KEYS_MAP   1u
#define KEYS_SLOTS 16384u

/* 64-bit FNV-1a, then mixed, so that short keys that differ in one bit spread. */
static inline uint64_t keys_hash(const void *key, size_t len)
{
    const uint8_t *bytes = (const uint8_t *)key;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 33;
    hash *= UINT64_C(0xff51afd7ed558ccd);
    hash ^= hash >> 33;
    return hash;
}

static inline uint32_t keys_slot(uint64_t hash)
{
    return (uint32_t)(hash % KEYS_SLOTS);
}

static inline uint32_t keys_shard(uint32_t slot, uint32_t n_shards)
{
    return (uint32_t)((uint64_t)slot * n_shards / KEYS_SLOTS);
}
