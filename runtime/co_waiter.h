/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_waiter - one coroutine in a CoQueue, for those who build something on one
 *
 * Why:         semaphores, channels and locks differ in what they count under the queue's lock and
 *              in whom they let go; not in how one waits, is woken and gives up.
 * Use:         struct co_waiter waiter = {.amount = n, .regrant = regrant};
 *              lock(&queue->lock); if (cannot have it) r = co_waiter_sleep(queue, &waiter, …);
 *              and who lets others go, under the lock:
 *              struct co_woken woken = {0}; … co_waiter_grant(queue, &woken); …
 *              unlock; co_wake(&woken);
 * Concurrency: any thread. A waiter is in the queue or taken, which queue->lock decides; who takes
 *              it wakes it. What the waiter is given is written before, under the lock.
 * Lifetime:    on the stack of the coroutine that waits: after the wake it may be gone.
 * Not here:    how a scope ends the wait (runtime/co_wait.h)
 */
#include "runtime/co_queue.h"
#include "runtime/co_wait.h"

/* Taken and to be woken, in this order. */
struct co_woken {
    struct co_waiter *first;
    struct co_waiter **last;
};

struct co_waiter {
    struct co_wait wait;
    CoQueue *queue;
    Coroutine *co;
    struct co_waiter *next;
    struct co_waiter **link; /* NULL: in no queue */

    /* The user's. */
    uint64_t amount; /* how much it waits for, or what for */
    void *data;      /* what it brings or wants */
    bool is_granted; /* it was given what it waits for, and not merely woken */

    /* Lets those go who waited behind one that gave up. NULL: none do. Under queue->lock. */
    void (*regrant)(CoQueue *queue, struct co_woken *woken);
};

/*
 * With queue->lock held: joins the queue at its end, or at its front, lets the lock go and waits.
 * Returns what co_wait() does: 0 where it was taken, else it was not and is in no queue.
 */
int coroutine_fn co_waiter_sleep(CoQueue *queue, struct co_waiter *waiter, const char *why);

/* Its two halves: joins, under the lock; waits, without it. */
void co_waiter_join(CoQueue *queue, struct co_waiter *waiter, bool at_front);
int coroutine_fn co_waiter_wait(struct co_waiter *waiter, const char *why);

/* Takes the first, which must be there, out of the queue and appends it to woken. Under
 * queue->lock. */
struct co_waiter *co_waiter_grant(CoQueue *queue, struct co_woken *woken);

/* Takes all of them. Under queue->lock. */
void co_waiter_grant_all(CoQueue *queue, struct co_woken *woken);

/* Wakes them all, without the lock. In a coroutine they run after it yields; outside they are
 * scheduled, so that nobody's code runs within the caller. Context: any thread. */
void co_wake(struct co_woken *woken);

/* Aborts where somebody waits. what is "a CoSemaphore". */
void co_queue_finish(CoQueue *queue, const char *what);
