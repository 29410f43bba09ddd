/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "tools/command.h"

struct values {
    const char *text;
    struct command_list list;
    bool flag, zero;
    uint32_t u32;
    uint64_t u64, bytes;
    int64_t ns;
};

#define FIELD(name) offsetof(struct values, name)

static const struct command_option options[] = {
    {"text", 0, "TEXT", "", command_text, FIELD(text)},
    {"list", 0, "ITEM", "", command_list, FIELD(list)},
    {"flag", 'f', NULL, "", command_flag, FIELD(flag)},
    {"zero", '0', NULL, "", command_flag, FIELD(zero)},
    {"u32", 0, "N", "", command_u32, FIELD(u32)},
    {"u64", 0, "N", "", command_u64, FIELD(u64)},
    {"bytes", 0, "BYTES", "", command_bytes, FIELD(bytes)},
    {"seconds", 0, "SECONDS", "", command_seconds, FIELD(ns)},
    {0},
};

static const struct command command = {
    .name = "test", .operands = "[OPERAND...]", .summary = "", .options = options};

/* The arguments end with NULL. */
static int parse(struct values *values, char ***ret_operands, char **argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    return command_parse(&command, argc, argv, values, ret_operands);
}

#define PARSE(values, operands, ...) parse(values, operands, (char *[]){"test", __VA_ARGS__, NULL})

static void options_may_stand_between_operands(void **state)
{
    struct values values = {0};
    char **operands;
    char *argv[] = {"test", "a", "--text", "x", "b", "-f0", "--u32=7", "-", "c", NULL};

    assert_int_equal(parse(&values, &operands, argv), 4);
    assert_string_equal(operands[0], "a");
    assert_string_equal(operands[1], "b");
    assert_string_equal(operands[2], "-");
    assert_string_equal(operands[3], "c");
    assert_string_equal(values.text, "x");
    assert_true(values.flag && values.zero);
    assert_int_equal(values.u32, 7);
}

static void nothing_is_an_option_after_two_dashes(void **state)
{
    struct values values = {0};
    char **operands;
    char *argv[] = {"test", "--", "--flag", "--", NULL};

    assert_int_equal(parse(&values, &operands, argv), 2);
    assert_string_equal(operands[0], "--flag");
    assert_string_equal(operands[1], "--");
    assert_false(values.flag);
}

static void list_takes_each_and_a_value_may_look_like_an_option(void **state)
{
    struct values values = {0};
    char **operands;

    assert_int_equal(PARSE(&values, &operands, "--list", "a", "--list=", "--list", "--flag"), 0);
    assert_int_equal(values.list.n, 3);
    assert_string_equal(values.list.items[0], "a");
    assert_string_equal(values.list.items[1], "");
    assert_string_equal(values.list.items[2], "--flag");
    assert_false(values.flag);
    free(values.list.items);
}

static void numbers_have_units_and_limits(void **state)
{
    struct values values = {0};
    char **operands;

    assert_int_equal(PARSE(&values, &operands, "--bytes", "64K"), 0);
    assert_int_equal(values.bytes, 65536);
    assert_int_equal(PARSE(&values, &operands, "--bytes", "1g"), 0);
    assert_int_equal(values.bytes, 1 << 30);
    assert_int_equal(PARSE(&values, &operands, "--seconds", "0.25"), 0);
    assert_int_equal(values.ns, 250000000);
    assert_int_equal(PARSE(&values, &operands, "--u64", "9223372036854775807"), 0);
    assert_int_equal(values.u64, INT64_MAX);
}

static void what_is_no_such_value_is_refused_and_changes_nothing(void **state)
{
    static char *const wrong[][2] = {{"--u32", "-1"}, {"--u32", "+1"}, {"--u32", " 1"},
        {"--u32", ""}, {"--u32", "4294967295"}, {"--u32", "1x"}, {"--u64", "99999999999999999999"},
        {"--bytes", "1KB"}, {"--bytes", "8589934592G"}, {"--bytes", "K"}, {"--seconds", "-1"},
        {"--seconds", "nan"}, {"--seconds", "1s"}, {"--seconds", ""}, {"--seconds", "1e300"}};
    char **operands;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct values values = {0};
        int r = PARSE(&values, &operands, wrong[i][0], wrong[i][1]);
        assert_true(r < 0);
        assert_int_equal(command_exit_status(r), 2);
        assert_int_equal(values.u32 | values.u64 | values.bytes | (uint64_t)values.ns, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_may_stand_between_operands),
        cmocka_unit_test(nothing_is_an_option_after_two_dashes),
        cmocka_unit_test(list_takes_each_and_a_value_may_look_like_an_option),
        cmocka_unit_test(numbers_have_units_and_limits),
        cmocka_unit_test(what_is_no_such_value_is_refused_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
