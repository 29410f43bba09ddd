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

#include "shard/arena.h"
#include "tools/clock.h"
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
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd co --instance demo", "who is there, and what each waits for"},
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

/* ---- one coroutine ---- */

struct co_view {
    uint32_t peer; /* where it is */
    uint64_t id;   /* in its registry; a portable one's slot */
    bool is_portable;
    char name[64];
    const char *state;
    char waits_for[64]; /* "": it runs, or is about to */
    uint64_t entry;
    uint64_t created_ns;
    /* Portable ones alone. */
    uint64_t generation, n_moves, stack_used;
};

typedef void co_view_fn(void *opaque, const struct co_view *co);

static void read_waits(const struct look *look, uint64_t site, struct co_view *co)
{
    if (site && !look_string(look, site, co->waits_for, sizeof co->waits_for))
        snprintf(co->waits_for, sizeof co->waits_for, "0x%" PRIx64, site);
}

/* False: nobody is there. The id is read again last: it is cleared first when a coroutine ends. */
static bool read_local(
    const struct look *look, uint32_t peer, const struct view_record *entry, struct co_view *ret)
{
    *ret = (struct co_view){.peer = peer,
        .id = look_word(entry, "id"),
        .entry = look_word(entry, "entry"),
        .created_ns = look_word(entry, "created_ns")};
    if (!ret->id)
        return false;
    uint64_t site = look_word(entry, "wait_site");
    view_text(entry, "name", ret->name, sizeof ret->name);
    read_waits(look, site, ret);
    ret->state = site ? "waits" : "runs";
    return look_word(entry, "id") == ret->id;
}

/* How much of its stack lies above where it left off. */
static uint64_t stack_used(const struct look *look, uint32_t slot, uint64_t position)
{
    const struct layout_region *stacks = segment_view_region(&look->view, "commons", "stacks");
    struct view_record super, first;
    if (!position || !stacks || !segment_view_at(&look->view, "super", 0, "super", 0, 0, &super) ||
        !segment_view_at(&look->view, "commons", 0, "stacks", slot, 0, &first))
        return 0;
    uint64_t bytes = (uint64_t)stacks->n_inner * stacks->stride;
    uint64_t low = look_word(&super, "mapped_at") + (uint64_t)(first.at - look->view.base);
    return position > low && position - low <= bytes ? low + bytes - position : 0;
}

static bool read_portable(
    const struct look *look, uint32_t slot, const struct view_record *record, struct co_view *ret)
{
    uint64_t word = look_word(record, "word");
    uint32_t state = (uint32_t)(word >> 16) & 0x7f;
    if (state == ARENA_FREE)
        return false;
    *ret = (struct co_view){.peer = (uint32_t)(word >> 8) & 0xff,
        .id = slot,
        .is_portable = true,
        .state = arena_state_text(state),
        .generation = word >> 24,
        .entry = look_word(record, "entry"),
        .created_ns = look_word(record, "created_ns"),
        .n_moves = look_word(record, "n_moves"),
        .stack_used = stack_used(look, slot, look_word(record, "position"))};
    if (!look_string(look, look_word(record, "name"), ret->name, sizeof ret->name))
        snprintf(ret->name, sizeof ret->name, "0x%" PRIx64, look_word(record, "name"));
    if (state == ARENA_SUSPENDED)
        read_waits(look, look_word(record, "wait_site"), ret);
    return look_word(record, "word") >> 24 == ret->generation;
}

static void visit_peer(const struct look *look, uint32_t peer, co_view_fn *visit, void *opaque)
{
    struct view_record entry;
    struct co_view co;
    for (uint32_t i = 0; segment_view_of_peer(&look->view, peer, "coroutines", 0, i, &entry); i++)
        if (read_local(look, peer, &entry, &co))
            visit(opaque, &co);
}

static void visit_all(const struct look *look, co_view_fn *visit, void *opaque)
{
    struct view_record record;
    struct co_view co;
    for (uint32_t peer = 0; peer <= look->view.n_shards; peer++)
        visit_peer(look, peer, visit, opaque);
    for (uint32_t slot = 0; look->is_same_version &&
                            segment_view_at(&look->view, "commons", 0, "arena", 0, slot, &record);
         slot++)
        if (read_portable(look, slot, &record, &co))
            visit(opaque, &co);
}

/* ---- output ---- */

struct listing {
    const struct look *look;
    struct symbols *symbols;
    uint64_t now_ns;
    size_t n;
    struct table table;
    json_t *array; /* NULL: for people */
};

static uint64_t age_ns(const struct listing *l, const struct co_view *co)
{
    return co->created_ns && co->created_ns < l->now_ns ? l->now_ns - co->created_ns : 0;
}

static void add_row(struct listing *l, const struct co_view *co)
{
    char peer[LOOK_NAME], figure[TEXT_FIGURE], entry[128];
    struct table *t = &l->table;
    table_cell(t, "%s", look_peer_name(l->look, co->peer, peer));
    table_cell(t, co->is_portable ? "p%" PRIu64 : "%" PRIu64, co->id);
    table_cell(t, "%s", *co->name ? co->name : "-");
    table_cell(t, "%s", co->state);
    table_cell(t, "%s", *co->waits_for ? co->waits_for : "-");
    table_cell(t, "%s", text_duration(age_ns(l, co), figure));
    if (co->stack_used)
        table_cell(t, "%s", text_bytes(co->stack_used, figure));
    else
        table_cell(t, "-");
    table_cell(t, "%s", symbols_name(l->symbols, co->entry, entry, sizeof entry));
}

static json_t *co_json(const struct listing *l, const struct co_view *co)
{
    char peer[LOOK_NAME], text[128];
    json_t *o = json_object();
    json_set_text(o, "process", look_peer_name(l->look, co->peer, peer));
    json_set_text(o, "kind", co->is_portable ? "portable" : "local");
    json_set_u64(o, "id", co->id);
    json_set_text(o, "name", co->name);
    json_set_text(o, "state", co->state);
    json_object_set_new(o, "waits_for", *co->waits_for ? json_string(co->waits_for) : json_null());
    json_set_text(o, "begins_in", symbols_name(l->symbols, co->entry, text, sizeof text));
    json_object_set_new(o, "age_s", json_real((double)age_ns(l, co) / 1e9));
    if (!co->is_portable)
        return o;
    json_set_u64(o, "generation", co->generation);
    json_set_u64(o, "moves", co->n_moves);
    json_set_u64(o, "stack_used", co->stack_used);
    return o;
}

static void list_one(void *opaque, const struct co_view *co)
{
    struct listing *l = opaque;
    l->n++;
    if (l->array)
        json_array_append_new(l->array, co_json(l, co));
    else
        add_row(l, co);
}

static void print_people(struct listing *l)
{
    static const char *const headers[] = {
        "WHERE", "ID", "NAME", "STATE", "WAITS FOR", "AGE", "STACK", "BEGINS IN"};
    table_init(&l->table, "<><<<>><");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&l->table, "%s", headers[i]);
    visit_all(l->look, list_one, l);
    if (l->n)
        table_print(&l->table, stdout);
    else
        puts("no coroutine");
    table_deinit(&l->table);
}

static int print_json(struct listing *l)
{
    json_t *o = json_object();
    l->array = json_array();
    visit_all(l->look, list_one, l);
    json_set_text(o, "instance", l->look->name);
    json_object_set_new(o, "live", json_boolean(l->look->supervisor != 0));
    json_object_set_new(o, "coroutines", l->array);
    return json_print(o);
}

int co_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS};
    struct look look;
    char **operands;
    int status = EXIT_DONE, n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (look_open(values.instance, values.wait_ns, LOOK_THERE_OR_DEAD, &look))
        return EXIT_WORK_FAILED;
    struct listing listing = {
        .look = &look, .symbols = look_symbols(&look), .now_ns = (uint64_t)clock_now_ns()};
    if (values.json)
        status = print_json(&listing);
    else
        print_people(&listing);
    symbols_free(listing.symbols);
    look_close(&look);
    return status ? status : command_finish_output();
}
