/* SPDX-License-Identifier: MIT */
#include "runtime/co_rwlock.h"
/*
 * Waiters are one queue of readers and writers. Whatever makes the lock free for the first of them,
 * a wake or a waiter that gives up, makes it an owner there and then, and the readers next to it:
 * they wake as owners, and nobody gets in between.
 */
#include "runtime/bug.h"
#include "runtime/co_waiter.h"
#include "runtime/coroutine_inside.h"

#define WRITER (-1)

enum kind { READ, WRITE }; /* what a waiter waits for, as its amount */

void co_rwlock_init(CoRwlock *lock)
{
    *lock = (CoRwlock){.n_owners = 0};
    co_queue_init(&lock->waiters);
}

void co_rwlock_deinit(CoRwlock *lock)
{
    if (lock->n_owners != 0)
        bug("a CoRwlock ends while it is held");
    co_queue_finish(&lock->waiters, "a CoRwlock");
}

/* ---- under the lock ---- */

static bool is_free_for(const CoRwlock *lock, enum kind kind)
{
    return kind == READ ? lock->n_owners >= 0 : lock->n_owners == 0;
}

static void own(CoRwlock *lock, enum kind kind, Coroutine *co)
{
    if (kind == READ) {
        lock->n_owners++;
    } else {
        lock->n_owners = WRITER;
        lock->writer = co;
    }
}

static void serve_waiters(CoQueue *waiters, struct co_woken *woken)
{
    CoRwlock *lock = (CoRwlock *)waiters; /* its first field */

    while (waiters->first && is_free_for(lock, (enum kind)waiters->first->amount)) {
        struct co_waiter *waiter = co_waiter_grant(waiters, woken);

        own(lock, (enum kind)waiter->amount, waiter->co);
    }
}

/* ---- taking ---- */

/* Takes the lock's own lock, which the caller lets go. */
static Coroutine *begin(CoRwlock *lock, const char *function)
{
    Coroutine *self = coroutine_self();

    if (!self)
        bug("%s outside a coroutine", function);
    pthread_mutex_lock(&lock->waiters.lock);
    return self;
}

static int coroutine_fn take(CoRwlock *lock, enum kind kind, const char *function)
{
    struct co_waiter waiter = {.amount = kind, .regrant = serve_waiters};
    Coroutine *self = begin(lock, function);
    int r = 0;

    if (lock->writer == self)
        bug("coroutine %s waits in %s for itself", self->name, function);
    if (!lock->waiters.first && is_free_for(lock, kind)) {
        own(lock, kind, self);
        pthread_mutex_unlock(&lock->waiters.lock);
    } else {
        r = co_waiter_sleep(&lock->waiters, &waiter, function);
    }
    if (r == 0)
        self->locks_held++;
    return r;
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

/* Lets the lock's own lock go and wakes whom it was given to. */
static void serve_and_unlock(CoRwlock *lock)
{
    struct co_woken woken = {.first = NULL};

    serve_waiters(&lock->waiters, &woken);
    pthread_mutex_unlock(&lock->waiters.lock);
    co_wake(&woken);
}

void coroutine_fn co_rwlock_unlock(CoRwlock *lock)
{
    Coroutine *self = begin(lock, __func__);

    if (lock->n_owners == 0 || (lock->writer && lock->writer != self))
        bug("coroutine %s unlocks a CoRwlock that it does not hold", self->name);
    if (lock->writer) {
        lock->writer = NULL;
        lock->n_owners = 0;
    } else {
        lock->n_owners--;
    }
    self->locks_held--;
    serve_and_unlock(lock);
}

/* ---- changing over ---- */

int coroutine_fn co_rwlock_upgrade(CoRwlock *lock)
{
    struct co_waiter waiter = {.amount = WRITE, .regrant = serve_waiters};
    Coroutine *self = begin(lock, __func__);

    if (lock->n_owners <= 0)
        bug("coroutine %s upgrades a CoRwlock that it does not read", self->name);
    if (lock->n_owners == 1 && !lock->waiters.first) {
        own(lock, WRITE, self);
        pthread_mutex_unlock(&lock->waiters.lock);
        return 0;
    }
    co_waiter_join(&lock->waiters, &waiter, false);
    lock->n_owners--;
    serve_and_unlock(lock);
    int r = co_waiter_wait(&waiter, __func__);
    if (r < 0)
        self->locks_held--;
    return r;
}

void coroutine_fn co_rwlock_downgrade(CoRwlock *lock)
{
    Coroutine *self = begin(lock, __func__);

    if (lock->writer != self)
        bug("coroutine %s downgrades a CoRwlock that it does not write", self->name);
    lock->writer = NULL;
    lock->n_owners = 1;
    serve_and_unlock(lock);
}
