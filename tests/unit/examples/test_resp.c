/* SPDX-License-Identifier: MIT */
#include "examples/kv/resp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct resp_command *ret)
{
    return resp_parse(text, strlen(text), ret);
}

static void assert_words(const struct resp_command *c, uint32_t n, ...)
{
    va_list words;

    assert_int_equal(c->n, n);
    va_start(words, n);
    for (uint32_t i = 0; i < n; i++) {
        const char *word = va_arg(words, const char *);
        assert_int_equal(c->args[i].len, strlen(word));
        assert_memory_equal(c->args[i].data, word, strlen(word));
    }
    va_end(words);
}

static void a_command_is_an_array_of_bulk_strings_or_a_line_of_words(void **state)
{
    struct resp_command c;

    assert_int_equal(parse("*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n", &c), 1);
    assert_words(&c, 2, "GET", "");
    assert_int_equal(c.bytes, 19);
    assert_int_equal(parse("  set  a  b \r\nget", &c), 1);
    assert_words(&c, 3, "set", "a", "b");
    assert_int_equal(c.bytes, 14);
    assert_int_equal(parse("PING\n", &c), 1);
    assert_words(&c, 1, "PING");
    assert_int_equal(parse("\r\n", &c), 1);
    assert_int_equal(c.n, 0);
    assert_int_equal(parse("*0\r\n", &c), 1);
    assert_int_equal(c.n, 0);
}

static void each_beginning_of_a_command_wants_more_and_never_more_than_it_takes(void **state)
{
    static const char text[] = "*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$1\r\nx\r\n";
    struct resp_command c;

    for (size_t len = 0; len < sizeof text - 1; len++) {
        char *exact = malloc(len ? len : 1); /* for a sanitizer to see a byte too many */
        memcpy(exact, text, len);
        assert_int_equal(resp_parse(exact, len, &c), 0);
        assert_in_range(c.bytes, len + 1, sizeof text - 1);
        free(exact);
    }
    assert_int_equal(resp_parse(text, sizeof text - 1, &c), 1);
    assert_words(&c, 3, "SET", "0123456789", "x");
}

static void what_is_no_command_is_refused(void **state)
{
    static const char *const wrong[] = {"*1\r\n+OK\r\n", "*1\r\n$-1\r\n", "*-1\r\n", "*x", "*1\n",
        "*1\r\n$3\r\nabcd\r\n", "*1\r\n$99999999999\r\n", "*\r\n", "*1\r\n$\r\n", "*1\rx"};
    static const char *const too_large[] = {"*65\r\n", "*1\r\n$524289\r\n"};
    struct resp_command c;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(parse(wrong[i], &c), -EPROTO);
    for (size_t i = 0; i < sizeof too_large / sizeof *too_large; i++)
        assert_int_equal(parse(too_large[i], &c), -EMSGSIZE);
}

static void a_line_has_an_end_or_is_refused_in_time(void **state)
{
    char *line = malloc(RESP_BYTES_MAX + 1);
    struct resp_command c;

    memset(line, 'x', RESP_BYTES_MAX + 1);
    assert_int_equal(resp_parse(line, RESP_BYTES_MAX - 1, &c), 0);
    assert_int_equal(resp_parse(line, RESP_BYTES_MAX + 1, &c), -EMSGSIZE);
    free(line);
}

static void a_number_is_taken_as_it_would_be_written(void **state)
{
    static const struct {
        const char *text;
        int64_t n;
    } right[] = {{"0", 0}, {"-1", -1}, {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN}};
    static const char *const wrong[] = {"", "-", "+1", "01", "-0", " 1", "1 ", "1x", "0x1",
        "9223372036854775808", "-9223372036854775809", "99999999999999999999"};
    int64_t n;

    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        struct resp_arg arg = {right[i].text, strlen(right[i].text)};
        assert_true(resp_int64(&arg, &n));
        assert_true(n == right[i].n);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct resp_arg arg = {wrong[i], strlen(wrong[i])};
        assert_false(resp_int64(&arg, &n));
    }
}

static void a_word_is_told_however_it_is_spelled_and_only_whole(void **state)
{
    struct resp_arg get = {"gEtx", 3}, longer = {"gets", 4}, none = {"", 0};

    assert_true(resp_is(&get, "GET"));
    assert_false(resp_is(&longer, "GET"));
    assert_false(resp_is(&get, "GETS"));
    assert_false(resp_is(&none, "GET"));
}

static void replies_stand_one_behind_the_other_whatever_their_size(void **state)
{
    struct resp_out out = {0};
    char large[10000];
    char *expected;
    int len;

    memset(large, 'v', sizeof large);
    assert_true(resp_text(&out, "+OK\r\n") && resp_integer(&out, INT64_MIN) &&
                resp_bulk(&out, large, sizeof large) && resp_integer(&out, 0));
    len = asprintf(&expected, "+OK\r\n:-9223372036854775808\r\n$10000\r\n%.*s\r\n:0\r\n",
        (int)sizeof large, large);
    assert_int_equal(out.len, len);
    assert_memory_equal(out.data, expected, (size_t)len);
    resp_out_reset(&out);
    assert_int_equal(out.len, 0);
    free(expected);
    resp_out_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_is_an_array_of_bulk_strings_or_a_line_of_words),
        cmocka_unit_test(each_beginning_of_a_command_wants_more_and_never_more_than_it_takes),
        cmocka_unit_test(what_is_no_command_is_refused),
        cmocka_unit_test(a_line_has_an_end_or_is_refused_in_time),
        cmocka_unit_test(a_number_is_taken_as_it_would_be_written),
        cmocka_unit_test(a_word_is_told_however_it_is_spelled_and_only_whole),
        cmocka_unit_test(replies_stand_one_behind_the_other_whatever_their_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
