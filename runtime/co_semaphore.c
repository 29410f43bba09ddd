/* SPDX-License-Identifier: MIT */
#include "runtime/co_semaphore.h"
/*
 * What is released goes to those who wait, in order and as far as it reaches, before the lock is let
 * go: they wake with it in hand, and nobody can get in between. Who gives up lets those behind it go
 * who want less.
 */
#include "runtime/bug.h"
#include "runtime/co_waiter.h"

/* Under the lock. */
static void serve_waiters(CoQueue *waiters, struct co_woken *woken)
{
    CoSemaphore *semaphore = (CoSemaphore *)waiters; /* its first field */

    while (waiters->first && waiters->first->amount <= semaphore->available) {
        semaphore->available -= waiters->first->amount;
        co_waiter_grant(waiters, woken);
    }
}

void co_semaphore_init(CoSemaphore *semaphore, uint64_t available)
{
    co_queue_init(&semaphore->waiters);
    semaphore->available = available;
}

void co_semaphore_deinit(CoSemaphore *semaphore)
{
    co_queue_finish(&semaphore->waiters, "a CoSemaphore");
}

/* Under the lock. */
static bool take_now(CoSemaphore *semaphore, uint64_t n)
{
    if (semaphore->waiters.first || semaphore->available < n)
        return false;
    semaphore->available -= n;
    return true;
}

int coroutine_fn co_semaphore_acquire(CoSemaphore *semaphore, uint64_t n)
{
    struct co_waiter waiter = {.amount = n, .regrant = serve_waiters};

    pthread_mutex_lock(&semaphore->waiters.lock);
    if (!take_now(semaphore, n))
        return co_waiter_sleep(&semaphore->waiters, &waiter, __func__);
    pthread_mutex_unlock(&semaphore->waiters.lock);
    return 0;
}

bool co_semaphore_try_acquire(CoSemaphore *semaphore, uint64_t n)
{
    pthread_mutex_lock(&semaphore->waiters.lock);
    bool taken = take_now(semaphore, n);
    pthread_mutex_unlock(&semaphore->waiters.lock);
    return taken;
}

void co_semaphore_release(CoSemaphore *semaphore, uint64_t n)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&semaphore->waiters.lock);
    if (n > UINT64_MAX - semaphore->available)
        bug("a CoSemaphore of %llu is released by %llu more",
            (unsigned long long)semaphore->available, (unsigned long long)n);
    semaphore->available += n;
    serve_waiters(&semaphore->waiters, &woken);
    pthread_mutex_unlock(&semaphore->waiters.lock);
    co_wake(&woken);
}

uint64_t co_semaphore_available(CoSemaphore *semaphore)
{
    pthread_mutex_lock(&semaphore->waiters.lock);
    uint64_t available = semaphore->available;
    pthread_mutex_unlock(&semaphore->waiters.lock);
    return available;
}
