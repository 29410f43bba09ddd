/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_CONDITION_H
#define SHERD_CO_CONDITION_H
/*
 * co_condition - a condition variable for coroutines
 *
 * Why:         waiting until something under a lock is as it should be, told by whoever made it so:
 *              a coroutine of any context, a callback, a thread that has no loop at all.
 * Use:         co_mutex_lock(&mutex);
 *              while (r == 0 && !ready)
 *                  r = co_condition_wait(&condition, co_lockable_mutex(&mutex));
 *              co_mutex_unlock(&mutex);
 *              elsewhere: make it ready with the lock held; co_condition_signal(&condition);
 * Concurrency: any thread. A wake between the waiter's look and its sleep is not lost, so long as
 *              the condition changes under the lock that the waiter brings.
 * Lifetime:    the caller embeds it
 * Not here:    conditions that are a number (sherd/co_semaphore.h, sherd/co_wait_group.h)
 */
#include "runtime/co_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The fields are its own. Zero bytes are a condition that nobody waits for. */
typedef struct CoCondition {
    CoQueue waiters;
} CoCondition;

/* Context: any thread. */
void co_condition_init(CoCondition *condition);

/* Aborts where a coroutine waits. Context: any thread. */
void co_condition_deinit(CoCondition *condition);

/* Lets lock go, waits for a signal, takes lock again whatever it returns. 0; -ECANCELED or
 * -ETIMEDOUT where a scope ended first: then a signal meant for one went to the next. */
int coroutine_fn co_condition_wait(CoCondition *condition, CoLockable lock);

/* Wakes who waits longest, or all. In a coroutine they run after it yields, outside they are
 * scheduled, so the lock may be held or not. Context: any thread. */
void co_condition_signal(CoCondition *condition);
void co_condition_broadcast(CoCondition *condition);

#ifdef __cplusplus
}
#endif
#endif
