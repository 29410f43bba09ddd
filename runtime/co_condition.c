/* SPDX-License-Identifier: MIT */
#include "runtime/co_condition.h"
/*
 * A CoQueue whose wakes always take the queue's lock. A waiter is in the list before it lets the
 * caller's lock go; who changed the condition under that lock took it later, and so finds it there.
 */
#include "runtime/co_waiter.h"

void co_condition_init(CoCondition *condition)
{
    co_queue_init(&condition->waiters);
}

void co_condition_deinit(CoCondition *condition)
{
    co_queue_finish(&condition->waiters, "a CoCondition");
}

int coroutine_fn co_condition_wait(CoCondition *condition, CoLockable lock)
{
    return co_queue_wait_with(&condition->waiters, lock, 0);
}

void co_condition_signal(CoCondition *condition)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&condition->waiters.lock);
    if (condition->waiters.first)
        co_waiter_grant(&condition->waiters, &woken);
    pthread_mutex_unlock(&condition->waiters.lock);
    co_wake(&woken);
}

void co_condition_broadcast(CoCondition *condition)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&condition->waiters.lock);
    co_waiter_grant_all(&condition->waiters, &woken);
    pthread_mutex_unlock(&condition->waiters.lock);
    co_wake(&woken);
}
