/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/restart.h"

#define MS UINT64_C(1000000)
#define S  (1000 * MS)

#define T0 (1000 * S)

static const struct restart_limits limits = RESTART_LIMITS_DEFAULT;

/* A wait status, as waitpid() tells it. */
static int exited(int status)
{
    return status << 8;
}

static void faults_and_exits_are_crashes_and_other_signals_are_not(void **state)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
    static const int deeds[] = {SIGKILL, SIGTERM, SIGINT, SIGQUIT, SIGPIPE, SIGUSR1};

    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        assert_true(restart_is_crash(faults[i], false));
    for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++)
        assert_false(restart_is_crash(deeds[i], false));
    assert_true(restart_is_crash(SIGSEGV | 0x80, false)); /* with a core dump */
    assert_true(restart_is_crash(exited(0), false));
    assert_true(restart_is_crash(exited(3), false));
}

static void a_kill_is_a_crash_where_memory_had_run_out(void **state)
{
    assert_true(restart_is_crash(SIGKILL, true));
    assert_false(restart_is_crash(SIGTERM, true));
}

/* Dies at once after each start; returns the delay before the next. */
static uint64_t die(struct restart *restart, bool crash, uint64_t *now_ns)
{
    uint64_t at_ns;

    restart_began(restart, *now_ns);
    assert_true(restart_died(restart, &limits, crash, *now_ns, &at_ns));
    assert_true(at_ns >= *now_ns);
    uint64_t delay_ns = at_ns - *now_ns;
    *now_ns = at_ns;
    return delay_ns;
}

static void first_crash_is_made_good_at_once_and_the_next_ones_wait_twice_as_long(void **state)
{
    static const uint64_t expected_ms[] = {0, 100, 200, 400, 800, 1600, 3200, 5000, 5000};
    struct restart restart = {0};
    uint64_t now_ns = T0;

    for (size_t i = 0; i < sizeof(expected_ms) / sizeof(expected_ms[0]); i++)
        assert_int_equal(die(&restart, true, &now_ns), expected_ms[i] * MS);
}

static void tenth_crash_within_a_minute_is_the_last(void **state)
{
    struct restart restart = {0};
    uint64_t at_ns, now_ns = T0;

    for (int i = 0; i < 9; i++)
        die(&restart, true, &now_ns);
    restart_began(&restart, now_ns);
    assert_false(restart_died(&restart, &limits, true, now_ns, &at_ns));
}

static void ten_crashes_over_more_than_a_minute_are_no_loop(void **state)
{
    struct restart restart = {0};
    uint64_t at_ns, now_ns = T0;

    for (int i = 0; i < 40; i++) {
        restart_began(&restart, now_ns);
        now_ns += 7 * S;
        assert_true(restart_died(&restart, &limits, true, now_ns, &at_ns));
    }
}

static void crash_after_ten_steady_seconds_counts_as_a_first_one(void **state)
{
    struct restart restart = {0};
    uint64_t at_ns, now_ns = T0;

    die(&restart, true, &now_ns);
    die(&restart, true, &now_ns);
    assert_int_equal(die(&restart, true, &now_ns), 200 * MS);
    restart_began(&restart, now_ns);
    now_ns += 10 * S;
    assert_true(restart_died(&restart, &limits, true, now_ns, &at_ns));
    assert_int_equal(at_ns, now_ns);
    now_ns = at_ns;
    assert_int_equal(die(&restart, true, &now_ns), 100 * MS);
}

static void a_thousand_kills_are_all_made_good_at_once(void **state)
{
    struct restart restart = {0};
    uint64_t now_ns = T0;

    for (int i = 0; i < 1000; i++)
        assert_int_equal(die(&restart, false, &now_ns), 0);
}

static void kills_between_crashes_neither_count_nor_reset_the_wait(void **state)
{
    struct restart restart = {0};
    uint64_t now_ns = T0;

    die(&restart, true, &now_ns);
    assert_int_equal(die(&restart, true, &now_ns), 100 * MS);
    for (int i = 0; i < 20; i++)
        assert_int_equal(die(&restart, false, &now_ns), 0);
    assert_int_equal(die(&restart, true, &now_ns), 200 * MS);
}

static void the_limit_is_the_operators(void **state)
{
    const struct restart_limits three = {.crashes = 3, .window_ns = 5 * S};
    struct restart restart = {0};
    uint64_t at_ns;

    assert_true(restart_died(&restart, &three, true, T0, &at_ns));
    assert_true(restart_died(&restart, &three, true, T0 + 3 * S, &at_ns));
    assert_true(restart_died(&restart, &three, true, T0 + 6 * S, &at_ns));
    assert_false(restart_died(&restart, &three, true, T0 + 7 * S, &at_ns));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_and_exits_are_crashes_and_other_signals_are_not),
        cmocka_unit_test(a_kill_is_a_crash_where_memory_had_run_out),
        cmocka_unit_test(the_limit_is_the_operators),
        cmocka_unit_test(first_crash_is_made_good_at_once_and_the_next_ones_wait_twice_as_long),
        cmocka_unit_test(tenth_crash_within_a_minute_is_the_last),
        cmocka_unit_test(ten_crashes_over_more_than_a_minute_are_no_loop),
        cmocka_unit_test(crash_after_ten_steady_seconds_counts_as_a_first_one),
        cmocka_unit_test(a_thousand_kills_are_all_made_good_at_once),
        cmocka_unit_test(kills_between_crashes_neither_count_nor_reset_the_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
