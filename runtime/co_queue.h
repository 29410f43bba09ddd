/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_QUEUE_H
#define SHERD_CO_QUEUE_H
/*
 * co_queue - coroutines that wait for a condition, first in first out
 *
 * Why:         the condition is the caller's own, under a lock of the caller's choice or, within
 *              one context, under none.
 * Use:         co_mutex_lock(&mutex);
 *              while (r == 0 && !condition) r = co_queue_wait(&queue, &mutex);
 *              … and who makes it true, with the mutex held: co_queue_next(&queue);
 * Concurrency: a list of its own lock, so that any thread may wake and cancel. What makes a wait
 *              safe against a wake that comes just before it is the caller's lock, which both hold;
 *              without one, all who wait and wake are of one context.
 * Lifetime:    the caller embeds it, and does not move or free it while somebody waits.
 * Not here:    CoCondition (sherd/co_condition.h), which is woken from anywhere
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CoMutex;
struct co_waiter;

/* The fields are its own. Zero bytes are an empty queue. */
typedef struct CoQueue {
    pthread_mutex_t lock;
    struct co_waiter *first;
    struct co_waiter **last;
} CoQueue;

/* Context: any thread. */
void co_queue_init(CoQueue *queue);

/* Aborts where a coroutine waits. Context: any thread. */
void co_queue_deinit(CoQueue *queue);

/* ---- the lock around a condition ---- */

struct co_lock_ops {
    void (*lock)(void *lock); /* may yield where all that wait with it are coroutines */
    void (*unlock)(void *lock);
};

/* Any lock, as an object and its operations; made by one of the functions below or the caller. */
typedef struct CoLockable {
    void *lock; /* NULL: none */
    const struct co_lock_ops *ops;
} CoLockable;

/* No lock; a CoMutex, or none where mutex is NULL; a lock of threads, which is held for a short
 * time and never over a yield. Context: any thread. */
CoLockable co_lockable_none(void);
CoLockable co_lockable_mutex(struct CoMutex *mutex);
CoLockable co_lockable_pthread(pthread_mutex_t *mutex);

/* ---- waiting ---- */

enum co_queue_flags {
    CO_QUEUE_WAIT_FRONT = 1 << 0, /* before all others: for who was woken and must wait on */
};

/*
 * Waits to be woken, with the lock let go meanwhile and taken again before it returns, whatever it
 * returns. 0: it was woken. -ECANCELED, -ETIMEDOUT: a scope ended, and no wake was used up for it.
 */
int coroutine_fn co_queue_wait_with(CoQueue *queue, CoLockable lock, uint32_t flags);

/* The same with a CoMutex, or NULL for no lock. */
int coroutine_fn co_queue_wait(CoQueue *queue, struct CoMutex *mutex);

/* ---- waking ---- */

/* Wakes the first, or all, that wait. In a coroutine they run after it yields, outside they are
 * scheduled; so the caller's lock may be held. co_queue_next() returns whether there was one.
 * Context: any thread that holds the lock; without a lock, owner loop | coroutine. */
bool co_queue_next(CoQueue *queue);
void co_queue_restart_all(CoQueue *queue);

/* Outside coroutines, with lock held: lets lock go, enters the first, or one after the other all
 * that wait now, and takes lock again. A coroutine of another context is scheduled there.
 * co_enter_next() returns whether there was one. Context: any thread. */
bool co_enter_next(CoQueue *queue, CoLockable lock);
void co_enter_all(CoQueue *queue, CoLockable lock);

/* Context: as co_queue_next(). */
bool co_queue_empty(const CoQueue *queue);

#ifdef __cplusplus
}
#endif
#endif
