/* SPDX-License-Identifier: MIT */
#include "shard/keymap.h"

uint64_t keymap_hash(const void *key, size_t len)
{
    const uint8_t *bytes = key;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 33;
    hash *= UINT64_C(0xff51afd7ed558ccd);
    hash ^= hash >> 33;
    return hash;
}

uint32_t keymap_slot(uint64_t hash)
{
    return (uint32_t)(hash % KEYMAP_SLOTS);
}

uint32_t keymap_shard(uint32_t slot, uint32_t n_shards)
{
    return (uint32_t)((uint64_t)slot * n_shards / KEYMAP_SLOTS);
}
