/* SPDX-License-Identifier: MIT */
/*
 * sherd dead-letters - requests that crashed whoever ran them, three times, and are kept
 *
 * They are files in the instance's directory, so the instance need not run. A letter says of which
 * executable the addresses in it are, as it lay in processes that are gone.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shard/dead_letter.h"
#include "shard/rundir.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/table.h"
#include "tools/text.h"

struct values {
    const char *instance;
    bool json;
    bool raw;
};

static const struct command_option options[] = {
    {"instance", 0, "NAME", "which instance (default: default)", command_text,
        offsetof(struct values, instance)},
    {"raw", 0, NULL, "print the arguments of letter NUMBER as they are, and nothing else",
        command_flag, offsetof(struct values, raw)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd dead-letters --instance demo", "which there are"},
    {"sherd dead-letters --instance demo 1", "one of them: its arguments, and three backtraces"},
    {"sherd dead-letters --instance demo 1 --raw | xxd", "its arguments, byte for byte"},
    {0},
};

static const struct command command = {
    .name = "dead-letters",
    .operands = "[NUMBER]",
    .summary = "Shows requests that were on the CPU in three crashes, and are not run again.",
    .details = "It reads files in the instance's directory, which need not run, and changes none.",
    .options = options,
    .examples = examples,
};

#define PEER_NAME 24u

/* ---- backtraces ---- */

struct backtrace {
    const struct crash_record *crash;
    struct symbols *symbols;
    json_t *frames;
};

/* A word above the copy reads as not there: the walk ends. */
static bool read_stack(void *opaque, uint64_t address, uint64_t *ret_word)
{
    const struct crash_record *crash = ((struct backtrace *)opaque)->crash;
    uint64_t off = address - crash->stack_address;
    if (address < crash->stack_address || crash->stack_bytes < sizeof *ret_word ||
        off > crash->stack_bytes - sizeof *ret_word)
        return false;
    memcpy(ret_word, crash->stack + off, sizeof *ret_word);
    return true;
}

static void add_frame(void *opaque, uint64_t pc)
{
    struct backtrace *b = opaque;
    char text[256];
    json_array_append_new(b->frames, json_string(symbols_name(b->symbols, pc, text, sizeof text)));
}

static json_t *backtrace_json(const struct crash_record *crash, struct symbols *symbols)
{
    struct backtrace b = {.crash = crash, .symbols = symbols, .frames = json_array()};
    if (!symbols_backtrace(symbols, crash->machine, crash->registers, crash->n_registers,
            read_stack, add_frame, &b))
        add_frame(&b, crash->pc);
    return b.frames;
}

/* One that left no record has nothing but where it was. */
static json_t *crash_json(const struct dead_letter *l, uint32_t nth, struct symbols *symbols)
{
    const struct crash_record *crash = &l->crashes[nth];
    char peer[PEER_NAME], line[320];
    json_t *o = json_object();
    json_set_text(
        o, "process", dead_letter_peer(l, l->head.crashed_shards[nth], peer, sizeof peer));
    json_set_u64(o, "incarnation", l->head.crashed_incarnations[nth]);
    if (crash->kind == CRASH_NONE) {
        json_object_set_new(o, "what", json_null());
        json_object_set_new(o, "backtrace", json_array());
        return o;
    }
    crash_record_line(crash, line, sizeof line);
    json_set_text(o, "what", line);
    json_object_set_new(o, "backtrace", backtrace_json(crash, symbols));
    return o;
}

/* ---- letters as JSON, of which the text is made too ---- */

static json_t *number_or_null(uint32_t number)
{
    return number == UINT32_MAX ? json_null() : json_integer(number);
}

/* The local client; null: it was none. */
static json_t *client_json(const struct dead_letter *l)
{
    json_t *o;

    if (l->head.client == UINT32_MAX)
        return json_null();
    o = json_object();
    json_set_u64(o, "number", l->head.client);
    json_set_u64(o, "uid", l->head.uid);
    json_set_u64(o, "pid", (uint64_t)l->head.pid);
    json_set_text(o, "name", l->head.client_name);
    return o;
}

static json_t *letter_json(uint32_t number, const struct dead_letter *l)
{
    char peer[PEER_NAME], when[32] = "";
    time_t seconds = (time_t)(l->head.at_ns / 1000000000u);
    struct tm tm;
    json_t *o = json_object();
    if (gmtime_r(&seconds, &tm))
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    json_set_u64(o, "number", number);
    json_set_text(o, "at", when);
    json_set_text(o, "method", l->head.method);
    json_set_text(o, "caller", dead_letter_peer(l, l->head.caller, peer, sizeof peer));
    json_set_text(o, "callee", dead_letter_peer(l, l->head.callee, peer, sizeof peer));
    json_set_u64(o, "depth", l->head.depth);
    json_set_u64(o, "bytes", l->head.args_len);
    json_set_u64(o, "whole_bytes", l->head.whole_len);
    json_object_set_new(o, "session", number_or_null(l->head.session));
    json_object_set_new(o, "client", client_json(l));
    return o;
}

static json_t *hex_json(const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = malloc(2 * len + 1);
    json_t *text;
    if (!hex)
        return json_null();
    for (size_t i = 0; i < len; i++) {
        hex[2 * i] = digits[bytes[i] >> 4];
        hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    text = json_stringn(hex, 2 * len);
    free(hex);
    return text;
}

static json_t *whole_letter_json(const char *dir, uint32_t number, const struct dead_letter *l)
{
    const struct look_image image = {.executable = l->head.executable,
        .base = l->head.image_base,
        .build_id = l->head.build_id,
        .n_id = sizeof l->head.build_id};
    struct symbols *symbols = look_symbols_of_image(dir, &image);
    json_t *o = letter_json(number, l), *crashes = json_array();
    json_object_set_new(o, "arguments", hex_json(l->args, l->head.args_len));
    for (uint32_t nth = 0; nth < DEAD_LETTER_CRASHES; nth++)
        json_array_append_new(crashes, crash_json(l, nth, symbols));
    json_object_set_new(o, "crashes", crashes);
    symbols_free(symbols);
    return o;
}

/* ---- for people ---- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "-";
}

static json_int_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

#define SHOWN_BYTES 256u

static void print_arguments(const struct dead_letter *l)
{
    size_t len = l->head.args_len < SHOWN_BYTES ? l->head.args_len : SHOWN_BYTES;
    char *text = text_escape(l->args, len);
    printf("  arguments, %u bytes%s: %s%s\n", l->head.args_len,
        l->head.args_len < l->head.whole_len ? " (the first ones alone were kept)" : "",
        text ? text : "", len < l->head.args_len ? " … (all of them: --raw)" : "");
    free(text);
}

static void print_crash(const json_t *crash)
{
    const json_t *frame;
    size_t i;
    printf("  %s, incarnation %" JSON_INTEGER_FORMAT ": %s\n", text_of(crash, "process"),
        number_of(crash, "incarnation"),
        json_is_null(json_object_get(crash, "what")) ? "left no record" : text_of(crash, "what"));
    json_array_foreach(json_object_get(crash, "backtrace"), i, frame)
        printf("    #%zu %s\n", i, json_string_value(frame));
}

static void print_client(const struct dead_letter *l)
{
    if (l->head.client != UINT32_MAX)
        printf("  for local client %u: %s, pid %d, user %u\n", l->head.client,
            l->head.client_name[0] ? l->head.client_name : "nameless", (int)l->head.pid,
            l->head.uid);
    if (l->head.session != UINT32_MAX)
        printf("  for session %u\n", l->head.session);
}

static void print_letter(const json_t *o, const struct dead_letter *l)
{
    const json_t *crash;
    size_t i;
    printf("dead letter %" JSON_INTEGER_FORMAT ": %s, from %s to %s, given up %s\n",
        number_of(o, "number"), text_of(o, "method"), text_of(o, "caller"), text_of(o, "callee"),
        text_of(o, "at"));
    print_client(l);
    print_arguments(l);
    json_array_foreach(json_object_get(o, "crashes"), i, crash) print_crash(crash);
}

static void print_table(const json_t *letters)
{
    static const char *const headers[] = {"NUMBER", "GIVEN UP", "METHOD", "FROM", "TO", "BYTES"};
    const json_t *o;
    struct table t;
    size_t i;
    table_init(&t, "><<<<>");
    for (i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    json_array_foreach(letters, i, o)
    {
        table_cell(&t, "%" JSON_INTEGER_FORMAT, number_of(o, "number"));
        table_cell(&t, "%s", text_of(o, "at"));
        table_cell(&t, "%s", text_of(o, "method"));
        table_cell(&t, "%s", text_of(o, "caller"));
        table_cell(&t, "%s", text_of(o, "callee"));
        table_cell(&t, "%" JSON_INTEGER_FORMAT, number_of(o, "bytes"));
    }
    if (json_array_size(letters))
        table_print(&t, stdout);
    else
        puts("no dead letter");
    table_deinit(&t);
}

/* ---- the command ---- */

static int cannot_read(const char *dir, uint32_t number, int error)
{
    return command_error("%s/dead-letter-%u: %s", dir, number,
        error == -ENOENT   ? "there is no such letter"
        : error == -EPROTO ? "not a whole dead letter, or one of another version of Sherd"
                           : strerror(-error));
}

static int list(const struct values *values, const char *dir)
{
    uint32_t numbers[DEAD_LETTERS_MAX], n = dead_letter_list(dir, numbers);
    json_t *letters = json_array(), *o;
    int status = EXIT_DONE;
    for (uint32_t i = 0; i < n; i++) {
        struct dead_letter *letter;
        int r = dead_letter_read(dir, numbers[i], &letter);
        if (r < 0) {
            status = cannot_read(dir, numbers[i], r);
            continue;
        }
        json_array_append_new(letters, letter_json(numbers[i], letter));
        dead_letter_free(letter);
    }
    if (values->json) {
        o = json_object();
        json_object_set_new(o, "dead_letters", letters);
        return json_print(o) ? EXIT_WORK_FAILED : status;
    }
    print_table(letters);
    json_decref(letters);
    return status;
}

static int show(const struct values *values, const char *dir, uint32_t number)
{
    struct dead_letter *letter;
    int status = EXIT_DONE, r = dead_letter_read(dir, number, &letter);
    if (r < 0)
        return cannot_read(dir, number, r);
    if (values->raw) {
        fwrite(letter->args, 1, letter->head.args_len, stdout);
    } else {
        json_t *o = whole_letter_json(dir, number, letter);
        if (values->json) {
            status = json_print(o);
        } else {
            print_letter(o, letter);
            json_decref(o);
        }
    }
    dead_letter_free(letter);
    return status;
}

int dead_letters_command(int argc, char **argv)
{
    struct values values = {0};
    char **operands, *dir = NULL, *error = NULL;
    uint32_t number = 0;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (n > 1)
        return command_usage(&command, "it takes one NUMBER at most");
    if (n == 1 && (command_u32(operands[0], &number) || number < 1 || number > DEAD_LETTERS_MAX))
        return command_usage(&command, "NUMBER must be 1 to %u", DEAD_LETTERS_MAX);
    if (values.raw && (n == 0 || values.json))
        return command_usage(&command, "--raw needs a NUMBER, and excludes --json");
    int r = rundir_path(values.instance ? values.instance : "default", &dir, &error);
    if (r < 0)
        return command_error_text(error, "runtime directory", r);
    int status = n ? show(&values, dir, number) : list(&values, dir);
    free(dir);
    return status ? status : command_finish_output();
}
