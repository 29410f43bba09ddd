/* SPDX-License-Identifier: MIT */
/*
 * sherd co - every coroutine of an instance, from its segment, live or after a crash
 *
 * Local ones stand in the registry of the process that runs them, portable ones in the arena. The
 * segment holds addresses of constants; the supervisor's memory says what stands there, for all
 * processes are forked from it.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "tools/clock.h"
#include "tools/co_stack.h"
#include "tools/co_view.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/symbols.h"
#include "tools/table.h"
#include "tools/text.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    bool backtrace;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"backtrace", 0, NULL, "who called whom, of each that waits", command_flag,
        offsetof(struct values, backtrace)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd co --instance demo", "who is there, and what each waits for"},
    {"sherd co --instance demo --backtrace", "and how each came there"},
    {"sherd co --instance demo --json | jq '.coroutines | length'", "how many"},
    {0},
};

static const struct command command = {
    .name = "co",
    .operands = "",
    .summary =
        "Shows every coroutine of an instance: where it is, its state, why it waits, its age.",
    .details = "After a crash it shows those there were. It reads shared memory, and names from "
               "the supervisor's;\nit asks nobody.",
    .options = options,
    .examples = examples,
};

/* ---- output ---- */

struct listing {
    const struct look *look;
    struct co_reader *reader;
    uint64_t now_ns;
    size_t n;
    struct table table;
};

static uint64_t age_ns(const struct listing *l, const struct co_view *co)
{
    return co->created_ns && co->created_ns < l->now_ns ? l->now_ns - co->created_ns : 0;
}

static void add_row(void *opaque, const struct co_view *co)
{
    struct listing *l = opaque;
    char peer[LOOK_NAME], figure[TEXT_FIGURE], entry[128];
    struct table *t = &l->table;
    uint64_t used = co_stack_used(l->look, co);
    l->n++;
    table_cell(t, "%s", look_peer_name(l->look, co->peer, peer));
    table_cell(t, co->is_portable ? "p%" PRIu64 : "%" PRIu64, co->id);
    table_cell(t, "%s", *co->name ? co->name : "-");
    if (co->sent_by != co->peer)
        table_cell(t, "%s, by %s", co->state, look_peer_name(l->look, co->sent_by, peer));
    else
        table_cell(t, "%s", co->state);
    table_cell(t, "%s", *co->waits_for ? co->waits_for : "-");
    table_cell(t, "%s", text_duration(age_ns(l, co), figure));
    table_cell(t, "%s", used ? text_bytes(used, figure) : "-");
    table_cell(t, "%s", symbols_name(co_reader_symbols(l->reader), co->entry, entry, sizeof entry));
}

static void print_table(struct listing *l)
{
    static const char *const headers[] = {
        "WHERE", "ID", "NAME", "STATE", "WAITS FOR", "AGE", "STACK", "BEGINS IN"};
    table_init(&l->table, "<><<<>><");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&l->table, "%s", headers[i]);
    co_reader_visit(l->reader, add_row, l);
    if (l->n)
        table_print(&l->table, stdout);
    else
        puts("no coroutine");
    table_deinit(&l->table);
}

/* ---- with backtraces ---- */

static void print_frame(void *opaque, const char *name)
{
    unsigned *n = opaque;
    printf("    #%u %s\n", (*n)++, name);
}

static void print_stack(void *opaque, const struct co_view *co)
{
    struct listing *l = opaque;
    char peer[LOOK_NAME], figure[TEXT_FIGURE];
    struct co_stack stack;
    unsigned n = 0;
    const char *why = co_stack_read(l->look, co, &stack);
    printf("%s%s %s%" PRIu64 " %s: %s%s%s, %s old\n", l->n++ ? "\n" : "",
        look_peer_name(l->look, co->peer, peer), co->is_portable ? "p" : "", co->id, co->name,
        co->state, *co->waits_for ? " for " : "", co->waits_for,
        text_duration(age_ns(l, co), figure));
    if (why)
        printf("    no backtrace: %s\n", why);
    else
        co_stack_walk(&stack, co_reader_symbols(l->reader), print_frame, &n);
    co_stack_free(&stack);
}

/* ---- the command ---- */

static json_t *listing_json(const struct listing *l, bool with_stacks)
{
    json_t *o = json_object();
    json_set_text(o, "instance", l->look->name);
    json_object_set_new(o, "live", json_boolean(l->look->supervisor != 0));
    json_object_set_new(o, "coroutines", co_reader_json(l->reader, with_stacks));
    return o;
}

static int show(struct listing *l, const struct values *values)
{
    if (values->json)
        return json_print(listing_json(l, values->backtrace));
    if (values->backtrace) {
        co_reader_visit(l->reader, print_stack, l);
        if (!l->n)
            puts("no coroutine");
    } else {
        print_table(l);
    }
    return EXIT_DONE;
}

int co_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS};
    struct look look;
    char **operands;
    int status, n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (look_open(values.instance, values.wait_ns, LOOK_THERE_OR_DEAD, &look))
        return EXIT_WORK_FAILED;
    struct listing listing = {
        .look = &look, .reader = co_reader_new(&look), .now_ns = (uint64_t)clock_now_ns()};
    status = listing.reader ? show(&listing, &values) : command_error("co: no memory");
    co_reader_free(listing.reader);
    look_close(&look);
    return status ? status : command_finish_output();
}
