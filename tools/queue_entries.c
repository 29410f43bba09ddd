/* SPDX-License-Identifier: MIT */
#include "tools/queue_entries.h"
/*
 * A message is copied, and counts where its place still holds the same position before and after:
 * its writer may use the place again as soon as the receiver has freed it. What a call is for
 * stands in its caller's slot, which may have gone on to the next call by then: it is told where
 * the generation is still the message's.
 *
 * Orderings: PUB, see ring.c.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/atomic.h"
#include "tools/json.h"
#include "tools/table.h"

struct queue_entry {
    uint32_t from, to;
    enum mesh_lane lane;
    struct message message;
    bool has_call; /* the slot still has what the message is about */
    uint32_t method, args_len;
};

typedef void queue_entry_fn(void *opaque, const struct queue_entry *entry);

static const char *kind_text(uint32_t kind)
{
    static const char *const texts[] = {
#define X(name, text) text,
        MESSAGE_KINDS(X)
#undef X
    };
    return kind < sizeof texts / sizeof *texts ? texts[kind] : "unknown";
}

/* False: the place holds something else by now. */
static bool copy_message(const struct ring_slot *slot, uint64_t position, struct message *ret)
{
    uint64_t words[sizeof slot->payload / sizeof(uint64_t)];
    const uint64_t *from = (const uint64_t *)slot->payload;
    uint64_t seq = atomic_load_acquire(&slot->seq); /* PUB */
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = atomic_load_relaxed(&from[i]);
    memcpy(ret, words, sizeof *ret);
    return seq == position + 1 && atomic_load_relaxed(&slot->seq) == seq;
}

/* A call's message comes from its caller, as does word that its answer was taken. */
static void look_up_call(const struct segment *seg, struct queue_entry *e)
{
    bool by_caller = e->message.kind == MESSAGE_CALL || e->message.kind == MESSAGE_ANSWER_TAKEN ||
                     e->message.kind == MESSAGE_ABANDONED;
    uint32_t caller = by_caller ? e->from : e->to, callee = by_caller ? e->to : e->from;
    if (e->message.slot >= segment_call_slots(seg, caller, callee))
        return;
    const struct call_slot *call = segment_call(seg, caller, callee, e->message.slot);
    uint32_t method = atomic_load_relaxed(&call->method);
    uint32_t args_len = atomic_load_relaxed(&call->args_len);
    e->has_call =
        (atomic_load_relaxed(&call->word) >> 8 & CALL_GENERATION_MASK) == e->message.generation;
    e->method = method;
    e->args_len = args_len;
}

static void visit_ring(const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane,
    queue_entry_fn *visit, void *opaque)
{
    uint64_t n = segment_ring_slots(seg, from, to, lane);
    uint64_t head = atomic_load_relaxed(segment_head(seg, from, to, lane));
    uint64_t tail = atomic_load_relaxed(segment_tail(seg, from, to, lane));
    const struct ring_slot *ring = n ? segment_ring(seg, from, to, lane) : NULL;
    for (uint64_t at = head; n && at - head < n && at < tail; at++) {
        struct queue_entry e = {.from = from, .to = to, .lane = lane};
        if (!copy_message(&ring[at & (n - 1)], at, &e.message))
            continue;
        look_up_call(seg, &e);
        visit(opaque, &e);
    }
}

static void visit_all(const struct segment *seg, queue_entry_fn *visit, void *opaque)
{
    for (uint32_t from = 0; from < seg->n_peers; from++)
        for (uint32_t to = 0; to < seg->n_peers; to++)
            for (enum mesh_lane lane = 0; from != to && lane < N_LANES; lane++)
                visit_ring(seg, from, to, lane, visit, opaque);
}

/* ---- output ---- */

struct listing {
    const struct instance *in;
    struct table table;
    json_t *array;
};

static void add_row(void *opaque, const struct queue_entry *e)
{
    struct listing *l = opaque;
    char name[INSTANCE_PEER_NAME];
    table_cell(&l->table, "%s", instance_peer_name(l->in, e->from, name));
    table_cell(&l->table, "%s", instance_peer_name(l->in, e->to, name));
    table_cell(&l->table, "%s", mesh_lane_text(e->lane));
    table_cell(&l->table, "%s", kind_text(e->message.kind));
    table_cell(&l->table, "%u", e->message.slot);
    table_cell(&l->table, "%" PRIu64, e->message.generation);
    if (e->has_call)
        table_cell(&l->table, "%u", e->method);
    else
        table_cell(&l->table, "-");
    if (e->has_call)
        table_cell(&l->table, "%u", e->args_len);
    else
        table_cell(&l->table, "-");
}

void queue_entries_print(const struct instance *in)
{
    static const char *const headers[] = {
        "FROM", "TO", "LANE", "MESSAGE", "SLOT", "GENERATION", "METHOD", "BYTES"};
    struct listing l = {.in = in};
    table_init(&l.table, "<<<<>>>>");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&l.table, "%s", headers[i]);
    visit_all(&in->segment, add_row, &l);
    if (table_rows(&l.table) > 1)
        table_print(&l.table, stdout);
    else
        puts("nothing is queued");
    table_deinit(&l.table);
}

static void add_json(void *opaque, const struct queue_entry *e)
{
    struct listing *l = opaque;
    char name[INSTANCE_PEER_NAME];
    json_t *o = json_object();
    json_set_text(o, "from", instance_peer_name(l->in, e->from, name));
    json_set_text(o, "to", instance_peer_name(l->in, e->to, name));
    json_set_text(o, "lane", mesh_lane_text(e->lane));
    json_set_text(o, "message", kind_text(e->message.kind));
    json_set_u64(o, "slot", e->message.slot);
    json_set_u64(o, "generation", e->message.generation);
    json_object_set_new(o, "method", e->has_call ? json_integer(e->method) : json_null());
    json_object_set_new(o, "bytes", e->has_call ? json_integer(e->args_len) : json_null());
    json_array_append_new(l->array, o);
}

json_t *queue_entries_json(const struct instance *in)
{
    struct listing l = {.in = in, .array = json_array()};
    visit_all(&in->segment, add_json, &l);
    return l.array;
}
