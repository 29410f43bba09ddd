/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/stall.h"

#define MS UINT64_C(1000000)

static const struct stall_limits limits = {
    .report_ns = 500 * MS, .replace_ns = 2000 * MS, .look_ns = 125 * MS};

/* One that computes, looked at every 125 ms. */
static struct stall_look busy_at(uint64_t look)
{
    return (struct stall_look){
        .now_ns = (look + 1) * 125 * MS, .progress = 7, .seen = true, .state = 'R'};
}

/* The number of the first look with that verdict, of 100; 100: none. */
static unsigned first_with(
    struct stall *stall, enum stall_verdict verdict, struct stall_look (*look_at)(uint64_t look))
{
    for (unsigned i = 0; i < 100; i++) {
        struct stall_look look = look_at(i);
        if (stall_judge(stall, &look, &limits) == verdict)
            return i;
    }
    return 100;
}

static void a_callback_that_runs_too_long_is_reported_once_and_then_replaced(void **state)
{
    struct stall stall = {0};

    /* Look 0 finds it new, look 1 begins to count. */
    assert_int_equal(first_with(&stall, STALL_REPORT, busy_at), 5);
    assert_int_equal(stall.state, STALL_SPINNING);
    stall = (struct stall){0};
    assert_int_equal(first_with(&stall, STALL_REPLACE, busy_at), 17);
}

static void one_that_makes_progress_is_left_alone(void **state)
{
    struct stall stall = {0};

    for (uint64_t i = 0; i < 100; i++) {
        struct stall_look look = busy_at(i);
        look.progress = i;
        assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
    }
    assert_int_equal(stall.state, STALL_NONE);
}

static struct stall_look asleep_at(uint64_t look)
{
    struct stall_look asleep = busy_at(look);

    asleep.asleep = true;
    return asleep;
}

static void one_that_sleeps_in_its_loop_is_left_alone(void **state)
{
    struct stall stall = {0};
    struct stall_look look = asleep_at(3);

    assert_false(stall_needs_look(&stall, &look));
    assert_int_equal(first_with(&stall, STALL_REPORT, asleep_at), 100);
}

static void the_end_of_a_callback_that_was_reported_is_told(void **state)
{
    struct stall stall = {0};
    struct stall_look look = busy_at(20);

    first_with(&stall, STALL_REPORT, busy_at);
    look.progress++;
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_OVER);
    assert_int_equal(stall.state, STALL_NONE);
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
}

static struct stall_look blocked_at(uint64_t look)
{
    struct stall_look blocked = busy_at(look);

    blocked.state = look % 2 ? 'S' : 'D';
    return blocked;
}

static void one_asleep_in_a_system_call_is_blocked(void **state)
{
    struct stall stall = {0};

    assert_int_equal(first_with(&stall, STALL_REPORT, blocked_at), 5);
    assert_int_equal(stall.state, STALL_BLOCKED);
}

static struct stall_look stopped_at(uint64_t look)
{
    struct stall_look stopped = busy_at(look);

    stopped.stopped = true;
    return stopped;
}

static struct stall_look traced_at(uint64_t look)
{
    struct stall_look traced = busy_at(look);

    traced.state = 't';
    return traced;
}

static void one_that_is_stopped_or_traced_is_shown_so_and_never_replaced(void **state)
{
    struct stall stall = {0};

    assert_int_equal(first_with(&stall, STALL_REPLACE, stopped_at), 100);
    assert_int_equal(stall.state, STALL_STOPPED);
    stall = (struct stall){0};
    assert_int_equal(first_with(&stall, STALL_REPLACE, traced_at), 100);
    assert_int_equal(stall.state, STALL_TRACED);
}

static void the_time_of_a_stop_does_not_count(void **state)
{
    struct stall stall = {0};
    struct stall_look look;

    for (uint64_t i = 0; i < 4; i++) { /* 250 ms of it count */
        look = busy_at(i);
        assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
    }
    for (uint64_t i = 4; i < 50; i++) {
        look = stopped_at(i);
        stall_judge(&stall, &look, &limits);
    }
    for (uint64_t i = 50; i < 52; i++) {
        look = busy_at(i);
        assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
    }
    look = busy_at(52);
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_REPORT);
}

static struct stall_look starved_at(uint64_t look)
{
    struct stall_look starved = busy_at(look);

    starved.queued_ns = look * 120 * MS;
    return starved;
}

static void who_waits_for_a_cpu_is_charged_only_what_it_had(void **state)
{
    struct stall stall = {0};

    /* 5 ms a look, so that 99 looks have not reached 500 ms. */
    assert_int_equal(first_with(&stall, STALL_REPORT, starved_at), 100);
}

static void a_gap_between_looks_counts_for_two_looks_at_most(void **state)
{
    struct stall stall = {0};
    struct stall_look look = busy_at(0);

    stall_judge(&stall, &look, &limits);
    look = busy_at(1);
    stall_judge(&stall, &look, &limits);
    look = busy_at(100000); /* the supervisor was stopped for hours */
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
    assert_true(stall.in_callback_ns <= 250 * MS);
}

static void one_that_survives_its_kill_is_unkillable_and_said_so_once(void **state)
{
    struct stall stall = {0};
    struct stall_look look;

    assert_int_equal(first_with(&stall, STALL_REPLACE, blocked_at), 17);
    look = blocked_at(18);
    assert_true(stall_needs_look(&stall, &look));
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
    look = blocked_at(40);
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_WONT_DIE);
    assert_int_equal(stall.state, STALL_UNKILLABLE);
    look = blocked_at(60);
    assert_int_equal(stall_judge(&stall, &look, &limits), STALL_GOES_ON);
}

static void one_that_somebody_killed_and_that_does_not_go_is_unkillable(void **state)
{
    const struct stall_limits none = {.look_ns = 125 * MS};
    struct stall stall = {0};

    for (uint64_t i = 0; i < 40; i++) {
        struct stall_look look = blocked_at(i);
        look.state = i < 4 ? 'S' : 'Z';
        enum stall_verdict verdict = stall_judge(&stall, &look, &none);
        if (verdict == STALL_WONT_DIE) {
            assert_int_equal(i, 20); /* 2 s, which is long enough for everything else */
            assert_int_equal(stall.state, STALL_UNKILLABLE);
            return;
        }
        assert_int_equal(verdict, STALL_GOES_ON);
    }
    fail();
}

static void limits_of_zero_are_never_reached(void **state)
{
    const struct stall_limits none = {.look_ns = 125 * MS};
    struct stall stall = {0};

    for (uint64_t i = 0; i < 1000; i++) {
        struct stall_look look = busy_at(i);
        assert_int_equal(stall_judge(&stall, &look, &none), STALL_GOES_ON);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_callback_that_runs_too_long_is_reported_once_and_then_replaced),
        cmocka_unit_test(one_that_makes_progress_is_left_alone),
        cmocka_unit_test(one_that_sleeps_in_its_loop_is_left_alone),
        cmocka_unit_test(the_end_of_a_callback_that_was_reported_is_told),
        cmocka_unit_test(one_asleep_in_a_system_call_is_blocked),
        cmocka_unit_test(one_that_is_stopped_or_traced_is_shown_so_and_never_replaced),
        cmocka_unit_test(the_time_of_a_stop_does_not_count),
        cmocka_unit_test(who_waits_for_a_cpu_is_charged_only_what_it_had),
        cmocka_unit_test(a_gap_between_looks_counts_for_two_looks_at_most),
        cmocka_unit_test(one_that_survives_its_kill_is_unkillable_and_said_so_once),
        cmocka_unit_test(one_that_somebody_killed_and_that_does_not_go_is_unkillable),
        cmocka_unit_test(limits_of_zero_are_never_reached),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
