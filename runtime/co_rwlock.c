/* SPDX-License-Identifier: MIT */
#include "runtime/co_rwlock.h"
/*
 * `word` counts the readers, or says that a writer has it; and it has a bit for "somebody waits, or
 * has the lock's own lock". While that is clear, anybody changes the word by compare-and-swap. Who
 * sets it has that lock, and while it is set only who has the lock changes the word. It stays set
 * as long as somebody waits.
 *
 * Waiters are one queue of readers and writers. Whatever makes the lock free for the first of them,
 * an unlock or a waiter that gives up, makes it an owner there and then, and the readers next to
 * it: they wake as owners, and nobody gets in between.
 *
 * Orderings  first                  then                    ordered by            if broken
 *   OWN    what the owners did    what the next one does  release, CAS and or   stale data
 *   LOOK   the word               the swap checks it      none: a first guess   -
 *   SELF   the lock               is it oneself?          none: only oneself    -
 *                                                         writes that
 */
#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/co_waiter.h"
#include "runtime/coroutine_inside.h"

#define CONTENDED ((uint64_t)1 << 63)
#define WRITER    ((uint64_t)1 << 62)

enum kind { READ, WRITE }; /* what a waiter waits for, as its amount */

void co_rwlock_init(CoRwlock *lock)
{
    *lock = (CoRwlock){.word = 0};
    co_queue_init(&lock->waiters);
}

void co_rwlock_deinit(CoRwlock *lock)
{
    if ((lock->word & ~CONTENDED) != 0)
        bug("a CoRwlock ends while it is held");
    co_queue_finish(&lock->waiters, "a CoRwlock");
}

/* ---- what a word says, without its CONTENDED ---- */

static bool is_free_for(uint64_t owners, enum kind kind)
{
    return kind == READ ? !(owners & WRITER) : owners == 0;
}

static uint64_t with_owner(uint64_t owners, enum kind kind)
{
    return kind == READ ? owners + 1 : WRITER;
}

static uint64_t without_owner(uint64_t owners)
{
    return owners & WRITER ? 0 : owners - 1;
}

static bool is_writer(const CoRwlock *lock, const Coroutine *self)
{
    return atomic_load_relaxed(&lock->writer) == self; /* SELF */
}

static void set_writer(CoRwlock *lock, Coroutine *co)
{
    atomic_store_relaxed(&lock->writer, co); /* SELF */
}

/* ---- with the lock's own lock ---- */

/* Takes that lock. Returns the owners, whom nobody else changes until leave(). */
static uint64_t enter(CoRwlock *lock)
{
    pthread_mutex_lock(&lock->waiters.lock);
    return atomic_or_seq(&lock->word, CONTENDED) & ~CONTENDED; /* OWN */
}

/* Makes those owners who can be, and lets the word go. */
static void serve(CoRwlock *lock, uint64_t owners, struct co_woken *woken)
{
    CoQueue *waiters = &lock->waiters;

    while (waiters->first && is_free_for(owners, (enum kind)waiters->first->amount)) {
        struct co_waiter *waiter = co_waiter_grant(waiters, woken);

        owners = with_owner(owners, (enum kind)waiter->amount);
    }
    atomic_store_release(&lock->word, waiters->first ? owners | CONTENDED : owners); /* OWN */
}

static void leave(CoRwlock *lock, uint64_t owners)
{
    struct co_woken woken = {.first = NULL};

    serve(lock, owners, &woken);
    pthread_mutex_unlock(&lock->waiters.lock);
    co_wake(&woken);
}

/* For those behind one that gave up; its waiting kept the word CONTENDED. */
static void serve_waiters(CoQueue *waiters, struct co_woken *woken)
{
    CoRwlock *lock = (CoRwlock *)waiters; /* its first field */

    serve(lock, atomic_load_relaxed(&lock->word) & ~CONTENDED, woken); /* LOOK: under the lock */
}

/* ---- taking ---- */

static bool take_quickly(CoRwlock *lock, enum kind kind)
{
    uint64_t word = atomic_load_relaxed(&lock->word); /* LOOK */

    while (!(word & CONTENDED) && is_free_for(word, kind))
        if (atomic_cas_seq(&lock->word, &word, with_owner(word, kind))) /* OWN */
            return true;
    return false;
}

/* Whether it became an owner without waiting; else it has joined. */
static bool take_or_join(CoRwlock *lock, enum kind kind, struct co_waiter *waiter)
{
    uint64_t owners = enter(lock);
    bool takes = !lock->waiters.first && is_free_for(owners, kind);

    if (takes)
        owners = with_owner(owners, kind);
    else
        co_waiter_join(&lock->waiters, waiter, false);
    leave(lock, owners);
    return takes;
}

static int coroutine_fn take(CoRwlock *lock, enum kind kind, const char *function)
{
    struct co_waiter waiter = {.amount = kind, .regrant = serve_waiters};
    Coroutine *self = co_self_in(function);
    int r = 0;

    if (is_writer(lock, self))
        bug("coroutine %s waits in %s for itself", self->name, function);
    if (!take_quickly(lock, kind) && !take_or_join(lock, kind, &waiter))
        r = co_waiter_wait(&waiter, function);
    if (r < 0)
        return r;
    if (kind == WRITE)
        set_writer(lock, self);
    self->locks_held++;
    return 0;
}

int coroutine_fn co_rwlock_rdlock(CoRwlock *lock)
{
    return take(lock, READ, __func__);
}

int coroutine_fn co_rwlock_wrlock(CoRwlock *lock)
{
    return take(lock, WRITE, __func__);
}

/* ---- letting go ---- */

/* Where nobody waits: from just these owners to those. */
static bool change_quickly(CoRwlock *lock, uint64_t from, uint64_t to)
{
    return atomic_cas_seq(&lock->word, &from, to); /* OWN */
}

void coroutine_fn co_rwlock_unlock(CoRwlock *lock)
{
    Coroutine *self = co_self_in(__func__);
    uint64_t word = atomic_load_relaxed(&lock->word); /* LOOK */

    if ((word & ~CONTENDED) == 0 || (word & WRITER && !is_writer(lock, self)))
        bug("coroutine %s unlocks a CoRwlock that it does not hold", self->name);
    if (word & WRITER)
        set_writer(lock, NULL);
    self->locks_held--;
    while (!(word & CONTENDED))
        if (atomic_cas_seq(&lock->word, &word, without_owner(word))) /* OWN */
            return;
    leave(lock, without_owner(enter(lock)));
}

/* ---- changing over ---- */

int coroutine_fn co_rwlock_upgrade(CoRwlock *lock)
{
    struct co_waiter waiter = {.amount = WRITE, .regrant = serve_waiters};
    Coroutine *self = co_self_in(__func__);
    uint64_t owners = atomic_load_relaxed(&lock->word) & ~CONTENDED; /* LOOK */
    int r = 0;

    if (owners == 0 || owners & WRITER)
        bug("coroutine %s upgrades a CoRwlock that it does not read", self->name);
    if (!change_quickly(lock, 1, WRITER)) {
        owners = enter(lock);
        co_waiter_join(&lock->waiters, &waiter, false);
        leave(lock, without_owner(owners));
        r = co_waiter_wait(&waiter, __func__);
    }
    if (r < 0)
        self->locks_held--;
    else
        set_writer(lock, self);
    return r;
}

void coroutine_fn co_rwlock_downgrade(CoRwlock *lock)
{
    Coroutine *self = co_self_in(__func__);

    if (!is_writer(lock, self))
        bug("coroutine %s downgrades a CoRwlock that it does not write", self->name);
    set_writer(lock, NULL);
    if (change_quickly(lock, WRITER, 1))
        return;
    enter(lock);
    leave(lock, 1);
}
