/* SPDX-License-Identifier: MIT */
/*
 * runtime/coroutine.c and runtime/co_schedule.c: a coroutine that moves, or is woken by another
 * thread, runs in one thread at a time, and nobody touches it once it may run elsewhere.
 *
 * Here coroutines are real ones, in loops that are the scenario's threads. The sources are compiled
 * in under other names where parts.c has its own, with the running coroutine as a variable that the
 * explorer changes with the thread, and with a step in the middle of each switch.
 */
#include "tests/explore/parts.h"

#include <string.h>

#include "runtime/coroutine_switch.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"

/* The position of a stack that is left is none until the switch is done. */
static void switch_with_a_step(void **ret_from, void *to)
{
    *ret_from = NULL;
    explorer_step();
    co_switch(ret_from, to);
}

#undef coroutine_self
#define coroutine_self real_coroutine_self
#undef in_coroutine
#define in_coroutine real_in_coroutine
#undef coroutine_yield_at
#define coroutine_yield_at real_coroutine_yield_at
#undef aio_co_wake
#define aio_co_wake real_aio_co_wake
Coroutine *coroutine_self(void);
bool in_coroutine(void);
void coroutine_yield_at(const char *why);
void aio_co_wake(Coroutine *co);
#define co_switch          switch_with_a_step
#define co_switch_return() ((void)0)
#define __thread
#include "runtime/coroutine.c"
#include "runtime/co_schedule.c"

#define N_MOVES 2

static struct {
    AioContext contexts[2];
    uint32_t n_run; /* plain words: whoever else is at it races */
    uint32_t was_in[2];
    uint32_t ends[2]; /* each loop's own */
    Coroutine *waiter;
    Coroutine *sleepers[2];
    uint32_t told[2];
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
    parts_reset();
    explorer_thread_local(&current, sizeof current);
    for (int i = 0; i < 2; i++) {
        parts_context_init(&s.contexts[i]);
        explorer_check(coroutine_context_init(&s.contexts[i]) == 0);
    }
}

static uint32_t here(void)
{
    return explorer_self();
}

static void on_end(void *opaque)
{
    s.ends[here()] = true;
}

static void end_both(void)
{
    for (int i = 0; i < 2; i++)
        aio_bh_schedule_oneshot(&s.contexts[i], on_end, NULL);
}

static void turn_until_end(void)
{
    while (!s.ends[here()])
        aio_poll(&s.contexts[here()], true);
}

static void run_loop(void)
{
    aio_context_set_current(&s.contexts[here()]);
    turn_until_end();
}

/* ---- a coroutine that moves ---- */

static void coroutine_fn move_about(void *opaque)
{
    for (uint32_t i = 0; i < N_MOVES; i++) {
        uint32_t from = here();

        aio_co_reschedule_self(&s.contexts[!from]);
        explorer_check(here() == !from);
        explorer_check(coroutine_self()->ctx == aio_context_current());
        s.was_in[here()]++;
        s.n_run++;
    }
    end_both();
}

static void send_about(void)
{
    aio_context_set_current(&s.contexts[here()]);
    coroutine_enter(coroutine_create(move_about, NULL));
    turn_until_end();
}

static void end_moved(void)
{
    explorer_check(s.n_run == N_MOVES && s.was_in[0] == 1 && s.was_in[1] == 1);
}

/* ---- a coroutine that waits for another thread ---- */

static void wake_waiter(void *opaque)
{
    s.n_run++;
    aio_co_wake(s.waiter);
}

static void coroutine_fn wait_for_the_other(void *opaque)
{
    for (uint32_t i = 0; i < N_MOVES; i++) {
        s.waiter = coroutine_self();
        aio_bh_schedule_oneshot(&s.contexts[1], wake_waiter, NULL);
        coroutine_yield();
        explorer_check(here() == 0);
        explorer_check(s.n_run == i + 1);
    }
    end_both();
}

static void send_waiting(void)
{
    aio_context_set_current(&s.contexts[here()]);
    coroutine_enter(coroutine_create(wait_for_the_other, NULL));
    turn_until_end();
}

/* ---- two that are woken by two threads at once ---- */

static void coroutine_fn wait_once(void *opaque)
{
    Coroutine **self = opaque;

    *self = coroutine_self();
    coroutine_yield();
    explorer_check(here() == 0);
    explorer_check(s.told[self - s.sleepers]);
    s.n_run++;
}

static void run_two(void)
{
    aio_context_set_current(&s.contexts[0]);
    for (int i = 0; i < 2; i++)
        coroutine_enter(coroutine_create(wait_once, &s.sleepers[i]));
    explorer_post(&s.sleepers[0]);
    explorer_post(&s.sleepers[1]);
    while (s.n_run < 2)
        aio_poll(&s.contexts[0], true);
}

/* Threads 1 and 2 wake one each. */
static void wake_one(void)
{
    uint32_t i = here() - 1;

    explorer_wait(&s.sleepers[i]);
    s.told[i] = true;
    aio_co_wake(s.sleepers[i]);
}

/* Wrong: hands itself over while it still runs here. */
static void coroutine_fn move_too_early(void *opaque)
{
    Coroutine *self = coroutine_self();

    co_claim(self, __func__);
    co_schedule_claimed(&s.contexts[1], self);
    coroutine_yield();
    end_both();
}

static void send_too_early(void)
{
    aio_context_set_current(&s.contexts[here()]);
    coroutine_enter(coroutine_create(move_too_early, NULL));
    turn_until_end();
}

#define DAILY                              \
    {                                      \
        .preemptions = 1, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 3, .stale_loads = 2 \
    }

const struct scenario coroutine_scenarios[] = {
    {"a_coroutine_that_moves_runs_once_at_a_time", begin, end_moved, DAILY, LONG,
        {{"home", send_about}, {"away", run_loop}}},
    {"a_wake_by_another_thread_before_the_yield_is_not_lost", begin, NULL, DAILY, LONG,
        {{"home", send_waiting}, {"away", run_loop}}},
    {"wakes_of_two_threads_at_once_are_both_heard", begin, NULL,
        {.preemptions = 2, .stale_loads = 1}, LONG,
        {{"home", run_two}, {"first", wake_one}, {"second", wake_one}}},
    {"wrong: a coroutine hands itself over while it runs", begin, NULL, DAILY, LONG,
        {{"home", send_too_early}, {"away", run_loop}}},
    {NULL},
};
