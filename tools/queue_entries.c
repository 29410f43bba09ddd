/* SPDX-License-Identifier: MIT */
#include "tools/queue_entries.h"
/*
 * A message counts where its place still holds the same position after it was read: its writer may
 * use the place again as soon as the receiver has freed it. A call says what it is for; of all else
 * that stands in the caller's slot, which may have gone on to the next call by then: it is told
 * where the generation is still the message's.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tools/json.h"
#include "tools/table.h"
#include "tools/text.h"

struct queue_entry {
    uint32_t from, to, lane;
    uint32_t kind, slot;
    uint64_t generation;
    uint64_t age_ns; /* 0: not known */
    bool has_call;   /* the slot still has what the message is about */
    uint32_t method, args_len;
};

typedef void queue_entry_fn(void *opaque, const struct queue_entry *entry);

static const char *kind_text(const struct queue_reader *reader, uint32_t kind)
{
    static const char *const texts[] = {
#define X(name, text) text,
        MESSAGE_KINDS(X)
#undef X
    };
    return reader->look->is_same_version && kind < sizeof texts / sizeof *texts ? texts[kind]
                                                                                : "unknown";
}

/* Word that an answer was taken, or is not wanted, comes from the caller. */
static void look_up_call(const struct queue_reader *reader, struct queue_entry *e)
{
    bool by_caller =
        e->kind == MESSAGE_CALL || e->kind == MESSAGE_ANSWER_TAKEN || e->kind == MESSAGE_ABANDONED;
    uint32_t caller = by_caller ? e->from : e->to, callee = by_caller ? e->to : e->from;
    struct view_record call;
    if (e->has_call || !reader->look->is_same_version ||
        !segment_view_of_peer(&reader->look->view, caller, "calls", callee, e->slot, &call))
        return;
    e->method = (uint32_t)look_word(&call, "method");
    e->args_len = (uint32_t)look_word(&call, "args_len");
    e->has_call = (look_word(&call, "word") >> 8 & CALL_GENERATION_MASK) == e->generation;
}

/* False: the place holds something else by now. */
static bool read_entry(const struct queue_reader *reader, const struct view_record *slot,
    uint64_t position, struct queue_entry *e)
{
    struct view_record message;
    if (look_word(slot, "seq") != position + 1 || !view_inner(slot, "payload", &message))
        return false;
    e->kind = (uint32_t)look_word(&message, "kind");
    e->slot = (uint32_t)look_word(&message, "slot");
    e->generation = look_word(&message, "generation");
    e->age_ns = queue_view_age_ns(reader, &message);
    e->has_call = reader->look->is_same_version && e->kind == MESSAGE_CALL;
    e->method = (uint32_t)look_word(&message, "method");
    e->args_len = (uint32_t)look_word(&message, "len");
    return look_word(slot, "seq") == position + 1;
}

static void visit_ring(const struct queue_reader *reader, uint32_t from, uint32_t to, uint32_t lane,
    queue_entry_fn *visit, void *opaque)
{
    struct pair_view pair = queue_view_pair(reader, from, to, lane);
    uint64_t head = view_column_load(&reader->heads, to, from, lane, 0);
    struct view_record slot;
    for (uint64_t at = head; at - head < pair.depth; at++) {
        struct queue_entry e = {.from = from, .to = to, .lane = lane};
        if (!queue_view_slot(reader, from, to, lane, at, &slot) ||
            !read_entry(reader, &slot, at, &e))
            continue;
        look_up_call(reader, &e);
        visit(opaque, &e);
    }
}

static void visit_all(const struct queue_reader *reader, queue_entry_fn *visit, void *opaque)
{
    for (uint32_t from = 0; from < reader->n_peers; from++)
        for (uint32_t to = 0; to < reader->n_peers; to++)
            for (uint32_t lane = 0; from != to && lane < N_LANES; lane++)
                visit_ring(reader, from, to, lane, visit, opaque);
}

/* ---- output ---- */

struct listing {
    const struct queue_reader *reader;
    struct table table;
    json_t *array;
};

static void add_row(void *opaque, const struct queue_entry *e)
{
    struct listing *l = opaque;
    char name[LOOK_METHOD], figure[TEXT_FIGURE];
    struct table *t = &l->table;
    table_cell(t, "%s", look_peer_name(l->reader->look, e->from, name));
    table_cell(t, "%s", look_peer_name(l->reader->look, e->to, name));
    table_cell(t, "%s", mesh_lane_text(e->lane));
    table_cell(t, "%s", kind_text(l->reader, e->kind));
    table_cell(t, "%u", e->slot);
    table_cell(t, "%" PRIu64, e->generation);
    table_cell(t, "%s", e->age_ns ? text_duration(e->age_ns, figure) : "-");
    if (e->has_call)
        table_cell(t, "%u", e->args_len);
    else
        table_cell(t, "-");
    table_cell(t, "%s", e->has_call ? look_method(l->reader->look, e->method, name) : "-");
}

void queue_entries_print(const struct queue_reader *reader)
{
    static const char *const headers[] = {
        "FROM", "TO", "LANE", "MESSAGE", "SLOT", "GENERATION", "AGE", "BYTES", "METHOD"};
    struct listing l = {.reader = reader};
    table_init(&l.table, "<<<<>>>><");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&l.table, "%s", headers[i]);
    visit_all(reader, add_row, &l);
    if (table_rows(&l.table) > 1)
        table_print(&l.table, stdout);
    else
        puts("nothing is queued");
    table_deinit(&l.table);
}

static void add_json(void *opaque, const struct queue_entry *e)
{
    struct listing *l = opaque;
    char name[LOOK_METHOD];
    json_t *o = json_object();
    json_set_text(o, "from", look_peer_name(l->reader->look, e->from, name));
    json_set_text(o, "to", look_peer_name(l->reader->look, e->to, name));
    json_set_text(o, "lane", mesh_lane_text(e->lane));
    json_set_text(o, "message", kind_text(l->reader, e->kind));
    json_set_u64(o, "slot", e->slot);
    json_set_u64(o, "generation", e->generation);
    json_object_set_new(o, "age_s", e->age_ns ? json_real((double)e->age_ns / 1e9) : json_null());
    json_object_set_new(o, "method",
        e->has_call ? json_string(look_method(l->reader->look, e->method, name)) : json_null());
    json_object_set_new(o, "bytes", e->has_call ? json_integer(e->args_len) : json_null());
    json_array_append_new(l->array, o);
}

json_t *queue_entries_json(const struct queue_reader *reader)
{
    struct listing l = {.reader = reader, .array = json_array()};
    visit_all(reader, add_json, &l);
    return l.array;
}
