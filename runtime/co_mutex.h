/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_MUTEX_H
#define SHERD_CO_MUTEX_H
/*
 * co_mutex - mutual exclusion of coroutines, also over yields
 *
 * Why:         a critical section that waits for a disk must not block its thread meanwhile.
 * Use:         co_mutex_lock(&mutex);  … may yield …  co_mutex_unlock(&mutex);
 * Concurrency: coroutines of any contexts of this process. Those that wait get it first come, first
 *              served; nobody gets in before them. Not recursive: a second lock by the holder
 *              aborts.
 * Lifetime:    the caller embeds it, until each co_mutex_unlock() has returned. A coroutine must
 *              not end with it held.
 * Not here:    waiting for a condition (sherd/co_condition.h, sherd/co_queue.h); ending the wait by
 *              a scope: a lock is taken for a short time, and always.
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct co_mutex_waiter;

/* The fields are its own. Zero bytes are an unlocked mutex. */
typedef struct CoMutex {
    uint32_t locked; /* holder and those who want it */
    uint32_t handoff;
    uint32_t sequence;
    struct co_mutex_waiter *from_push; /* pushed by lockers */
    struct co_mutex_waiter *to_pop;    /* taken over by the unlocker, in order */
    AioContext *ctx;                   /* the holder's, a hint for spinning */
    Coroutine *holder;
} CoMutex;

/* Context: any thread. */
void co_mutex_init(CoMutex *mutex);

/* Waits for its turn. */
void coroutine_fn co_mutex_lock(CoMutex *mutex);

/* Takes it where nobody has it: whether it did. Does not yield. */
bool coroutine_fn co_mutex_trylock(CoMutex *mutex);

/* Hands it to who waits longest, who runs after the caller's next yield. Aborts where the running
 * coroutine does not hold it. */
void coroutine_fn co_mutex_unlock(CoMutex *mutex);

/* Aborts where the running coroutine does not hold it. */
void coroutine_fn co_mutex_assert_locked(const CoMutex *mutex);

#ifdef __cplusplus
}
#endif
#endif
