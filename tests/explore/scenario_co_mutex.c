/* SPDX-License-Identifier: MIT */
/*
 * runtime/co_mutex.c: one holder at a time, nobody waits for ever, and an unlock waits for nobody.
 * Each thread is a coroutine of a context of its own.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/co_mutex.h"
#include "tests/explore/explorer.h"
#include "tests/explore/parts.h"
#include "tests/explore/scenarios.h"

static struct {
    AioContext contexts[EXPLORER_MAX_THREADS];
    CoMutex mutex;
    uint32_t n_inside; /* a plain word: who is inside without the mutex races */
    uint32_t n_done;
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
    parts_reset();
    co_mutex_init(&s.mutex);
}

static void end(void)
{
    explorer_check(s.mutex.locked == 0);
    explorer_check(!s.mutex.from_push && !s.mutex.to_pop);
}

static void enter(void)
{
    parts_begin_coroutine(&s.contexts[explorer_self()]);
}

static void lock_and_unlock(void)
{
    enter();
    co_mutex_lock(&s.mutex);
    explorer_check(s.n_inside++ == 0);
    s.n_inside--;
    co_mutex_unlock(&s.mutex);
}

/* In a context that all share, so that nobody spins. */
static void queue_and_unlock(void)
{
    parts_begin_coroutine(&s.contexts[0]);
    co_mutex_lock(&s.mutex);
    explorer_check(s.n_inside++ == 0);
    s.n_inside--;
    co_mutex_unlock(&s.mutex);
}

static void queue_twice(void)
{
    queue_and_unlock();
    queue_and_unlock();
}

static void try_and_unlock(void)
{
    enter();
    if (!co_mutex_trylock(&s.mutex))
        return;
    explorer_check(s.n_inside++ == 0);
    s.n_inside--;
    co_mutex_unlock(&s.mutex);
}

static void lock_twice(void)
{
    lock_and_unlock();
    lock_and_unlock();
}

static void hold_and_let_go(void)
{
    enter();
    explorer_check(co_mutex_trylock(&s.mutex));
    explorer_post(&s.mutex);
    co_mutex_unlock(&s.mutex);
    s.n_done++;
}

static void lock_what_is_held(void)
{
    explorer_wait(&s.mutex);
    lock_and_unlock();
}

static void end_unlocked(void)
{
    explorer_check(s.n_done == 1);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 3, .stale_loads = 2 \
    }

const struct scenario co_mutex_scenarios[] = {
    {"two_lockers_and_an_unlocker_hand_it_on", begin, end, DAILY, LONG,
        {{"first", lock_and_unlock}, {"second", lock_and_unlock}, {"third", lock_and_unlock}}},
    {"lockers_that_do_not_spin_hand_it_on", begin, end, DAILY, LONG,
        {{"first", queue_and_unlock}, {"second", queue_and_unlock}, {"third", queue_and_unlock}}},
    {"who_unlocks_and_locks_again_hands_it_on", begin, end, {.preemptions = 3, .stale_loads = 1},
        LONG, {{"first", queue_twice}, {"second", queue_and_unlock}}},
    {"who_tries_has_it_or_not", begin, end, DAILY, LONG,
        {{"first", try_and_unlock}, {"second", try_and_unlock}}},
    {"it_can_be_taken_again_at_once", begin, end, {.preemptions = 3, .stale_loads = 1}, LONG,
        {{"first", lock_twice}, {"second", lock_twice}}},
    {"an_unlock_waits_for_nobody_who_has_counted_itself_in", begin, end_unlocked,
        {.preemptions = 3, .stale_loads = 1, .crashes = 1},
        {.preemptions = 5, .stale_loads = 2, .crashes = 1},
        {{"holder", hold_and_let_go}, {"locker", lock_what_is_held, .may_crash = true}}},
    {NULL},
};
