/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * command - a subcommand's options, help and errors, from one table
 *
 * Why:         the options that are parsed are the options that `--help` prints, and a test
 *              compares that with the manual page.
 * Use:         struct values { const char *instance; bool json; };
 *              static const struct command_option options[] = {
 *                  {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
 *                  {0},
 *              };
 *              static const struct command cmd = {.name = "status", .options = options, …};
 *              char **operands;
 *              int n = command_parse(&cmd, argc, argv, &values, &operands);
 *              if (n < 0)
 *                  return command_exit_status(n);
 * Concurrency: one thread
 * Lifetime:    values point into argv, which outlives them; lists are for free()
 * Not here:    which commands there are (commands.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Takes an option's text into its field. NULL, or a constant: what is expected instead. */
typedef const char *command_parse_fn(const char *text, void *field);

command_parse_fn command_flag;    /* bool; such an option takes no value */
command_parse_fn command_text;    /* const char * */
command_parse_fn command_list;    /* struct command_list: may be given again and again */
command_parse_fn command_u32;     /* uint32_t, decimal */
command_parse_fn command_u64;     /* uint64_t, decimal */
command_parse_fn command_bytes;   /* uint64_t, decimal with K, M or G behind it */
command_parse_fn command_seconds; /* int64_t ns, from seconds with a fraction */

struct command_list {
    const char **items; /* NULL where n is 0; free() it */
    size_t n;
};

struct command_option {
    const char *name;  /* without its dashes; NULL ends the table */
    char letter;       /* -x as well; 0: none */
    const char *value; /* what stands for it in the help: "SECONDS"; NULL: takes none */
    const char *help;
    command_parse_fn *parse;
    size_t offset; /* of the field, in the struct handed to command_parse() */
};

/* One way to write the command, and what it does. A NULL line ends the table. */
struct command_example {
    const char *line;
    const char *what;
};

struct command {
    const char *name;
    const char *operands; /* "SERVICE.METHOD [ARGUMENT...]"; "" where it takes none */
    const char *summary;  /* the help's first sentence */
    const char *details;  /* further paragraphs of the help, lines and all; NULL: none */
    const struct command_option *options;
    const struct command_example *examples;
};

/* The two options of every command that looks for an instance, for its table. */
#define COMMAND_INSTANCE_OPTIONS(type)                                                             \
    {"instance", 0, "NAME", "which instance (default: default)", command_text,                     \
        offsetof(type, instance)},                                                                 \
    {                                                                                              \
        "wait", 0, "SECONDS", "how long to wait for one that is not there or starts (default: 5)", \
            command_seconds, offsetof(type, wait_ns)                                               \
    }

#define COMMAND_WAIT_NS (INT64_C(5) * 1000 * 1000 * 1000)

/*
 * Parses argv, of which [0] is the command's name. Options may stand between operands; after `--`
 * there are none, and `-` is an operand. Returns how many operands there are, and them in
 * *ret_operands (argv, reordered). Negative, for command_exit_status(): --help was printed, or an
 * error was.
 */
int command_parse(
    const struct command *command, int argc, char **argv, void *values, char ***ret_operands);
int command_exit_status(int parse_result);

/* Prints what is wrong with the command line, and where help is. Returns EXIT_USAGE. */
int command_usage(const struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints "sherd: …" as one line on standard error; control characters in it come out escaped.
 * Returns EXIT_WORK_FAILED. */
int command_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Calls command_error() with a text that some library made, and frees it; where it made none, with
 * `what` and the error's own text. */
int command_error_text(char *text, const char *what, int error);

/* Writes out what is buffered for standard output. EXIT_DONE, or EXIT_WORK_FAILED: what could not
 * be written was reported, unless its reader had simply gone away. */
int command_finish_output(void);
