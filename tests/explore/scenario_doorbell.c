/* SPDX-License-Identifier: MIT */
/*
 * runtime/doorbell.c: no wake-up is lost, whoever dies.
 *
 * A sender publishes a piece of work and rings. The loop takes turns in the order of aio_poll()
 * (runtime/aio.c) until it has all the work it wants. With one sender it may trust `notified`
 * alone; with two it must look at the work itself before it sleeps, as doorbell.h says: who takes
 * the second one's notification has not acquired the first one's.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"

#define BELL_FD   3
#define N_SENDERS 2

static struct {
    struct doorbell_words words;
    struct doorbell bell;
    uint32_t work[N_SENDERS];
    uint32_t plain_work[N_SENDERS];
    uint32_t sender_died;
    uint32_t taken;     /* by sender, a bit each */
    uint32_t wanted;    /* likewise: the loop ends when it has these */
    bool looks_at_work; /* before it sleeps */
    bool nests;         /* the first piece of work waits for the second one in a nested turn */
    bool accepts_late;
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
    s.bell = (struct doorbell){.words = &s.words, .fd = BELL_FD};
    s.wanted = 1;
}

static void begin_two(void)
{
    begin();
    s.wanted = 3;
    s.looks_at_work = true;
}

static void begin_nested(void)
{
    begin_two();
    s.nests = true;
}

static void begin_looking(void)
{
    begin();
    s.looks_at_work = true;
}

static void begin_for_the_second(void)
{
    begin();
    s.wanted = 2;
    s.looks_at_work = true;
}

/* ---- senders ---- */

static void publish(void)
{
    atomic_store_release(&s.work[explorer_self()], 1);
}

static void send_and_ring(void)
{
    publish();
    doorbell_ring(&s.bell);
}

static void send_and_nudge(void)
{
    publish();
    doorbell_nudge(&s.bell);
}

static void send_plainly(void)
{
    s.plain_work[explorer_self()] = 1;
    doorbell_ring(&s.bell);
}

/* Wrong: whoever set `notified` first may not have written yet. */
static void ring_only_where_nobody_has(void)
{
    publish();
    if (atomic_xchg_seq(&s.words.notified, 1) == 0)
        doorbell_nudge(&s.bell);
}

/* ---- the loop ---- */

static bool is_there_work(void)
{
    for (uint32_t i = 0; i < N_SENDERS; i++)
        if (atomic_load_acquire(&s.work[i]))
            return true;
    return atomic_load_acquire(&s.sender_died);
}

static bool has_all(void)
{
    return (s.taken & s.wanted) == s.wanted;
}

static void turn(void);

static void take_work(void)
{
    for (uint32_t i = 0; i < N_SENDERS; i++)
        if (atomic_load_acquire(&s.work[i]) && atomic_xchg_seq(&s.work[i], 0)) {
            s.taken |= 1u << i;
            while (s.nests && !has_all())
                turn();
        }
}

static void turn(void)
{
    bool woken = false;

    if (s.accepts_late)
        take_work();
    if (doorbell_prepare_sleep(&s.bell) && !(s.looks_at_work && is_there_work())) {
        explorer_fd_wait(BELL_FD, false);
        woken = true;
    }
    doorbell_end_sleep(&s.bell);
    doorbell_accept(&s.bell);
    if (!s.accepts_late)
        take_work();
    if (woken)
        doorbell_drain_fd(&s.bell);
}

/* In somebody else's loop. */
static void outer_turn(void)
{
    if (doorbell_prepare_outer(&s.bell)) {
        explorer_fd_wait(BELL_FD, false);
        doorbell_drain_fd(&s.bell);
    }
    doorbell_end_outer(&s.bell);
    doorbell_accept(&s.bell);
    take_work();
}

static void take_outer_turns(void)
{
    while (!has_all())
        outer_turn();
    explorer_check(atomic_load_relaxed(&s.words.notify_me) == 0);
}

static void take_turns(void)
{
    while (!has_all())
        turn();
}

static void begin_accepting_late(void)
{
    begin();
    s.accepts_late = true;
}

/* Wrong: sleeps on what it knew before it raised notify_me. */
static void sleep_without_a_second_look(void)
{
    while (!has_all()) {
        take_work();
        if (has_all())
            break;
        doorbell_prepare_sleep(&s.bell);
        explorer_fd_wait(BELL_FD, false);
        doorbell_end_sleep(&s.bell);
        doorbell_accept(&s.bell);
        doorbell_drain_fd(&s.bell);
    }
}

/* What is read here was stored before the notification that was accepted. */
static void accept_and_look(void)
{
    uint32_t n = 0;

    while (!doorbell_accept(&s.bell))
        atomic_pause();
    for (uint32_t i = 0; i < N_SENDERS; i++)
        n += s.plain_work[i];
    explorer_check(n == 1);
}

/* ---- a sender's death ---- */

static void supervise(void)
{
    if (explorer_wait_for_crash()) {
        atomic_store_release(&s.sender_died, 1);
        doorbell_knock(&s.bell);
    }
}

static void supervise_without_a_knock(void)
{
    if (explorer_wait_for_crash())
        atomic_store_release(&s.sender_died, 1);
}

/* Until it has the work, or knows that there is none. */
static void take_turns_until_death(void)
{
    bool died = false;

    while (!s.taken && !died) {
        turn();
        died = atomic_load_acquire(&s.sender_died);
        take_work();
    }
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 2 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 4, .stale_loads = 3 \
    }
#define DAILY_DEAD                                       \
    {                                                    \
        .preemptions = 2, .stale_loads = 2, .crashes = 1 \
    }
#define LONG_DEAD                                        \
    {                                                    \
        .preemptions = 4, .stale_loads = 3, .crashes = 1 \
    }

const struct scenario doorbell_scenarios[] = {
    {"a_ring_reaches_a_loop_that_goes_to_sleep", begin, NULL, DAILY, LONG,
        {{"sender", send_and_ring}, {"loop", take_turns}}},
    {"a_ring_reaches_a_loop_within_an_outer_one", begin, NULL, DAILY, LONG,
        {{"sender", send_and_ring}, {"outer loop", take_outer_turns}}},
    {"a_nudge_reaches_a_loop_that_looks_at_the_work_itself", begin_looking, NULL, DAILY, LONG,
        {{"sender", send_and_nudge}, {"loop", take_turns}}},
    {"two_rings_at_once_are_both_heard", begin_two, NULL, DAILY, LONG,
        {{"first", send_and_ring}, {"second", send_and_ring}, {"loop", take_turns}}},
    {"a_nested_turn_sleeps_and_is_woken_like_an_outer_one", begin_nested, NULL, DAILY, LONG,
        {{"first", send_and_ring}, {"second", send_and_ring}, {"loop", take_turns}}},
    {"an_accepted_notification_shows_what_was_published_before_it", begin, NULL, DAILY, LONG,
        {{"sender", send_plainly}, {"loop", accept_and_look}}},
    {"who_stops_on_the_way_does_not_silence_another", begin_for_the_second, NULL, DAILY_DEAD,
        LONG_DEAD,
        {{"first", send_and_ring, .may_crash = true}, {"second", send_and_ring},
            {"loop", take_turns}}},
    {"a_knock_makes_up_for_a_sender_that_died_on_the_way", begin_looking, NULL, DAILY_DEAD,
        LONG_DEAD,
        {{"sender", send_and_ring, .may_crash = true}, {"supervisor", supervise},
            {"loop", take_turns_until_death}}},

    {"wrong: rings only where nobody has rung yet", begin_for_the_second, NULL, DAILY_DEAD,
        LONG_DEAD,
        {{"first", ring_only_where_nobody_has, .may_crash = true},
            {"second", ring_only_where_nobody_has}, {"loop", take_turns}}},
    {"wrong: accepts after it has looked for work", begin_accepting_late, NULL, DAILY, LONG,
        {{"sender", send_and_ring}, {"loop", take_turns}}},
    {"wrong: does not look again after notify_me is raised", begin, NULL, DAILY, LONG,
        {{"sender", send_and_ring}, {"loop", sleep_without_a_second_look}}},
    {"wrong: nobody knocks after a death", begin_looking, NULL, DAILY_DEAD, LONG_DEAD,
        {{"sender", send_and_ring, .may_crash = true}, {"supervisor", supervise_without_a_knock},
            {"loop", take_turns_until_death}}},
    {NULL},
};
