/* SPDX-License-Identifier: MIT */
#ifndef SHERD_STORE_H
#define SHERD_STORE_H
/*
 * store - keys and values in a region of shared memory, whole after a death at any instruction
 *
 * Why:         a cache that a crash empties sends its whole load to what it was to spare.
 * Use:         prepare(): service_plan_region(plan, "store", bytes);
 *              start():   service_region(home, "store", &region);
 *                         r = store_open(&region, &store);
 *              a method:  r = store_set(store, "key", 3, "value", 5);
 *                         value = store_get(store, "key", 3, &len);
 *              in struct service: .stop = store_close, where the store is all of its state
 *              The region is the store's alone, its mark included.
 * Concurrency: owner loop of the shard; nothing here waits
 * Lifetime:    store_open() to store_close(). What is stored is the region's: a replacement of the
 *              shard opens it as it was left, each key as before the change that a death
 *              interrupted or as after it, and all others as they were.
 * Not here:    which shard has a key (service_shard_of_key()); a time after which a key goes
 *
 * Where it is full, keys are evicted that were not read for longest. What is written moves about in
 * the region as it is used, so that there is no fragment that nobody can use; a quarter of the
 * region is kept free for that.
 */
#include "shard/service.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STORE_BYTES_MIN ((uint64_t)16 * 1024) /* of a region */
#define STORE_BYTES_MAX ((uint64_t)32 << 30)
#define STORE_KEY_MAX   65535u
#define STORE_PAIR_MAX  ((size_t)640 * 1024) /* key and value, or a 40th of the region if less */

struct store;

/* 0; -EINVAL: the region is smaller or larger than the limits above, or something else was kept in
 * it; -ENOMEM; whatever else getrandom(2) says. After a death in the middle of a change it looks
 * through all keys once: -EINVAL if what died had written where it had no right to. */
int store_open(const struct service_region *region, struct store **ret);

/* store, a struct store, may be NULL. It may be a service's stop() as it is. */
void store_close(void *store);

/* The key is going to be asked for or set soon: what it takes is fetched from memory, while others
 * are announced or served. Of use where some keys or more are known before the first is served. */
void store_prefetch(struct store *store, const void *key, size_t len);

/* The value, in the store, with its length: until the next store_set() or store_delete(), so not
 * over anything that waits. NULL: there is no such key. */
const void *store_get(struct store *store, const void *key, size_t len, size_t *ret_value_len);

/* Makes it the key's value, which may not lie in the store. 0; -EMSGSIZE: more than the limits
 * above, and nothing has changed. May evict others. */
int store_set(
    struct store *store, const void *key, size_t len, const void *value, size_t value_len);

/* Adds to the value, which is a whole number as it is written; to 0 where there is no such key. 0
 * with what that makes; as store_set(), and -EINVAL: it is no number, -ERANGE: it would become less
 * or more than fits: nothing has changed. */
int store_add(struct store *store, const void *key, size_t len, int64_t n, int64_t *ret);

/* Whether it was there. */
bool store_delete(struct store *store, const void *key, size_t len);

/* Keys that there are; the bytes that they take, with their values; how many were evicted since the
 * instance began. */
uint64_t store_n_keys(const struct store *store);
uint64_t store_live_bytes(const struct store *store);
uint64_t store_n_evicted(const struct store *store);

#ifdef __cplusplus
}
#endif
#endif
