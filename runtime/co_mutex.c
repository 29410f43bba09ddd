/* SPDX-License-Identifier: MIT */
#include "runtime/co_mutex.h"
/*
 * CoMutex counts in `locked` its holder and all who want it. Who counts itself in from 0 holds it;
 * the others push a record that lies on their stack and yield. Ownership passes on directly, in the
 * order of pushing: who unlocks takes the oldest record and wakes that coroutine, which then holds
 * it, so that no newcomer gets in between.
 *
 * The records are two lists: from_push, newest first, onto which any thread pushes, and to_pop,
 * oldest first, which belongs to whoever is responsible for the next hand-over. That is the holder,
 * until it finds in unlock that somebody is counted in but has not pushed yet. It does not wait for
 * that: it leaves a token in `handoff`, and responsibility is with the one who swaps the token for
 * 0. A locker looks for a token after its push, the unlocker looks for records after its token,
 * with a fence between in both, so at least one sees the other; where both do, the swap decides.
 * Tokens are numbered, else a locker that looked long ago could take a later one, with to_pop in
 * use.
 *
 * A locker spins before it queues only while there is one holder, which runs in another context:
 * in its own it could not get on meanwhile.
 *
 * Orderings  first            then              ordered by                   if broken
 *   PUSH     record, its co     record popped     push CAS, take xchg          wakes garbage
 *   HANDOFF  own record (or     other's token     seq_cst fence on both sides  lock free, yet all
 *            token)             (or record)                                    sleep
 *   TOKEN    to_pop             to_pop by next    token release, swap CAS      record popped twice
 *   POP      to_pop             is it empty?      none: a hint, has_waiters()  -
 *   SPIN     holder's context   spin or not       none: a hint                 -
 *   OWNER    the lock           is it oneself?    none: only oneself writes    -
 *                                                 that
 */
#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/coroutine_inside.h"

#define SPINS 1000

struct co_mutex_waiter {
    Coroutine *co;
    struct co_mutex_waiter *next;
};

void co_mutex_init(CoMutex *mutex)
{
    *mutex = (CoMutex){.locked = 0};
}

/* ---- the waiting ---- */

static void push_waiter(CoMutex *mutex, struct co_mutex_waiter *record)
{
    struct co_mutex_waiter *first = NULL;

    do {
        record->next = first;
    } while (!atomic_cas_seq(&mutex->from_push, &first, record)); /* PUSH */
}

/* Takes the oldest record, NULL where there is none. Only by who is responsible for the
 * hand-over. */
static Coroutine *pop_waiter(CoMutex *mutex)
{
    struct co_mutex_waiter *oldest = atomic_load_relaxed(&mutex->to_pop); /* POP */

    if (!oldest) {
        struct co_mutex_waiter *newest = atomic_xchg_seq(&mutex->from_push, NULL); /* PUSH */

        while (newest) {
            struct co_mutex_waiter *next = newest->next;

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
 * Is either list non-empty? Asked after a fence by one who left a token, or saw one. Who moves
 * records from one list to the other meanwhile has swapped the token, so a wrong answer meets a
 * failing swap.
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

static bool is_holder(const CoMutex *mutex, const Coroutine *self)
{
    return atomic_load_relaxed(&mutex->holder) == self; /* OWNER */
}

static void became_holder(CoMutex *mutex, Coroutine *self)
{
    atomic_store_relaxed(&mutex->ctx, self->ctx); /* SPIN */
    atomic_store_relaxed(&mutex->holder, self);   /* OWNER */
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
    struct co_mutex_waiter record = {.co = self};

    push_waiter(mutex, &record);
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

/* Whether it got the mutex at once, or by a little spinning. */
static bool lock_without_queue(CoMutex *mutex, const Coroutine *self)
{
    uint32_t unlocked = 0;

    if (atomic_cas_seq(&mutex->locked, &unlocked, 1))
        return true;
    if (is_holder(mutex, self))
        bug("coroutine %s locks a mutex that it holds", self->name);
    return spin_lock(mutex, self);
}

void coroutine_fn co_mutex_lock(CoMutex *mutex)
{
    Coroutine *self = co_self_in(__func__);

    if (!lock_without_queue(mutex, self) && atomic_add_seq(&mutex->locked, 1) != 0)
        wait_for_turn(mutex, self);
    became_holder(mutex, self);
}

bool coroutine_fn co_mutex_trylock(CoMutex *mutex)
{
    Coroutine *self = co_self_in(__func__);
    uint32_t unlocked = 0;

    if (!atomic_cas_seq(&mutex->locked, &unlocked, 1))
        return false;
    became_holder(mutex, self);
    return true;
}

void coroutine_fn co_mutex_assert_locked(const CoMutex *mutex)
{
    const Coroutine *self = co_self_in(__func__);

    if (!is_holder(mutex, self))
        bug("coroutine %s must hold a mutex, but does not", self->name);
}

/* ---- unlock ---- */

/* Leaves the hand-over to a locker that is counted in but has not pushed its record. False where
 * one has pushed by now and the hand-over is the caller's again. */
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
    Coroutine *self = co_self_in(__func__);

    if (!is_holder(mutex, self))
        bug("coroutine %s unlocks a mutex that it does not hold", self->name);
    atomic_store_relaxed(&mutex->holder, (Coroutine *)NULL); /* OWNER */
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
