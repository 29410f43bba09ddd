/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine.h"
/*
 * CoMutex counts in `locked` its holder and all who want it. Who counts itself in from 0 holds it; the
 * others push a record that lies on their stack and yield. Ownership passes on directly, in the order
 * of pushing: who unlocks takes the oldest record and wakes that coroutine, which then holds it, so
 * that no newcomer gets in between.
 *
 * The records are two lists: from_push, newest first, onto which any thread pushes, and to_pop, oldest
 * first, which belongs to whoever is responsible for the next hand-over. That is the holder, until it
 * finds in unlock that somebody is counted in but has not pushed yet. It does not wait for that: it
 * leaves a token in `handoff`, and responsibility is with the one who swaps the token for 0. A locker
 * looks for a token after its push, the unlocker looks for records after its token, with a fence
 * between in both, so at least one sees the other; where both do, the swap decides. Tokens are
 * numbered, else a locker that looked long ago could take a later one, with to_pop in use.
 *
 * A locker spins before it queues only while there is one holder, which runs in another context:
 * in its own it could not get on meanwhile.
 *
 * Orderings        first            then                 ordered by                        if broken
 *   PUSH     record, its co     record popped          push CAS, take xchg               wakes garbage
 *   HANDOFF  own record/token   other's token/record   seq_cst fence on both sides       lock free, yet all sleep
 *   TOKEN    to_pop             to_pop by the next     token release, swap CAS           record popped twice
 *   POP      to_pop             whether it is empty    none: a hint, see has_waiters()   -
 *   SPIN     holder's context   spin or not            none: a hint                      -
 */
#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/coroutine_inside.h"

#define SPINS 1000

struct co_wait_record {
    Coroutine *co;
    struct co_wait_record *next;
};

void co_mutex_init(CoMutex *mutex)
{
    *mutex = (CoMutex){.locked = 0};
}

/* ---- the waiting ---- */

static void push_record(CoMutex *mutex, struct co_wait_record *record)
{
    struct co_wait_record *first = NULL;

    do {
        record->next = first;
    } while (!atomic_cas_seq(&mutex->from_push, &first, record)); /* PUSH */
}

/* Takes the oldest record, NULL where there is none. Only by who is responsible for the hand-over. */
static Coroutine *pop_waiter(CoMutex *mutex)
{
    struct co_wait_record *oldest = atomic_load_relaxed(&mutex->to_pop); /* POP */

    if (!oldest) {
        struct co_wait_record *newest = atomic_xchg_seq(&mutex->from_push, NULL); /* PUSH */

        while (newest) {
            struct co_wait_record *next = newest->next;

            newest->next = oldest;
            oldest = newest;
            newest = next;
        }
        if (!oldest)
            return NULL;
    }
    atomic_store_relaxed(&mutex->to_pop, oldest->next); /* POP */
    Coroutine *co = oldest->co;
    atomic_store_relaxed(&mutex->ctx, co->ctx); /* SPIN: it will hold it */
    return co;
}

/*
 * Is either list non-empty? Asked after a fence by one who left a token, or saw one. Who moves records
 * from one list to the other meanwhile has swapped the token, so a wrong answer meets a failing swap.
 */
static bool has_waiters(CoMutex *mutex)
{
    return atomic_load_relaxed(&mutex->to_pop) /* POP */ ||
           atomic_load_relaxed(&mutex->from_push); /* HANDOFF */
}

/* Takes the responsibility that goes with token. */
static bool take_token(CoMutex *mutex, uint32_t token)
{
    return atomic_cas_seq(&mutex->handoff, &token, 0); /* TOKEN */
}

/* ---- lock ---- */

static void became_holder(CoMutex *mutex, Coroutine *self)
{
    atomic_store_relaxed(&mutex->ctx, self->ctx); /* SPIN */
    mutex->holder = self;
    self->locks_held++;
}

/* Whether it got the mutex, which somebody held a moment ago, without queueing. */
static bool spin_lock(CoMutex *mutex, const Coroutine *self)
{
    for (uint32_t i = 0; i < SPINS; i++) {
        uint32_t locked = atomic_load_relaxed(&mutex->locked); /* SPIN */

        if (locked == 0 && atomic_cas_seq(&mutex->locked, &locked, 1))
            return true;
        if (locked > 1 || atomic_load_relaxed(&mutex->ctx) == self->ctx) /* SPIN */
            return false;
        atomic_pause();
    }
    return false;
}

static void coroutine_fn wait_for_turn(CoMutex *mutex, Coroutine *self)
{
    struct co_wait_record record = {.co = self};

    push_record(mutex, &record);
    atomic_full_fence(); /* HANDOFF: own record before the token */
    uint32_t token = atomic_load_relaxed(&mutex->handoff); /* HANDOFF */
    if (token && has_waiters(mutex) && take_token(mutex, token)) {
        Coroutine *next = pop_waiter(mutex);

        if (next == self)
            return;
        aio_co_wake(next);
    }
    coroutine_yield_at("co_mutex_lock");
}

void coroutine_fn co_mutex_lock(CoMutex *mutex)
{
    Coroutine *self = coroutine_self();
    uint32_t unlocked = 0;

    if (!self)
        bug("%s outside a coroutine", __func__);
    if (!atomic_cas_seq(&mutex->locked, &unlocked, 1) && !spin_lock(mutex, self) &&
        atomic_add_seq(&mutex->locked, 1) != 0)
        wait_for_turn(mutex, self);
    became_holder(mutex, self);
}

/* ---- unlock ---- */

/* Leaves the hand-over to a locker that is counted in but has not pushed its record. False where one
 * has pushed by now and the hand-over is the caller's again. */
static bool leave_token(CoMutex *mutex)
{
    uint32_t token = ++mutex->sequence;

    if (token == 0)
        token = mutex->sequence = 1;
    atomic_store_release(&mutex->handoff, token); /* TOKEN */
    atomic_full_fence();                          /* HANDOFF: own token before the records */
    return !has_waiters(mutex) || !take_token(mutex, token);
}

void coroutine_fn co_mutex_unlock(CoMutex *mutex)
{
    Coroutine *self = coroutine_self();

    if (!self || mutex->holder != self)
        bug("%s by who does not hold it", __func__);
    mutex->holder = NULL;
    self->locks_held--;
    if (atomic_add_seq(&mutex->locked, -1) == 1)
        return;
    do {
        Coroutine *next = pop_waiter(mutex);

        if (next) {
            aio_co_wake(next);
            return;
        }
    } while (!leave_token(mutex));
}

/* ---- CoQueue ---- */

void co_queue_init(CoQueue *queue)
{
    *queue = (CoQueue){.first = NULL};
}

bool co_queue_empty(const CoQueue *queue)
{
    return queue->first == NULL;
}

void coroutine_fn co_queue_wait(CoQueue *queue, CoMutex *mutex)
{
    Coroutine *self = coroutine_self();

    if (!self)
        bug("%s outside a coroutine", __func__);
    self->queue = queue;
    self->queue_next = NULL;
    if (queue->first)
        *queue->last = self;
    else
        queue->first = self;
    queue->last = &self->queue_next;

    if (mutex)
        co_mutex_unlock(mutex);
    coroutine_yield_at(__func__);
    if (self->queue)
        bug("coroutine %s was woken while it waits in a queue", self->name);
    if (mutex)
        co_mutex_lock(mutex);
}

bool co_queue_next(CoQueue *queue)
{
    Coroutine *co = queue->first;

    if (!co)
        return false;
    queue->first = co->queue_next;
    co->queue = NULL;
    if (in_coroutine())
        aio_co_wake(co);
    else
        aio_co_schedule(co->ctx, co);
    return true;
}

void co_queue_restart_all(CoQueue *queue)
{
    while (co_queue_next(queue))
        continue;
}
