/* SPDX-License-Identifier: MIT */
#include "shard/keymap.h"

#include "proto/keys.h"

_Static_assert(KEYMAP_SLOTS == KEYS_SLOTS, "one map");

uint64_t keymap_hash(const void *key, size_t len)
{
    return keys_hash(key, len);
}

uint32_t keymap_slot(uint64_t hash)
{
    return keys_slot(hash);
}

uint32_t keymap_shard(uint32_t slot, uint32_t n_shards)
{
    return keys_shard(slot, n_shards);
}
