/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_RWLOCK_H
#define SHERD_CO_RWLOCK_H
/*
 * co_rwlock - one writer or many readers, of coroutines, also over yields
 *
 * Why:         what is read often and changed seldom need not make its readers wait for each other.
 * Use:         r = co_rwlock_rdlock(&lock);  if (r < 0) … a scope ended
 *              …  co_rwlock_unlock(&lock);
 * Concurrency: coroutines of any contexts. First come, first served, between readers and writers: a
 *              reader queues behind a writer that waits, so neither starves; and so a reader that
 *              takes it a second time may wait for ever.
 * Lifetime:    the caller embeds it. A coroutine must not end with it held.
 * Not here:    a lock whose wait no scope ends (sherd/co_mutex.h)
 */
#include "runtime/co_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The fields are its own. Zero bytes are an unlocked lock. */
typedef struct CoRwlock {
    CoQueue waiters;
    uint64_t word;     /* how many readers, or a writer; and whether somebody waits */
    Coroutine *writer; /* who has it, or NULL */
} CoRwlock;

/* Context: any thread. */
void co_rwlock_init(CoRwlock *lock);

/* Aborts where a coroutine has it or waits. Context: any thread. */
void co_rwlock_deinit(CoRwlock *lock);

/* Wait for it. 0; -ECANCELED or -ETIMEDOUT where a scope ended first: it is not held. Abort where
 * the running coroutine has it as writer. */
int coroutine_fn co_rwlock_rdlock(CoRwlock *lock);
int coroutine_fn co_rwlock_wrlock(CoRwlock *lock);

/* Lets go what the running coroutine has, as reader or writer, and those who wait next have it. */
void coroutine_fn co_rwlock_unlock(CoRwlock *lock);

/*
 * From reader to writer. Not in one step: unless it is the only owner and nobody waits, others that
 * came before may write in between, and what was read must be read again. Errors as above: then it
 * is not held at all any more.
 */
int coroutine_fn co_rwlock_upgrade(CoRwlock *lock);

/* From writer to reader, in one step and without waiting. Readers that wait next have it too. */
void coroutine_fn co_rwlock_downgrade(CoRwlock *lock);

#ifdef __cplusplus
}
#endif
#endif
