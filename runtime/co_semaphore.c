/* SPDX-License-Identifier: MIT */
#include "runtime/co_semaphore.h"
/*
 * `word` is how many nobody has, and a bit for "somebody waits, or has the lock". While that is
 * clear, anybody changes the word by compare-and-swap. Who sets it has the lock, and while it is
 * set only who has the lock changes the word: so there one can count, look at those who wait and
 * decide at leisure. It stays set as long as somebody waits.
 *
 * What is released goes to those who wait, in order and as far as it reaches, before the lock is
 * let go: they wake with it in hand, and nobody can get in between. Who gives up lets those behind
 * it go who want less.
 *
 * Orderings  first                  then                     ordered by             if broken
 *   GIVE   what the giver did     taken by who sees it     release, CAS and or    stale data
 *   LOOK   the word               the swap that checks it  none: a first guess    -
 */
#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/co_waiter.h"

#define CONTENDED ((uint64_t)1 << 63)
#define MOST      (CONTENDED - 1)

void co_semaphore_init(CoSemaphore *semaphore, uint64_t available)
{
    if (available > MOST)
        bug("a CoSemaphore of %llu", (unsigned long long)available);
    co_queue_init(&semaphore->waiters);
    semaphore->word = available;
}

void co_semaphore_deinit(CoSemaphore *semaphore)
{
    co_queue_finish(&semaphore->waiters, "a CoSemaphore");
}

/* ---- without the lock ---- */

static bool take_quickly(CoSemaphore *semaphore, uint64_t n)
{
    uint64_t word = atomic_load_relaxed(&semaphore->word); /* LOOK */

    while (!(word & CONTENDED) && word >= n)
        if (atomic_cas_seq(&semaphore->word, &word, word - n)) /* GIVE */
            return true;
    return false;
}

static bool give_quickly(CoSemaphore *semaphore, uint64_t n)
{
    uint64_t word = atomic_load_relaxed(&semaphore->word); /* LOOK */

    while (!(word & CONTENDED) && n <= MOST - word)
        if (atomic_cas_seq(&semaphore->word, &word, word + n)) /* GIVE */
            return true;
    return false;
}

/* ---- with the lock ---- */

/* Returns how many there are; nobody else changes that until leave(). */
static uint64_t enter(CoSemaphore *semaphore)
{
    return atomic_or_seq(&semaphore->word, CONTENDED) & ~CONTENDED; /* GIVE */
}

static void leave(CoSemaphore *semaphore, uint64_t available)
{
    if (semaphore->waiters.first)
        available |= CONTENDED;
    atomic_store_release(&semaphore->word, available); /* GIVE */
}

/* The same, once those who wait have theirs. */
static void serve_and_leave(CoSemaphore *semaphore, uint64_t available, struct co_woken *woken)
{
    CoQueue *waiters = &semaphore->waiters;

    while (waiters->first && waiters->first->amount <= available) {
        available -= waiters->first->amount;
        co_waiter_grant(waiters, woken);
    }
    leave(semaphore, available);
}

/* For those behind one that gave up. */
static void serve_waiters(CoQueue *waiters, struct co_woken *woken)
{
    CoSemaphore *semaphore = (CoSemaphore *)waiters; /* its first field */

    serve_and_leave(semaphore, enter(semaphore), woken);
}

/* Takes n, or joins with waiter, unless that is NULL: whether it took. */
static bool take_or_join(CoSemaphore *semaphore, uint64_t n, struct co_waiter *waiter)
{
    pthread_mutex_lock(&semaphore->waiters.lock);
    uint64_t available = enter(semaphore);
    bool takes = !semaphore->waiters.first && available >= n;
    if (takes)
        available -= n;
    else if (waiter)
        co_waiter_join(&semaphore->waiters, waiter, false);
    leave(semaphore, available);
    pthread_mutex_unlock(&semaphore->waiters.lock);
    return takes;
}

/* ---- for all ---- */

int coroutine_fn co_semaphore_acquire(CoSemaphore *semaphore, uint64_t n)
{
    struct co_waiter waiter = {.amount = n, .regrant = serve_waiters};

    if (take_quickly(semaphore, n) || take_or_join(semaphore, n, &waiter))
        return 0;
    return co_waiter_wait(&waiter, __func__);
}

bool co_semaphore_try_acquire(CoSemaphore *semaphore, uint64_t n)
{
    return take_quickly(semaphore, n) || take_or_join(semaphore, n, NULL);
}

void co_semaphore_release(CoSemaphore *semaphore, uint64_t n)
{
    struct co_woken woken = {.first = NULL};

    if (give_quickly(semaphore, n))
        return;
    pthread_mutex_lock(&semaphore->waiters.lock);
    uint64_t available = enter(semaphore);
    if (n > MOST - available)
        bug("a CoSemaphore of %llu is released by %llu more", (unsigned long long)available,
            (unsigned long long)n);
    serve_and_leave(semaphore, available + n, &woken);
    pthread_mutex_unlock(&semaphore->waiters.lock);
    co_wake(&woken);
}

uint64_t co_semaphore_available(const CoSemaphore *semaphore)
{
    return atomic_load_relaxed(&semaphore->word) & ~CONTENDED; /* LOOK */
}
