/* SPDX-License-Identifier: MIT */
#include "tools/co_view.h"
/*
 * Registries are read first, and which of their entries lie on a stack of the arena; then the
 * arena, whose slots know with that what a coroutine waits for in the shard that has it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "shard/arena.h"
#include "tools/clock.h"
#include "tools/co_stack.h"
#include "tools/json.h"

/* What a registry says of a portable coroutine. */
struct registered {
    uint64_t id; /* 0: it stands in none */
    uint64_t wait_site, position_at;
};

struct co_reader {
    const struct look *look;
    struct symbols *symbols;
    uint64_t stacks_at, stack_bytes; /* of the arena, in the processes; 0 bytes: there is none */
    uint32_t n_slots;
    struct registered slots[];
};

struct co_reader *co_reader_new(const struct look *look)
{
    const struct layout_region *stacks = segment_view_region(&look->view, "commons", "stacks");
    uint32_t n = stacks ? stacks->n_outer : 0;
    struct co_reader *reader = calloc(1, sizeof *reader + n * sizeof reader->slots[0]);
    struct view_record super, first;
    if (!reader)
        return NULL;
    reader->look = look;
    reader->symbols = look_symbols(look);
    if (look->is_same_version && segment_view_at(&look->view, "super", 0, "super", 0, 0, &super) &&
        segment_view_at(&look->view, "commons", 0, "stacks", 0, 0, &first)) {
        reader->n_slots = n;
        reader->stack_bytes = (uint64_t)stacks->n_inner * stacks->stride;
        reader->stacks_at = look_word(&super, "mapped_at") + (uint64_t)(first.at - look->view.base);
    }
    return reader;
}

void co_reader_free(struct co_reader *reader)
{
    if (!reader)
        return;
    symbols_free(reader->symbols);
    free(reader);
}

struct symbols *co_reader_symbols(const struct co_reader *reader)
{
    return reader->symbols;
}

/* A constant of the image: from a process that has it mapped, else from the executable's file. */
static void read_text(const struct co_reader *r, uint64_t address, char text[CO_TEXT])
{
    if (!look_string(r->look, address, text, CO_TEXT) &&
        !symbols_string(r->symbols, address, text, CO_TEXT))
        snprintf(text, CO_TEXT, "0x%" PRIx64, address);
}

/* ---- those in registries ---- */

/* NULL: it is not in the arena. */
static struct registered *slot_of(struct co_reader *r, uint64_t position_at)
{
    uint64_t off = position_at - r->stacks_at;
    return r->stack_bytes && off / r->stack_bytes < r->n_slots ? &r->slots[off / r->stack_bytes]
                                                               : NULL;
}

/* False: nobody is there. The id is read again last: it is cleared first when a coroutine ends. */
static bool read_local(
    const struct co_reader *r, uint32_t peer, const struct view_record *entry, struct co_view *ret)
{
    uint64_t site = look_word(entry, "wait_site");
    *ret = (struct co_view){.peer = peer,
        .sent_by = peer,
        .id = look_word(entry, "id"),
        .entry = look_word(entry, "entry"),
        .created_ns = look_word(entry, "created_ns"),
        .position_at = look_word(entry, "position_at")};
    if (!ret->id)
        return false;
    ret->stack_top = ret->position_at;
    view_text(entry, "name", ret->name, sizeof ret->name);
    if (site)
        read_text(r, site, ret->waits_for);
    ret->state = site ? "waits" : "runs";
    return look_word(entry, "id") == ret->id;
}

static void visit_peer(struct co_reader *r, uint32_t peer, co_view_fn *visit, void *opaque)
{
    const struct segment_view *view = &r->look->view;
    struct view_record entry;
    struct co_view co;
    for (uint32_t i = 0; segment_view_of_peer(view, peer, "coroutines", 0, i, &entry); i++) {
        if (!read_local(r, peer, &entry, &co))
            continue;
        struct registered *slot = slot_of(r, co.position_at);
        if (slot)
            *slot = (struct registered){co.id, look_word(&entry, "wait_site"), co.position_at};
        else
            visit(opaque, &co);
    }
}

/* ---- those in the arena ---- */

static void read_waits(
    const struct co_reader *r, uint32_t slot, const struct view_record *record, struct co_view *co)
{
    const struct registered *registered = &r->slots[slot];
    uint64_t site = look_word(record, "wait_site");
    if (co->state == arena_state_text(ARENA_RUNNING) && registered->id) {
        co->position_at = registered->position_at;
        site = registered->wait_site;
        if (site)
            co->state = "waits";
    }
    if (site && co->state != arena_state_text(ARENA_QUEUED))
        read_text(r, site, co->waits_for);
}

/* False: none is there, or it ended while it was read. */
static bool read_portable(
    const struct co_reader *r, uint32_t slot, const struct view_record *record, struct co_view *ret)
{
    uint64_t word = look_word(record, "word");
    uint32_t state = (uint32_t)(word >> 16) & 0x7f;
    if (state == ARENA_FREE)
        return false;
    *ret = (struct co_view){.peer = (uint32_t)(word >> 8) & 0xff,
        .sent_by = (uint32_t)word & 0xff,
        .id = slot,
        .is_portable = true,
        .state = arena_state_text(state),
        .generation = word >> 24,
        .entry = look_word(record, "entry"),
        .created_ns = look_word(record, "created_ns"),
        .n_moves = look_word(record, "n_moves"),
        .position = look_word(record, "position"),
        .stack_top = r->stacks_at + (slot + 1) * r->stack_bytes};
    if (state != ARENA_QUEUED)
        ret->sent_by = ret->peer;
    read_text(r, look_word(record, "name"), ret->name);
    read_waits(r, slot, record, ret);
    return look_word(record, "word") >> 24 == ret->generation;
}

void co_reader_visit(struct co_reader *r, co_view_fn *visit, void *opaque)
{
    const struct segment_view *view = &r->look->view;
    struct view_record record;
    struct co_view co;
    for (uint32_t slot = 0; slot < r->n_slots; slot++)
        r->slots[slot] = (struct registered){0};
    for (uint32_t peer = 0; peer <= view->n_shards; peer++)
        visit_peer(r, peer, visit, opaque);
    for (uint32_t slot = 0; slot < r->n_slots; slot++)
        if (segment_view_at(view, "commons", 0, "arena", 0, slot, &record) &&
            read_portable(r, slot, &record, &co))
            visit(opaque, &co);
}

/* ---- JSON ---- */

struct listing {
    struct co_reader *reader;
    bool with_stacks;
    uint64_t now_ns;
    json_t *array;
};

static void add_frame(void *opaque, const char *name)
{
    json_array_append_new(opaque, json_string(name));
}

static void set_stack(struct listing *l, const struct co_view *co, json_t *o)
{
    json_t *frames = json_array();
    struct co_stack stack;
    const char *why = co_stack_read(l->reader->look, co, &stack);
    if (!why)
        co_stack_walk(&stack, l->reader->symbols, add_frame, frames);
    json_object_set_new(o, "backtrace", frames);
    json_object_set_new(o, "backtrace_why", why ? json_string(why) : json_null());
    co_stack_free(&stack);
}

static void add_json(void *opaque, const struct co_view *co)
{
    struct listing *l = opaque;
    const struct look *look = l->reader->look;
    char peer[LOOK_NAME], text[128];
    uint64_t used = co_stack_used(look, co);
    json_t *o = json_object();
    json_set_text(o, "process", look_peer_name(look, co->peer, peer));
    json_set_text(o, "kind", co->is_portable ? "portable" : "local");
    json_set_u64(o, "id", co->id);
    json_set_text(o, "name", co->name);
    json_set_text(o, "state", co->state);
    json_object_set_new(o, "waits_for", *co->waits_for ? json_string(co->waits_for) : json_null());
    json_set_text(o, "begins_in", symbols_name(l->reader->symbols, co->entry, text, sizeof text));
    json_object_set_new(o, "age_s",
        json_real(co->created_ns && co->created_ns < l->now_ns
                      ? (double)(l->now_ns - co->created_ns) / 1e9
                      : 0));
    json_object_set_new(o, "stack_used", used ? json_integer((json_int_t)used) : json_null());
    if (co->is_portable) {
        json_set_u64(o, "generation", co->generation);
        json_set_u64(o, "moves", co->n_moves);
        json_set_text(o, "sent_by", look_peer_name(look, co->sent_by, peer));
    }
    if (l->with_stacks)
        set_stack(l, co, o);
    json_array_append_new(l->array, o);
}

json_t *co_reader_json(struct co_reader *reader, bool with_stacks)
{
    struct listing l = {.reader = reader,
        .with_stacks = with_stacks,
        .now_ns = (uint64_t)clock_now_ns(),
        .array = json_array()};
    co_reader_visit(reader, add_json, &l);
    return l.array;
}
