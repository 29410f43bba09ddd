/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tools/histogram.h"

static void an_empty_one_says_zero(void **state)
{
    struct histogram h = {0};

    (void)state;
    assert_int_equal(histogram_percentile(&h, 50), 0);
    assert_int_equal(histogram_mean(&h), 0);
}

static void percentiles_are_at_most_a_64th_too_high_and_never_too_low(void **state)
{
    struct histogram h = {0};

    (void)state;
    for (uint64_t value = 1; value <= 100000; value++)
        histogram_add(&h, value * 1000);
    for (int percent = 1; percent < 100; percent++) {
        uint64_t exact = (uint64_t)percent * 1000 * 1000, told = histogram_percentile(&h, percent);
        assert_true(told >= exact && told <= exact + exact / 64);
    }
    assert_int_equal(histogram_percentile(&h, 100), 100000000);
    assert_int_equal(histogram_mean(&h), 50000500);
}

static void any_value_has_a_place(void **state)
{
    struct histogram h = {0};

    (void)state;
    for (int bit = 0; bit < 64; bit++) {
        uint64_t value = UINT64_C(1) << bit;
        for (int i = -1; i <= 1; i++) {
            struct histogram one = {0};
            histogram_add(&one, value + (uint64_t)i);
            assert_true(histogram_percentile(&one, 50) == value + (uint64_t)i);
            histogram_merge(&h, &one);
        }
    }
    assert_int_equal(h.n, 192);
    assert_true(histogram_percentile(&h, 100) == UINT64_MAX || h.most > UINT64_C(1) << 63);
}

static void merged_ones_are_as_one(void **state)
{
    struct histogram odd = {0}, even = {0}, all = {0};

    (void)state;
    for (uint64_t value = 0; value < 10000; value++) {
        histogram_add(value % 2 ? &odd : &even, value * value);
        histogram_add(&all, value * value);
    }
    histogram_merge(&odd, &even);
    assert_memory_equal(&odd, &all, sizeof(all));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_one_says_zero),
        cmocka_unit_test(percentiles_are_at_most_a_64th_too_high_and_never_too_low),
        cmocka_unit_test(any_value_has_a_place),
        cmocka_unit_test(merged_ones_are_as_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
