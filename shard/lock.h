/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * lock - a mutex between coroutines of all shards, which has a home shard that serialises it
 *
 * Why:         what two shards must not do at once is rare, and may wait; what it must not do is
 *              hang, or be forgotten, because one of them died. No word in shared memory is spun
 *              on.
 * Use:         struct shard_mutex mutex = shard_mutex_named(mesh, "index", 5);
 *              int r = shard_mutex_lock(mesh, &mutex, deadline_ns);
 *              if (r == -EOWNERDEAD) { …make whole what it guards…;
 *                                      shard_mutex_consistent(mesh, &mutex); }
 *              else if (r < 0) return r;
 *              …
 *              shard_mutex_unlock(mesh, &mutex);
 * Concurrency: coroutine of the mesh's loop. The coroutine that locked owns the lock; it alone may
 *              unlock, and it may not move to another shard while it holds one
 *              (shard_mutex_is_held_by()).
 * Lifetime:    a lock exists while it is held, waited for or marked; its number alone says which
 *              one is meant. What a served call, or a portable coroutine, still holds when its
 *              function returns is let go as if its owner had died; any other coroutine that ends
 *              so is a bug().
 * Not here:    locks within a shard (runtime/co_mutex.h); shared holders and counts, which
 *              what can be built of several of these
 *
 * Who asks first is served first, as they come to the home. What a death does:
 *   holder's shard  the next one gets the lock, with -EOWNERDEAD; so does each after it, until one
 *                   has called shard_mutex_consistent()
 *   home            holders keep their locks, which stand in the home's part of the segment; those
 *                   who wait stand in line again with the replacement
 *   home for good   who waits and who comes gets -EHOSTDOWN; holders hold on, and unlock() is 0
 *   who waits       its place is gone
 */
#include "runtime/coroutine.h"
#include "shard/mesh.h"

/* Any two with the same fields are the same lock. */
struct shard_mutex {
    uint64_t id;
    uint32_t home; /* a shard */
};

/* The lock that belongs to a name: the same in every shard. Names whose 64-bit hashes are equal
 * share a lock. */
struct shard_mutex shard_mutex_named(const struct mesh *mesh, const void *name, size_t len);

/*
 * Waits for the lock. 0: held. -EOWNERDEAD: held, and marked: a holder before died with it.
 * Else not held: -ETIMEDOUT (deadline_ns, CLOCK_MONOTONIC; INT64_MAX: none; or a scope's),
 * -ECANCELED (a scope's), -EDEADLK: this coroutine holds it. -EHOSTDOWN: the home is given up, or
 * the supervisor of the instance is gone. -ENOSPC: the home has SEGMENT_LOCKS others, or too many
 * wait there. -ENOMEM. -ENODEV: no such home, or this is the gateway. Context: coroutine.
 */
int coroutine_fn shard_mutex_lock(
    struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns);

/* As shard_mutex_lock(), but -EBUSY where it is not free: waits for the home's answer alone, and
 * thus also for the replacement of a dead home. Context: coroutine. */
int coroutine_fn shard_mutex_trylock(
    struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns);

/* Gives up the lock, without waiting: where the home is dead, its replacement will be told. 0;
 * -EPERM: not held by this coroutine. Context: coroutine. */
int shard_mutex_unlock(struct mesh *mesh, const struct shard_mutex *mutex);

/* What the lock guards is whole again: unlock() will take the mark off. 0; -EPERM as above;
 * -EINVAL: it was not marked. Context: coroutine. */
int shard_mutex_consistent(struct mesh *mesh, const struct shard_mutex *mutex);

/* Whether the coroutine holds any lock, or waits for one. Context: owner loop. */
bool shard_mutex_is_held_by(const struct mesh *mesh, const Coroutine *co);
