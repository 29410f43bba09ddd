/* SPDX-License-Identifier: MIT */
/* What a client may write, as kv reads it. All else of kv is tests/system/test_kv.py's. */
#include "examples/kv/kv.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static int parse_text(const char *text, struct request *ret)
{
    return parse(text, strlen(text), ret);
}

static void assert_words(const struct request *q, uint32_t n, ...)
{
    va_list words;

    assert_int_equal(q->n, n);
    va_start(words, n);
    for (uint32_t i = 0; i < n; i++) {
        const char *word = va_arg(words, const char *);
        assert_int_equal(q->words[i].len, strlen(word));
        assert_memory_equal(q->words[i].data, word, strlen(word));
    }
    va_end(words);
}

static void a_request_is_an_array_of_bulk_strings_or_a_line_of_words(void **state)
{
    struct request q;

    assert_int_equal(parse_text("*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n", &q), 1);
    assert_words(&q, 2, "GET", "");
    assert_int_equal(q.bytes, 19);
    assert_int_equal(parse_text("  set  a  b \r\nget", &q), 1);
    assert_words(&q, 3, "set", "a", "b");
    assert_int_equal(q.bytes, 14);
    assert_int_equal(parse_text("PING\n", &q), 1);
    assert_words(&q, 1, "PING");
    assert_int_equal(parse_text("\r\n", &q), 1);
    assert_int_equal(q.n, 0);
    assert_int_equal(parse_text("*0\r\n", &q), 1);
    assert_int_equal(q.n, 0);
}

static void each_beginning_of_a_request_waits_for_more(void **state)
{
    static const char text[] = "*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$1\r\nx\r\n";
    struct request q;

    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        char *exact = malloc(len ? len : 1); /* for a sanitizer to see a byte too many */
        memcpy(exact, text, len);
        assert_int_equal(parse(exact, len, &q), 0);
        free(exact);
    }
    assert_int_equal(parse(text, sizeof(text) - 1, &q), 1);
    assert_words(&q, 3, "SET", "0123456789", "x");
}

static void what_is_no_request_is_refused(void **state)
{
    static const char *const wrong[] = {"*1\r\n+OK\r\n", "*1\r\n$-1\r\n", "*-1\r\n", "*x\r\n",
        "*\r\n", "*+1\r\n", "* 1\r\n", "*1x\r\n", "*1\r\n$3\r\nabcd\r\n", "*1\r\n$99999999999\r\n",
        "*1\r\n$\r\n", "*1\rx\r\n", "*18446744073709551617\r\n"};
    static const char *const too_large[] = {"*65\r\n", "*1\r\n$524289\r\n"};
    char line[2 * (WORDS_MAX + 1) + 2];
    struct request q;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(parse_text(wrong[i], &q), -EPROTO);
    for (size_t i = 0; i < sizeof(too_large) / sizeof(too_large[0]); i++)
        assert_int_equal(parse_text(too_large[i], &q), -EPROTO);
    for (uint32_t i = 0; i <= WORDS_MAX; i++)
        memcpy(line + 2 * i, "x ", 2);
    memcpy(line + 2 * (WORDS_MAX + 1), "\n", 2);
    assert_int_equal(parse_text(line, &q), -EPROTO);
    assert_int_equal(parse_text(line + 2, &q), 1);
}

static void a_line_without_an_end_is_refused(void **state)
{
    static char line[LINE_BYTES + 9];
    struct request q;

    memset(line, 'x', sizeof(line));
    assert_int_equal(parse(line, LINE_BYTES, &q), 0);
    assert_int_equal(parse(line, LINE_BYTES + 1, &q), -EPROTO);
    memcpy(line, "*1\r\n$", 5);
    assert_int_equal(parse(line, 4 + LINE_BYTES, &q), 0);
    assert_int_equal(parse(line, 5 + LINE_BYTES, &q), -EPROTO);
}

static const char *name_of(const char *text)
{
    struct request q;

    assert_int_equal(parse_text(text, &q), 1);
    return find_command(&q)->name;
}

static void a_command_is_told_however_it_is_spelled_with_as_many_words_as_it_has(void **state)
{
    assert_string_equal(name_of("gEt x\n"), "GET");
    assert_string_equal(name_of("EXISTS a b c\n"), "EXISTS");
    assert_null(name_of("gets x\n"));
    assert_null(name_of("ge x\n"));
    assert_null(name_of("get\n"));
    assert_null(name_of("get a b\n"));
    assert_null(name_of("del\n"));
}

static void what_shards_counted_is_added_and_a_failure_stands_for_all(void **state)
{
    struct bytes out = {0};

    bytes_put_text(&out, "+OK\r\n:1\r\n:20\r\n:0\r\n");
    join(&out, 5);
    assert_int_equal(out.len, 10);
    assert_memory_equal(out.data, "+OK\r\n:21\r\n", 10);
    bytes_clear(&out);
    bytes_put_text(&out, ":1\r\n");
    explain(&out, 3, -EOWNERDEAD);
    bytes_put_text(&out, ":1\r\n");
    join(&out, 0);
    assert_memory_equal(out.data, "-ERR ", 5);
    assert_memory_equal(out.data + out.len - 2, "\r\n", 2);
    bytes_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_an_array_of_bulk_strings_or_a_line_of_words),
        cmocka_unit_test(each_beginning_of_a_request_waits_for_more),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(a_line_without_an_end_is_refused),
        cmocka_unit_test(a_command_is_told_however_it_is_spelled_with_as_many_words_as_it_has),
        cmocka_unit_test(what_shards_counted_is_added_and_a_failure_stands_for_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
