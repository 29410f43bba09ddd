/* SPDX-License-Identifier: MIT */
#include "shard/io_depth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void all_processes_and_a_dead_one_fit_what_is_left(void **state)
{
    const uint64_t max = 65536, left = 400;

    (void)state;
    for (uint32_t n = 1; n <= 40; n++) {
        uint32_t depth = io_depth_plan(max, max - left, n);
        if (depth > IO_DEPTH_MIN)
            assert_true((uint64_t)depth * (n + 1) <= left);
    }
    assert_int_equal(io_depth_plan(max, max - left, 4), 80);
}

static void depth_stays_within_its_limits(void **state)
{
    (void)state;
    assert_int_equal(io_depth_plan(UINT64_MAX, 0, 1), IO_DEPTH_MAX);
    assert_int_equal(io_depth_plan(100, 99, 3), IO_DEPTH_MIN);
}

static void limit_unknown_or_overdrawn_gives_the_least(void **state)
{
    (void)state;
    assert_int_equal(io_depth_plan(0, 0, 3), IO_DEPTH_MIN);
    assert_int_equal(io_depth_plan(100, 200, 3), IO_DEPTH_MIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_processes_and_a_dead_one_fit_what_is_left),
        cmocka_unit_test(depth_stays_within_its_limits),
        cmocka_unit_test(limit_unknown_or_overdrawn_gives_the_least),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
