/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "tools/names.h"

/* Names that read from a pipe, of which the test holds the other end. */
struct piped {
    struct names names;
    int writer;
};

static void open_piped(struct piped *p, char *const *operands, size_t n, char delimiter)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(names_init(&p->names, operands, n, delimiter), 0);
    p->names.fd = ends[0];
    p->names.file_bytes = 0;
    p->writer = ends[1];
}

static void close_piped(struct piped *p)
{
    close(p->names.fd);
    names_deinit(&p->names);
}

static void put(struct piped *p, const void *bytes, size_t len)
{
    assert_int_equal(write(p->writer, bytes, len), (ssize_t)len);
}

/* Reads where it may, as a caller would after poll(). A read takes no more than there is room for,
 * so several may be needed. */
static int next(struct piped *p, struct name *ret_name)
{
    for (;;) {
        struct pollfd input = {.fd = p->names.fd, .events = POLLIN};
        int r = names_next(&p->names, ret_name);
        if (r != -EAGAIN || poll(&input, 1, 0) <= 0)
            return r;
        names_readable(&p->names);
    }
}

static void assert_next(struct piped *p, const char *expected)
{
    struct name name;

    assert_int_equal(next(p, &name), 1);
    assert_string_equal(name.bytes, expected);
    assert_int_equal(name.len, strlen(expected));
    assert_false(name.is_too_long);
}

static void assert_end(struct piped *p)
{
    struct name name;

    assert_int_equal(next(p, &name), 0);
}

static void operands_come_in_order_and_as_often_as_asked(void **state)
{
    char *operands[] = {"a", "", "c"};
    struct names names;
    struct name name;

    assert_int_equal(names_init(&names, operands, 3, '\n'), 0);
    names.repeat = 2;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(names_next(&names, &name), 1);
        assert_string_equal(name.bytes, operands[i / 2]);
        assert_float_equal(names_fraction(&names), (i + 1) / 6.0, 1e-9);
    }
    assert_int_equal(names_next(&names, &name), 0);
    names_deinit(&names);
}

static void input_stands_where_the_dash_stands(void **state)
{
    char *operands[] = {"first", "-", "last"};
    struct piped p;

    open_piped(&p, operands, 3, '\n');
    put(&p, "one\ntwo", 7);
    close(p.writer);
    assert_next(&p, "first");
    assert_next(&p, "one");
    assert_next(&p, "two");
    assert_next(&p, "last");
    assert_end(&p);
    close_piped(&p);
}

static void half_a_name_waits_for_the_rest(void **state)
{
    char *operands[] = {"-"};
    struct piped p;
    struct name name;

    open_piped(&p, operands, 1, '\n');
    assert_int_equal(names_next(&p.names, &name), -EAGAIN);
    assert_int_equal(names_fd(&p.names), p.names.fd);
    put(&p, "ab", 2);
    assert_int_equal(next(&p, &name), -EAGAIN);
    put(&p, "c\nd", 3);
    assert_next(&p, "abc");
    close(p.writer);
    assert_next(&p, "d");
    assert_end(&p);
    assert_int_equal(names_fd(&p.names), -1);
    close_piped(&p);
}

static void zero_divides_names_that_hold_new_lines(void **state)
{
    char *operands[] = {"-"};
    struct piped p;

    open_piped(&p, operands, 1, 0);
    put(&p, "a\nb\0\0c", 6);
    close(p.writer);
    assert_next(&p, "a\nb");
    assert_next(&p, "");
    assert_next(&p, "c");
    assert_end(&p);
    close_piped(&p);
}

/* Written in pieces, since a pipe holds no more than the buffer does. */
static void too_long_a_name_is_told_once_and_the_next_ones_are_whole(void **state)
{
    static char part[NAMES_BUFFER / 4];
    char *operands[] = {"-"};
    struct piped p;
    struct name name;
    int n_too_long = 0;

    memset(part, 'x', sizeof part);
    open_piped(&p, operands, 1, '\n');
    put(&p, "good\n", 5);
    assert_next(&p, "good");
    for (int i = 0; i < 10; i++) {
        put(&p, part, sizeof part);
        int r = next(&p, &name);
        assert_true(r == 1 || r == -EAGAIN);
        n_too_long += r == 1 && name.is_too_long;
    }
    assert_int_equal(n_too_long, 1);
    put(&p, "end\nnext", 8);
    close(p.writer);
    assert_next(&p, "next");
    assert_end(&p);
    close_piped(&p);
}

static void name_of_just_the_buffer_is_not_too_long(void **state)
{
    static char bytes[NAMES_BUFFER];
    char *operands[] = {"-"};
    struct piped p;
    struct name name;

    memset(bytes, 'x', sizeof bytes);
    bytes[sizeof bytes - 1] = '\n';
    open_piped(&p, operands, 1, '\n');
    put(&p, bytes, sizeof bytes);
    assert_int_equal(next(&p, &name), 1);
    assert_int_equal(name.len, sizeof bytes - 1);
    assert_false(name.is_too_long);
    close(p.writer);
    assert_end(&p);
    close_piped(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operands_come_in_order_and_as_often_as_asked),
        cmocka_unit_test(input_stands_where_the_dash_stands),
        cmocka_unit_test(half_a_name_waits_for_the_rest),
        cmocka_unit_test(zero_divides_names_that_hold_new_lines),
        cmocka_unit_test(too_long_a_name_is_told_once_and_the_next_ones_are_whole),
        cmocka_unit_test(name_of_just_the_buffer_is_not_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
