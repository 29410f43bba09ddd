/* SPDX-License-Identifier: MIT */
#include "runtime/co_queue.h"
/*
 * Waiters are a list under the queue's own lock, which is held for a few instructions and never
 * over a call. Who takes a waiter out of the list wakes its coroutine, once and without the lock;
 * so a wake and the end of a scope that come together are decided by who takes it first, and
 * neither is lost.
 *
 * The caller's lock, where there is one, is let go after the waiter is in the list. Who looks at
 * the list with that lock held therefore sees everyone who waits, and need not take the queue's
 * lock to find that nobody does.
 *
 * Outside coroutines a wake would run the woken coroutine within the waker. co_queue_next()
 * schedules instead; co_enter_next() runs it, and lets the caller's lock go for that: the coroutine
 * takes it.
 *
 * Orderings  first                  then           ordered by                       if broken
 *   EMPTY  waiter in the list   looks whether  the caller's lock, or one thread  a waiter is missed
 */
#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/co_mutex.h"
#include "runtime/co_waiter.h"
#include "runtime/coroutine_inside.h"

/* ---- locks of the caller's ---- */

static void lock_co_mutex(void *lock)
{
    co_mutex_lock(lock);
}

static void unlock_co_mutex(void *lock)
{
    co_mutex_unlock(lock);
}

static void lock_pthread(void *lock)
{
    pthread_mutex_lock(lock);
}

static void unlock_pthread(void *lock)
{
    pthread_mutex_unlock(lock);
}

CoLockable co_lockable_none(void)
{
    return (CoLockable){.lock = NULL};
}

CoLockable co_lockable_mutex(struct CoMutex *mutex)
{
    static const struct co_lock_ops ops = {lock_co_mutex, unlock_co_mutex};

    return (CoLockable){.lock = mutex, .ops = &ops};
}

CoLockable co_lockable_pthread(pthread_mutex_t *mutex)
{
    static const struct co_lock_ops ops = {lock_pthread, unlock_pthread};

    return (CoLockable){.lock = mutex, .ops = &ops};
}

static void take(CoLockable lock)
{
    if (lock.lock)
        lock.ops->lock(lock.lock);
}

static void let_go(CoLockable lock)
{
    if (lock.lock)
        lock.ops->unlock(lock.lock);
}

/* ---- the list, under queue->lock ---- */

static void set_first(CoQueue *queue, struct co_waiter *waiter)
{
    atomic_store_relaxed(&queue->first, waiter); /* EMPTY */
}

static void insert_first(CoQueue *queue, struct co_waiter *waiter)
{
    waiter->next = queue->first;
    waiter->link = &queue->first;
    if (waiter->next)
        waiter->next->link = &waiter->next;
    else
        queue->last = &waiter->next;
    set_first(queue, waiter);
}

static void insert_last(CoQueue *queue, struct co_waiter *waiter)
{
    if (!queue->first) {
        insert_first(queue, waiter);
        return;
    }
    waiter->next = NULL;
    waiter->link = queue->last;
    *queue->last = waiter;
    queue->last = &waiter->next;
}

static void take_out(CoQueue *queue, struct co_waiter *waiter)
{
    if (waiter->next)
        waiter->next->link = waiter->link;
    else
        queue->last = waiter->link;
    if (waiter->link == &queue->first)
        set_first(queue, waiter->next);
    else
        *waiter->link = waiter->next;
    waiter->link = NULL;
}

/* ---- waiting ---- */

static bool withdraw(struct co_wait *wait)
{
    struct co_waiter *waiter = (struct co_waiter *)wait; /* its first field */
    CoQueue *queue = waiter->queue;
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&queue->lock);
    bool was_in_queue = waiter->link != NULL;
    if (was_in_queue) {
        take_out(queue, waiter);
        if (waiter->regrant)
            waiter->regrant(queue, &woken);
    }
    pthread_mutex_unlock(&queue->lock);
    co_wake(&woken);
    return was_in_queue;
}

void co_waiter_join(CoQueue *queue, struct co_waiter *waiter, bool at_front)
{
    waiter->wait.withdraw = withdraw;
    waiter->queue = queue;
    waiter->co = co_wait_self("a wait");
    if (at_front)
        insert_first(queue, waiter);
    else
        insert_last(queue, waiter);
}

int coroutine_fn co_waiter_wait(struct co_waiter *waiter, const char *why)
{
    int r = co_wait(&waiter->wait, why);

    if (waiter->link)
        bug("coroutine %s was woken while it waits in %s", waiter->co->name, why);
    return r;
}

int coroutine_fn co_waiter_sleep(CoQueue *queue, struct co_waiter *waiter, const char *why)
{
    co_waiter_join(queue, waiter, false);
    pthread_mutex_unlock(&queue->lock);
    return co_waiter_wait(waiter, why);
}

/* ---- waking ---- */

struct co_waiter *co_waiter_grant(CoQueue *queue, struct co_woken *woken)
{
    struct co_waiter *waiter = queue->first;

    take_out(queue, waiter);
    if (woken->first)
        *woken->last = waiter;
    else
        woken->first = waiter;
    waiter->next = NULL;
    woken->last = &waiter->next;
    return waiter;
}

void co_waiter_grant_all(CoQueue *queue, struct co_woken *woken)
{
    while (queue->first)
        co_waiter_grant(queue, woken);
}

void co_wake(struct co_woken *woken)
{
    bool is_coroutine = woken->first && in_coroutine();
    struct co_waiter *next;

    for (struct co_waiter *waiter = woken->first; waiter; waiter = next) {
        Coroutine *co = waiter->co;

        next = waiter->next;
        if (is_coroutine)
            aio_co_wake(co);
        else
            aio_co_schedule(co->ctx, co);
    }
}

/* ---- CoQueue ---- */

void co_queue_init(CoQueue *queue)
{
    *queue = (CoQueue){.first = NULL};
    pthread_mutex_init(&queue->lock, NULL);
}

void co_queue_finish(CoQueue *queue, const char *what)
{
    /* Who made the caller the last user may not have let the lock go yet. */
    pthread_mutex_lock(&queue->lock);
    pthread_mutex_unlock(&queue->lock);
    if (queue->first)
        bug("%s ends while coroutine %s waits in it", what, queue->first->co->name);
    pthread_mutex_destroy(&queue->lock);
}

void co_queue_deinit(CoQueue *queue)
{
    co_queue_finish(queue, "a CoQueue");
}

bool co_queue_empty(const CoQueue *queue)
{
    return !atomic_load_relaxed(&queue->first); /* EMPTY */
}

int coroutine_fn co_queue_wait_with(CoQueue *queue, CoLockable lock, uint32_t flags)
{
    struct co_waiter waiter = {.amount = 0};

    pthread_mutex_lock(&queue->lock);
    co_waiter_join(queue, &waiter, flags & CO_QUEUE_WAIT_FRONT);
    pthread_mutex_unlock(&queue->lock);
    let_go(lock);
    int r = co_waiter_wait(&waiter, "co_queue_wait");
    take(lock);
    return r;
}

int coroutine_fn co_queue_wait(CoQueue *queue, struct CoMutex *mutex)
{
    return co_queue_wait_with(queue, co_lockable_mutex(mutex), 0);
}

/* Takes the first where there is one. */
static bool grant_next(CoQueue *queue, struct co_woken *woken)
{
    pthread_mutex_lock(&queue->lock);
    bool found = queue->first != NULL;
    if (found)
        co_waiter_grant(queue, woken);
    pthread_mutex_unlock(&queue->lock);
    return found;
}

bool co_queue_next(CoQueue *queue)
{
    struct co_woken woken = {.first = NULL};

    if (co_queue_empty(queue))
        return false;
    bool found = grant_next(queue, &woken);
    co_wake(&woken);
    return found;
}

void co_queue_restart_all(CoQueue *queue)
{
    struct co_woken woken = {.first = NULL};

    if (co_queue_empty(queue))
        return;
    pthread_mutex_lock(&queue->lock);
    co_waiter_grant_all(queue, &woken);
    pthread_mutex_unlock(&queue->lock);
    co_wake(&woken);
}

/* ---- from outside coroutines ---- */

static void enter_all(struct co_woken *woken, CoLockable lock)
{
    struct co_waiter *next;

    if (in_coroutine())
        bug("co_enter_next or co_enter_all in a coroutine");
    let_go(lock);
    for (struct co_waiter *waiter = woken->first; waiter; waiter = next) {
        next = waiter->next;
        aio_co_wake(waiter->co);
    }
    take(lock);
}

bool co_enter_next(CoQueue *queue, CoLockable lock)
{
    struct co_woken woken = {.first = NULL};

    bool found = grant_next(queue, &woken);
    if (found)
        enter_all(&woken, lock);
    return found;
}

void co_enter_all(CoQueue *queue, CoLockable lock)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&queue->lock);
    co_waiter_grant_all(queue, &woken);
    pthread_mutex_unlock(&queue->lock);
    if (woken.first)
        enter_all(&woken, lock);
}
