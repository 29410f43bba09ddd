/* SPDX-License-Identifier: MIT */
#include "runtime/doorbell.h"
/*
 * The protocol is the store-buffer pattern twice over: each side stores, fences, and loads what the
 * other side stores. A sender stores `notified` and loads `notify_me`; a sleeper stores `notify_me`
 * and loads `notified`. With both fences at least one of them sees the other, so either the eventfd
 * is written or the wait does not block. Without either fence both may miss, which is a lost
 * wake-up. A nudge is the same with the work itself in the place of `notified`.
 *
 * What was published is itself handed over by whatever holds it (a ring's slot, a list's head); the
 * doorbell says only that it is time to look.
 *
 * The eventfd is written whenever notify_me is raised, also where `notified` was set already: who
 * set it may not have come as far as the write.
 *
 * Orderings        first             then              ordered by                if broken
 *   PUB    work              notified = 1      release, acquire in accept  woken, but sees no work
 *   SLEEP  own store of      own load of       seq_cst fence in ring and   both miss: the sleeper
 *          notified (sender) notify_me         nudge, and in               sleeps on published work
 *          or notify_me      or notified       prepare_sleep
 *   DOWN   the wait          notify_me -= 2    release, load in ring       a ring saves its write
 *                                                                          while the wait goes on
 *   KNOCK  notified = 1      write of the      seq_cst fence in knock,     woken, and asleep again
 *                            eventfd           and SLEEP's in prepare_     on work that it did not
 *                                              sleep, after the read       see (not on Linux, where
 *                                                                          the eventfd's lock
 *                                                                          orders)
 *   TAKE   notified = 0      loads of work     seq_cst fence in accept     work is seen a turn late:
 *                                                                          the look behind SLEEP's
 *                                                                          fence finds it
 */
#include <errno.h>
#include <unistd.h>

#define NOTIFY_ME_OUTER 1 /* an outer loop's, between prepare and end */
#define NOTIFY_ME_STEP  2

static void write_eventfd(int fd)
{
    const uint64_t one = 1;
    int saved_errno = errno; /* callers include signal handlers */
    ssize_t n;

    do {
        n = write(fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so the fd is readable, which is all that is wanted. */
    errno = saved_errno;
}

bool doorbell_nudge_home(const struct doorbell *bell)
{
    if (atomic_load_acquire(&bell->words->notify_me) == 0) /* SLEEP, DOWN */
        return false;
    write_eventfd(bell->fd);
    return true;
}

bool doorbell_nudge(const struct doorbell *bell)
{
    atomic_full_fence(); /* SLEEP */
    return doorbell_nudge_home(bell);
}

bool doorbell_ring(const struct doorbell *bell)
{
    atomic_store_release(&bell->words->notified, 1); /* PUB */
    return doorbell_nudge(bell);
}

void doorbell_knock(const struct doorbell *bell)
{
    atomic_store_release(&bell->words->notified, 1); /* PUB */
    atomic_full_fence();                             /* KNOCK */
    write_eventfd(bell->fd);
}

bool doorbell_prepare_sleep(const struct doorbell *bell)
{
    uint32_t *notify_me = &bell->words->notify_me;

    /* Two accesses do for one writer; nobody else stores here. */
    atomic_store_relaxed(notify_me, atomic_load_relaxed(notify_me) + NOTIFY_ME_STEP); /* SLEEP */
    atomic_full_fence();                                                              /* SLEEP */
    return !doorbell_is_rung(bell);
}

void doorbell_end_sleep(const struct doorbell *bell)
{
    uint32_t *notify_me = &bell->words->notify_me;

    atomic_store_release(notify_me, atomic_load_relaxed(notify_me) - NOTIFY_ME_STEP); /* DOWN */
}

bool doorbell_prepare_outer(const struct doorbell *bell)
{
    uint32_t *notify_me = &bell->words->notify_me;

    atomic_store_relaxed(notify_me, atomic_load_relaxed(notify_me) | NOTIFY_ME_OUTER); /* SLEEP */
    atomic_full_fence();                                                               /* SLEEP */
    return !doorbell_is_rung(bell);
}

void doorbell_end_outer(const struct doorbell *bell)
{
    uint32_t *notify_me = &bell->words->notify_me;

    atomic_store_release(
        notify_me, atomic_load_relaxed(notify_me) & ~(uint32_t)NOTIFY_ME_OUTER); /* DOWN */
}

bool doorbell_accept(const struct doorbell *bell)
{
    /* One not yet seen stays, and keeps the next wait from blocking. */
    if (!doorbell_is_rung(bell))
        return false;
    atomic_xchg_seq(&bell->words->notified, 0);
    atomic_full_fence(); /* TAKE */
    return true;
}

void doorbell_drain_fd(const struct doorbell *bell)
{
    uint64_t count;
    ssize_t n;

    do {
        n = read(bell->fd, &count, sizeof count);
    } while (n < 0 && errno == EINTR);
}
