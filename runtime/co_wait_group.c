/* SPDX-License-Identifier: MIT */
#include "runtime/co_wait_group.h"
/*
 * Who is done counts and takes the waiters in one locked section, and wakes them after it. A waiter
 * that sees 0 without sleeping has taken the lock after that section; so either way the group is
 * not touched any more when the wait returns.
 */
#include "runtime/bug.h"
#include "runtime/co_waiter.h"

void co_wait_group_init(CoWaitGroup *group)
{
    co_queue_init(&group->waiters);
    group->n_left = 0;
}

void co_wait_group_deinit(CoWaitGroup *group)
{
    co_queue_finish(&group->waiters, "a CoWaitGroup");
}

void co_wait_group_add(CoWaitGroup *group, uint64_t n)
{
    pthread_mutex_lock(&group->waiters.lock);
    group->n_left += n;
    pthread_mutex_unlock(&group->waiters.lock);
}

void co_wait_group_done(CoWaitGroup *group)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&group->waiters.lock);
    if (group->n_left == 0)
        bug("a CoWaitGroup is done more often than was added");
    if (--group->n_left == 0)
        co_waiter_grant_all(&group->waiters, &woken);
    pthread_mutex_unlock(&group->waiters.lock);
    co_wake(&woken);
}

int coroutine_fn co_wait_group_wait(CoWaitGroup *group)
{
    struct co_waiter waiter = {.amount = 0};

    pthread_mutex_lock(&group->waiters.lock);
    if (group->n_left > 0)
        return co_waiter_sleep(&group->waiters, &waiter, __func__);
    pthread_mutex_unlock(&group->waiters.lock);
    return 0;
}
