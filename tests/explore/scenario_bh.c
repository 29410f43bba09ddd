/* SPDX-License-Identifier: MIT */
/*
 * runtime/bh.c under runtime/aio.c: whoever schedules a bottom half, however often and while it
 * runs, it runs after that and sees what was stored before.
 *
 * Threads schedule, a loop takes turns in aio_poll() until it is told to end or has seen what it
 * waits for. What is stored is mostly read by relaxed loads: a bottom half that runs too early sees
 * nothing, and unless it runs again the loop sleeps for ever.
 */
#include <string.h>

#include "runtime/aio_wait.h"
#include "runtime/atomic.h"
#include "tests/explore/explorer.h"
#include "tests/explore/parts.h"
#include "tests/explore/scenarios.h"

#define N_SENDERS 2

struct parcel {
    uint32_t number; /* stored plainly: who reads it must have acquired it */
};

static struct {
    AioContext ctx;
    AioContext other;
    uint32_t errand; /* a plain word */
    BH *bh;
    uint32_t stored[N_SENDERS];
    uint32_t wanted; /* by sender, a bit each */
    uint32_t seen;
    uint32_t n_run;
    uint32_t n_run_wanted;
    uint32_t n_again; /* how often the callback schedules itself */
    bool nests;
    bool ends;
} s;

static void see(void)
{
    for (uint32_t i = 0; i < N_SENDERS; i++)
        s.seen |= atomic_load_relaxed(&s.stored[i]) << i;
}

static bool has_seen_all(void)
{
    return (s.seen & s.wanted) == s.wanted;
}

static void on_bh(void *opaque)
{
    s.n_run++;
    see();
    if (s.n_again > 0) {
        s.n_again--;
        bh_schedule(s.bh);
    }
    while (s.nests && !has_seen_all())
        aio_poll(&s.ctx, true);
}

static void begin(void)
{
    memset(&s, 0, sizeof s);
    parts_reset();
    parts_context_init(&s.ctx);
    s.bh = aio_bh_new(&s.ctx, on_bh, NULL);
    s.wanted = 1;
}

static void begin_two(void)
{
    begin();
    s.wanted = 3;
}

static void begin_second(void)
{
    begin();
    s.wanted = 2;
}

static void begin_again(void)
{
    begin_two();
    s.n_again = 2;
    s.n_run_wanted = 3;
}

static void begin_nested(void)
{
    begin_two();
    s.nests = true;
}

static void begin_with_another(void)
{
    begin();
    parts_context_init(&s.other);
}

/* Nothing is left, and nothing is linked twice. */
static void end(void)
{
    if (s.bh)
        bh_delete(s.bh);
    aio_bh_poll(&s.ctx);
    bh_finalise(&s.ctx);
}

/* ---- senders ---- */

static void store(void)
{
    atomic_store_relaxed(&s.stored[explorer_self()], 1);
}

static void schedule(void)
{
    store();
    bh_schedule(s.bh);
}

static void schedule_after_a_crash(void)
{
    explorer_wait_for_crash();
    schedule();
}

static void schedule_idle(void)
{
    store();
    bh_schedule_idle(s.bh);
}

static void on_parcel(void *opaque)
{
    const struct parcel *parcel = opaque;

    explorer_check(!(s.seen & 1u << parcel->number));
    s.seen |= 1u << parcel->number;
    explorer_free(opaque);
}

static void send_parcel(void)
{
    struct parcel *parcel = explorer_alloc(sizeof *parcel);

    parcel->number = explorer_self();
    aio_bh_schedule_oneshot(&s.ctx, on_parcel, parcel);
}

static void on_end(void *opaque)
{
    s.ends = true;
}

static void schedule_and_delete(void)
{
    bh_schedule(s.bh);
    bh_delete(s.bh);
    aio_bh_schedule_oneshot(&s.ctx, on_end, NULL);
}

static void forget_bh(void)
{
    explorer_check(s.n_run <= 1);
    s.bh = NULL;
    end();
}

/* ---- the loop ---- */

static void take_turns(void)
{
    aio_context_set_current(&s.ctx);
    while (!has_seen_all() || s.n_run < s.n_run_wanted)
        aio_poll(&s.ctx, true);
}

static void take_turns_until_told(void)
{
    aio_context_set_current(&s.ctx);
    while (!s.ends)
        aio_poll(&s.ctx, true);
}

static void schedule_at_home_too(void)
{
    aio_context_set_current(&s.ctx);
    bh_schedule(s.bh);
    take_turns();
}

/* Takes a schedule back and looks for itself, as a thread pool's completion does. */
static void cancel_and_look(void)
{
    aio_context_set_current(&s.ctx);
    while (!has_seen_all()) {
        bh_cancel(s.bh);
        see();
        if (!has_seen_all())
            aio_poll(&s.ctx, true);
    }
}

/* ---- a wait for a condition ---- */

static void wait_while(void)
{
    aio_context_set_current(&s.ctx);
    AIO_WAIT_WHILE(&s.ctx, !atomic_load_relaxed(&s.stored[0]));
}

static void fulfil_and_kick(void)
{
    store();
    aio_wait_kick(&s.ctx);
}

static void on_errand(void *opaque)
{
    s.errand = 1;
    s.ends = true;
}

static void send_on_an_errand(void)
{
    aio_context_set_current(&s.other);
    explorer_check(aio_wait_bh_oneshot(&s.ctx, on_errand, NULL) == 0);
    explorer_check(s.errand == 1);
}

/* Wrong: nobody is told. */
static void fulfil_alone(void)
{
    store();
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 4, .stale_loads = 3 \
    }
#define DAILY_DEAD                                       \
    {                                                    \
        .preemptions = 2, .stale_loads = 1, .crashes = 1 \
    }
#define LONG_DEAD                                        \
    {                                                    \
        .preemptions = 3, .stale_loads = 2, .crashes = 1 \
    }

const struct scenario bh_scenarios[] = {
    {"a_bottom_half_runs_after_each_schedule_and_sees_what_came_before", begin_two, end, DAILY,
        LONG, {{"first", schedule}, {"second", schedule}, {"loop", take_turns}}},
    {"an_idle_bottom_half_reaches_a_loop_that_sleeps", begin, end, DAILY, LONG,
        {{"sender", schedule_idle}, {"loop", take_turns}}},
    {"a_oneshot_runs_once_with_what_it_was_given", begin_two, end, DAILY, LONG,
        {{"first", send_parcel}, {"second", send_parcel}, {"loop", take_turns}}},
    {"one_that_schedules_itself_is_linked_once_and_loses_no_schedule", begin_again, end, DAILY,
        LONG, {{"first", schedule}, {"second", schedule}, {"loop", take_turns}}},
    {"the_loop_and_a_thread_may_both_schedule_one", begin, end, DAILY, LONG,
        {{"sender", schedule}, {"loop", schedule_at_home_too}}},
    {"a_nested_turn_runs_what_comes_meanwhile", begin_nested, end, DAILY, LONG,
        {{"first", schedule}, {"second", schedule}, {"loop", take_turns}}},
    {"who_cancels_sees_what_came_before_the_schedule_it_took_back", begin, end, DAILY, LONG,
        {{"sender", schedule}, {"loop", cancel_and_look}}},
    {"one_that_is_deleted_is_freed_once_after_its_last_use", begin, forget_bh, DAILY, LONG,
        {{"sender", schedule_and_delete}, {"loop", take_turns_until_told}}},
    {"who_dies_between_link_and_notification_does_not_silence_another", begin_second, NULL,
        DAILY_DEAD, LONG_DEAD,
        {{"first", schedule, .may_crash = true, .crashes_in = "doorbell_nudge"},
            {"second", schedule_after_a_crash}, {"loop", take_turns}}},
    {"a_kick_wakes_who_waits_for_a_condition", begin, end, DAILY, LONG,
        {{"kicker", fulfil_and_kick}, {"waiter", wait_while}}},
    {"who_sends_on_an_errand_sees_what_it_did", begin_with_another, end, DAILY, LONG,
        {{"sender", send_on_an_errand}, {"loop", take_turns_until_told}}},
    {"wrong: nobody kicks who waits for a condition", begin, end, DAILY, LONG,
        {{"kicker", fulfil_alone}, {"waiter", wait_while}}},
    {NULL},
};
