/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * store - keys and values in a region of shared memory, whole after a death at any instruction
 *
 * Why:         a cache that a crash empties sends its whole load to what it was to spare.
 * Use:         struct store store;
 *              if (store_open(&store, &region) < 0) …
 *              const struct record *record = store_get(&store, hash, key, len);
 * Concurrency: one thread. What store_get() gives holds until the next store_set() or _delete().
 * Lifetime:    all that counts is in the region
 *
 *   +------+-----------------+------------------------------------------+
 *   | head | buckets: refs   | log: records, from tail to head, round   |
 *   +------+-----------------+------------------------------------------+
 *
 * A new record is written where nothing points to, and counts with the one store that puts it into
 * its bucket's chain; it takes the old one's place there. Where the one that was replaced last had
 * the same lengths, that is its place; else it is at the head. Space comes back at the tail: a
 * record that nothing points to is passed over, one that counts is copied to the head, or, where
 * more than three quarters of the log count, is evicted, unless it was read since it was last
 * passed.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sherd/service.h>

#define STORE_BYTES_MIN ((uint64_t)16 * 1024)
#define STORE_BYTES_MAX ((uint64_t)32 << 30)
#define STORE_KEY_MAX   UINT16_MAX

struct record {
    uint32_t next; /* ref of the next in its chain; 0: the last */
    uint32_t hash;
    uint32_t value_len;
    uint16_t key_len;
    uint16_t flags;
    char bytes[]; /* key, value */
};

static inline const char *record_value(const struct record *record)
{
    return record->bytes + record->key_len;
}

struct store_head;

#define STORE_SPARES 64u

struct store {
    struct service_region region;
    struct store_head *head;
    uint32_t *buckets;
    uint32_t n_buckets; /* a power of two */
    uint8_t *log;
    uint64_t log_bytes;
    uint64_t record_max; /* bytes of one */
    /* By lengths: records that were replaced or deleted, and may be written over. This process's
     * alone: what a dead one had here the tail passes over. */
    struct record *spares[STORE_SPARES];
};

/* 0; -EINVAL: the region is smaller or larger than the limits above, or not a store. */
int store_open(struct store *store, const struct service_region *region);

/* Asks for the memory that the key's chain begins in, then for what is first in it: some time
 * before it is needed, for many keys at a time. */
void store_prefetch_chain(const struct store *store, uint64_t hash);
void store_prefetch_record(const struct store *store, uint64_t hash);

/* NULL: there is none. hash is the key's, of all whose bits use is made. */
const struct record *store_get(struct store *store, uint64_t hash, const void *key, size_t len);

/* 0; -EMSGSIZE: key and value together are larger than a tenth of the store. value may not lie in
 * it. */
int store_set(struct store *store, uint64_t hash, const void *key, size_t len, const void *value,
    size_t value_len);

/* Whether it was there. */
bool store_delete(struct store *store, uint64_t hash, const void *key, size_t len);

uint64_t store_n_keys(const struct store *store);
uint64_t store_live_bytes(const struct store *store);
uint64_t store_n_evicted(const struct store *store);
