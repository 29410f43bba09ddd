/* SPDX-License-Identifier: MIT */
#include "shard/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(const struct bytes *b, const char *text)
{
    assert_false(b->failed);
    assert_int_equal(b->len, strlen(text));
    assert_string_equal(b->data, text);
}

static void pieces_stand_one_behind_the_other(void **state)
{
    struct bytes b = {0};

    bytes_put(&b, "one", 3);
    bytes_put(&b, NULL, 0);
    bytes_printf(&b, ", %s and %d", "two", 3);
    bytes_printf(&b, "%s", "");
    bytes_put_text(&b, ".");
    expect(&b, "one, two and 3.");
    bytes_deinit(&b);
}

static void numbers_are_put_as_they_are_written(void **state)
{
    struct bytes b = {0};

    bytes_put_decimal(&b, 0);
    bytes_put_decimal(&b, -1);
    bytes_put_decimal(&b, INT64_MAX);
    bytes_put_decimal(&b, INT64_MIN);
    expect(&b, "0-19223372036854775807-9223372036854775808");
    bytes_deinit(&b);
}

static void it_becomes_as_long_as_what_is_put(void **state)
{
    enum { PIECE = 1000, TIMES = 300 };
    char piece[PIECE];
    struct bytes b = {0};

    for (int n = 0; n < TIMES; n++) {
        memset(piece, 'a' + n % 26, sizeof(piece));
        bytes_put(&b, piece, sizeof(piece));
    }
    assert_int_equal(b.len, PIECE * TIMES);
    for (int n = 0; n < TIMES; n++)
        assert_true(
            b.data[n * PIECE] == 'a' + n % 26 && b.data[(n + 1) * PIECE - 1] == 'a' + n % 26);
    assert_int_equal(b.data[b.len], '\0');
    bytes_printf(&b, "%0*d", 100000, 7);
    assert_int_equal(b.len, PIECE * TIMES + 100000);
    assert_int_equal(b.data[b.len - 1], '7');
    bytes_deinit(&b);
}

static void without_memory_it_says_so_and_takes_nothing_more_until_it_is_cleared(void **state)
{
    struct bytes b = {0};

    bytes_put(&b, "kept", 4);
    bytes_put(&b, "", SIZE_MAX);
    assert_true(b.failed);
    bytes_put(&b, "more", 4);
    bytes_printf(&b, "more");
    assert_int_equal(b.len, 4);
    bytes_clear(&b);
    bytes_put(&b, "again", 5);
    expect(&b, "again");
    bytes_deinit(&b);
}

static void cleared_it_keeps_little_memory(void **state)
{
    struct bytes b = {0};
    char *large = calloc(1, 200000);

    bytes_put(&b, large, 1000);
    bytes_clear(&b);
    assert_non_null(b.data);
    bytes_put(&b, large, 200000);
    bytes_clear(&b);
    assert_null(b.data);
    assert_int_equal(b.len, 0);
    free(large);
    bytes_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_stand_one_behind_the_other),
        cmocka_unit_test(numbers_are_put_as_they_are_written),
        cmocka_unit_test(it_becomes_as_long_as_what_is_put),
        cmocka_unit_test(without_memory_it_says_so_and_takes_nothing_more_until_it_is_cleared),
        cmocka_unit_test(cleared_it_keeps_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
