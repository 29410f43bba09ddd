/* SPDX-License-Identifier: MIT */
/*
 * One pass over argv. Operands are moved to its front as they are met, so that nothing is
 * allocated and options may follow operands, as people type them.
 */
#include "tools/command.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/text.h"

enum { PARSE_HELP = -1, PARSE_FAILED = -2, PARSE_UNPRINTED = -3 };

/* ---- values ---- */

const char *command_flag(const char *text, void *field)
{
    *(bool *)field = true;
    return NULL;
}

const char *command_text(const char *text, void *field)
{
    *(const char **)field = text;
    return NULL;
}

const char *command_list(const char *text, void *field)
{
    struct command_list *list = field;
    const char **items = reallocarray(list->items, list->n + 1, sizeof *items);
    if (!items)
        return "less: there is no memory for more";
    list->items = items;
    items[list->n++] = text;
    return NULL;
}

/* Digits and nothing else: strtoull() alone would take signs, spaces and what overflows. */
static bool parse_digits(const char *text, uint64_t max, uint64_t *ret, const char **ret_rest)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *rest;
    errno = 0;
    unsigned long long n = strtoull(text, &rest, 10);
    if (errno || n > max)
        return false;
    *ret = n;
    *ret_rest = rest;
    return true;
}

const char *command_u32(const char *text, void *field)
{
    uint64_t n;
    const char *rest;
    if (!parse_digits(text, UINT32_MAX - 1, &n, &rest) || *rest)
        return "a whole number below 4294967295";
    *(uint32_t *)field = (uint32_t)n;
    return NULL;
}

const char *command_u64(const char *text, void *field)
{
    uint64_t n;
    const char *rest;
    if (!parse_digits(text, INT64_MAX, &n, &rest) || *rest)
        return "a whole number";
    *(uint64_t *)field = n;
    return NULL;
}

const char *command_bytes(const char *text, void *field)
{
    static const char expected[] = "a number of bytes, such as 65536, 64K, 16M or 1G";
    static const char units[] = "KMG";
    uint64_t n;
    const char *rest;
    if (!parse_digits(text, INT64_MAX, &n, &rest))
        return expected;
    unsigned shift = 0;
    if (*rest) {
        const char *unit = strchr(units, toupper((unsigned char)*rest));
        if (!unit || rest[1])
            return expected;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    if (n > (uint64_t)INT64_MAX >> shift)
        return expected;
    *(uint64_t *)field = n << shift;
    return NULL;
}

const char *command_seconds(const char *text, void *field)
{
    static const char expected[] = "a number of seconds, such as 5 or 0.25";
    char *rest;
    errno = 0;
    double seconds = strtod(text, &rest);
    if (errno || rest == text || *rest || !(seconds >= 0 && seconds <= 1e9))
        return expected;
    *(int64_t *)field = (int64_t)(seconds * 1e9);
    return NULL;
}

/* ---- the command line ---- */

static const struct command_option *find_name(
    const struct command *command, const char *name, size_t len)
{
    for (const struct command_option *o = command->options; o->name; o++)
        if (strlen(o->name) == len && !memcmp(o->name, name, len))
            return o;
    return NULL;
}

static const struct command_option *find_letter(const struct command *command, char letter)
{
    for (const struct command_option *o = command->options; o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static int take(const struct command *command, const struct command_option *option,
    const char *text, void *values)
{
    const char *expected = option->parse(text, (char *)values + option->offset);
    if (!expected)
        return 0;
    command_usage(command, "--%s %s: expected %s", option->name, text, expected);
    return PARSE_FAILED;
}

/* --name, --name=value or --name value. Moves *idx over what it took. */
static int parse_long(const struct command *command, int argc, char **argv, int *idx, void *values)
{
    const char *name = argv[*idx] + 2;
    const char *equals = strchrnul(name, '=');
    const struct command_option *option = find_name(command, name, (size_t)(equals - name));
    if (!option) {
        command_usage(command, "no such option: %s", argv[*idx]);
        return PARSE_FAILED;
    }
    if (!option->value && *equals) {
        command_usage(command, "--%s takes no value", option->name);
        return PARSE_FAILED;
    }
    if (!option->value)
        return take(command, option, "", values);
    if (*equals)
        return take(command, option, equals + 1, values);
    if (*idx + 1 == argc) {
        command_usage(command, "--%s needs a value: %s", option->name, option->value);
        return PARSE_FAILED;
    }
    return take(command, option, argv[++*idx], values);
}

/* -a, or -ab for -a -b: letters are flags. */
static int parse_letters(const struct command *command, const char *arg, void *values)
{
    for (const char *letter = arg + 1; *letter; letter++) {
        const struct command_option *option = find_letter(command, *letter);
        if (!option) {
            command_usage(command, "no such option: %s", arg);
            return PARSE_FAILED;
        }
        int r = take(command, option, "", values);
        if (r)
            return r;
    }
    return 0;
}

static void print_help(const struct command *command)
{
    printf("Usage: sherd %s [OPTION...]%s%s\n\n%s\n", command->name, *command->operands ? " " : "",
        command->operands, command->summary);
    if (command->details)
        printf("\n%s\n", command->details);
    printf("\nOptions:\n");
    for (const struct command_option *o = command->options; o->name; o++) {
        int width =
            o->letter ? printf("  -%c, --%s", o->letter, o->name) : printf("  --%s", o->name);
        if (o->value)
            width += printf(" %s", o->value);
        printf("%*s%s\n", width < 25 ? 26 - width : 2, "", o->help);
    }
    printf("%-26s%s\n", "  --help", "print this");
    printf("\nExamples:\n");
    for (const struct command_example *e = command->examples; e->line; e++)
        printf("  %s\n      %s\n", e->line, e->what);
    printf("\nExit status: 0 done, 1 the work failed, 2 wrong usage. More: man sherd-%s\n",
        command->name);
}

int command_parse(
    const struct command *command, int argc, char **argv, void *values, char ***ret_operands)
{
    int n = 1;
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        int r = 0;
        if (options_over || arg[0] != '-' || !arg[1]) {
            argv[n++] = arg;
        } else if (!strcmp(arg, "--")) {
            options_over = true;
        } else if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            print_help(command);
            return command_finish_output() ? PARSE_UNPRINTED : PARSE_HELP;
        } else if (arg[1] == '-') {
            r = parse_long(command, argc, argv, &i, values);
        } else {
            r = parse_letters(command, arg, values);
        }
        if (r)
            return r;
    }
    if (n > 1 && !*command->operands) {
        command_usage(command, "%s is one argument too many: it takes none", argv[1]);
        return PARSE_FAILED;
    }
    *ret_operands = argv + 1;
    return n - 1;
}

int command_exit_status(int parse_result)
{
    if (parse_result == PARSE_UNPRINTED)
        return EXIT_WORK_FAILED;
    return parse_result == PARSE_HELP ? EXIT_DONE : EXIT_USAGE;
}

/* ---- errors ---- */

static void print_line(const char *context, const char *format, va_list args, const char *end)
{
    char *text = NULL;
    char *safe = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    if (text)
        safe = text_escape(text, strlen(text));
    fprintf(stderr, "sherd%s%s: %s%s\n", context ? " " : "", context ? context : "",
        safe ? safe : "no memory", end);
    free(safe);
    free(text);
}

int command_usage(const struct command *command, const char *format, ...)
{
    char *end = NULL;
    if (asprintf(&end, "; see sherd %s --help", command->name) < 0)
        end = NULL;
    va_list args;
    va_start(args, format);
    print_line(command->name, format, args, end ? end : "");
    va_end(args);
    free(end);
    return EXIT_USAGE;
}

int command_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(NULL, format, args, "");
    va_end(args);
    return EXIT_WORK_FAILED;
}

int command_error_text(char *text, const char *what, int error)
{
    if (text)
        command_error("%s", text);
    else
        command_error("%s: %s", what, strerror(-error));
    free(text);
    return EXIT_WORK_FAILED;
}

int command_finish_output(void)
{
    if (!fflush(stdout) && !ferror(stdout))
        return EXIT_DONE;
    if (errno != EPIPE)
        command_error("cannot write to standard output: %s", strerror(errno));
    return EXIT_WORK_FAILED;
}
