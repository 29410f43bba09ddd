/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tools/text.h"

static void counts_take_five_characters_at_most(void **state)
{
    static const struct {
        uint64_t n;
        const char *text;
    } cases[] = {{0, "0"}, {9999, "9999"}, {10000, "10.0k"}, {99949, "99.9k"}, {99950, "100k"},
        {123456, "123k"}, {999499, "999k"}, {999500, "1.0M"}, {4500000000, "4.5G"},
        {UINT64_MAX, "18.4E"}};
    char buf[TEXT_FIGURE];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(text_count(cases[i].n, buf), cases[i].text);
        assert_true(strlen(buf) <= 5);
    }
}

static void exact_counts_have_commas_between_thousands(void **state)
{
    char buf[TEXT_FIGURE];

    assert_string_equal(text_exact(0, buf), "0");
    assert_string_equal(text_exact(999, buf), "999");
    assert_string_equal(text_exact(1000, buf), "1,000");
    assert_string_equal(text_exact(UINT64_MAX, buf), "18,446,744,073,709,551,615");
}

static void bytes_and_durations_go_by_the_largest_unit(void **state)
{
    char buf[TEXT_FIGURE];

    assert_string_equal(text_bytes(1023, buf), "1023 B");
    assert_string_equal(text_bytes(1024, buf), "1.0 KiB");
    assert_string_equal(text_bytes(16 << 20, buf), "16.0 MiB");
    assert_string_equal(text_bytes(UINT64_MAX, buf), "16.0 EiB");
    assert_string_equal(text_duration(0, buf), "0 ns");
    assert_string_equal(text_duration(999, buf), "999 ns");
    assert_string_equal(text_duration(1449, buf), "1.4 us");
    assert_string_equal(text_duration(9999, buf), "9.9 us");
    assert_string_equal(text_duration(85000, buf), "85 us");
    assert_string_equal(text_duration(999999, buf), "999 us");
    assert_string_equal(text_duration(2650000, buf), "2.6 ms");
    assert_string_equal(text_duration(350000000, buf), "350 ms");
    assert_string_equal(text_duration(12340000000, buf), "12.3 s");
    assert_string_equal(text_duration(UINT64_C(312) * 1000000000, buf), "5m 12s");
    assert_string_equal(text_duration(UINT64_C(100000) * 1000000000, buf), "1d 3h");
}

static void escaped_text_has_no_control_characters_and_keeps_the_rest(void **state)
{
    char *text = text_escape("a\nb\t\033[0m\001\177\0\303\274", 13);

    assert_string_equal(text, "a\\nb\\t\\e[0m\\001\\177\\000\303\274");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_take_five_characters_at_most),
        cmocka_unit_test(exact_counts_have_commas_between_thousands),
        cmocka_unit_test(bytes_and_durations_go_by_the_largest_unit),
        cmocka_unit_test(escaped_text_has_no_control_characters_and_keeps_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
