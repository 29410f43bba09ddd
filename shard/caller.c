/* SPDX-License-Identifier: MIT */
/*
 * A call takes a slot of its depth, then, where its arguments are not small, a shared buffer, and
 * is published. All three are waited for in order of arrival. The buffer comes back as soon as the
 * callee has copied it; the slot with the answer, or when the callee's death is judged. A slot
 * whose caller has gone (deadline, cancel, death) is abandoned and comes back the same way, so that
 * the room in the rings that goes with it is never given out twice.
 *
 * Every change of a slot's state that a counter goes with is noted in the redo record first; what
 * is noted are values, not differences, so that finishing it twice is harmless.
 *
 * Orderings    first                 then               ordered by                  if broken
 *   SLOT     slot's fields, args   word = waiting     word release, acquire       half a call is run
 *   REDO     redo record           what it notes      release stores              a death leaves counters
 *                                                                                 and slots apart
 *   GONE     word = abandoned,     started word       full fence here and in      a call both runs and is
 *            then withdrawals + 1                    serve.c (START there)       given back
 *   STATE    peer given up, or     its bit with us    supervisor's release, our   none: a call too many is
 *            to be restarted                        acquire                     judged a turn later, or
 *                                                                               is served first
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shard/builtin.h"
#include "shard/call_end.h"
#include "shard/mesh_inside.h"
#include "shard/poison.h"

/* ---- slots ---- */

static struct call_class *class_of_slot(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    return mesh->links[peer].out[slot].class;
}

static struct call_class *class_of_call(struct mesh *mesh, const struct mesh_call *call)
{
    return &mesh->links[call->target].classes[call->lane][call->depth];
}

void caller_put_free(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct call_class *class = class_of_slot(mesh, peer, slot);
    struct out_slot *out = &mesh->links[peer].out[slot];

    out->call = NULL;
    out->next_free = class->free_slots;
    class->free_slots = slot + 1;
}

int caller_init(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];

    link->withdrawals = segment_withdrawals(&mesh->seg, mesh->self, peer);
    link->n_out = segment_call_slots(&mesh->seg, mesh->self, peer);
    if (!link->n_out)
        return 0;
    link->calls = segment_call(&mesh->seg, mesh->self, peer, 0);
    link->served = segment_serve(&mesh->seg, peer, mesh->self, 0);
    link->out = calloc(link->n_out, sizeof(link->out[0]));
    if (!link->out)
        return -ENOMEM;
    for (uint32_t slot = 0; slot < link->n_out; slot++) {
        uint32_t depth = segment_slot_depth(&mesh->seg, mesh->self, peer, slot);
        link->out[slot].class = &link->classes[segment_slot_lane(link->n_out, slot)][depth];
    }
    return 0;
}

void caller_deinit(struct mesh *mesh, uint32_t peer)
{
    free(mesh->links[peer].out);
}

static void redo_note(struct mesh *mesh, const struct redo_record *note)
{
    struct redo_record *redo = &mesh->part->redo;
    uint64_t kind = note->kind;

    atomic_store_relaxed(&redo->pair, note->pair);   /* REDO: the kind follows */
    atomic_store_relaxed(&redo->slot, note->slot);   /* REDO */
    atomic_store_relaxed(&redo->word, note->word);   /* REDO */
    atomic_store_relaxed(&redo->value, note->value); /* REDO */
    atomic_store_relaxed(&redo->end, note->end);     /* REDO */
    atomic_store_release(&redo->kind, kind);         /* REDO */
}

static void redo_clear(struct mesh *mesh)
{
    atomic_store_release(&mesh->part->redo.kind, REDO_NONE); /* REDO */
}

void caller_note_withdrawal(struct mesh *mesh, uint32_t peer)
{
    uint64_t *withdrawals = mesh->links[peer].withdrawals;

    atomic_store_release(withdrawals, *withdrawals + 1); /* GONE */
}

void caller_free_slot(struct mesh *mesh, uint32_t peer, uint32_t slot, enum call_end end)
{
    struct link *link = &mesh->links[peer];
    struct call_slot *shared = caller_slot(mesh, peer, slot);
    uint64_t word = call_word(word_generation(shared->word), CALL_FREE);
    uint64_t ended = link->stats->ends[end] + 1;

    redo_note(mesh, &(struct redo_record){.kind = REDO_END,
                        .pair = peer,
                        .slot = slot,
                        .word = word,
                        .value = ended,
                        .end = end});
    atomic_store_release(&shared->word, word);            /* REDO */
    atomic_store_release(&link->stats->ends[end], ended); /* REDO */
    redo_clear(mesh);
    if (link->out[slot].args.off)
        caller_give_back_args(mesh, peer, slot);
    caller_put_free(mesh, peer, slot);
}

void caller_stop_timer(struct mesh_call *call)
{
    if (call->deadline_ns != INT64_MAX)
        timer_del(&call->timer);
}

void caller_end_later(struct mesh *mesh, struct mesh_call *call, enum call_end end, int status)
{
    caller_stop_timer(call);
    call->where = CALL_OVER;
    call->end = end;
    call->status = status;
    call_list_append(&mesh->over, call);
    bh_schedule(mesh->over_bh);
}

/* ---- publishing ---- */

static bool push_call(struct mesh *mesh, const struct mesh_call *call, uint64_t generation)
{
    const struct link *link = &mesh->links[call->target];

    return mesh_push(mesh, call->target,
        &(struct message){.kind = MESSAGE_CALL,
            .depth = (uint8_t)call->depth,
            .slot = call->slot,
            .generation = generation,
            .withdrawals = (uint32_t)*link->withdrawals,
            .method = call->method,
            .len = (uint32_t)call->args_len,
            .path = call->path,
            .off = link->out[call->slot].args.off,
            .deadline_ns = (uint64_t)call->deadline_ns});
}

static void fill_slot(struct mesh *mesh, const struct mesh_call *call, struct call_slot *shared)
{
    const struct out_slot *out = &mesh->links[call->target].out[call->slot];

    atomic_store_relaxed(
        &shared->position, mesh->links[call->target].tx[call->lane].next); /* SLOT */
    shared->deadline_ns = (uint64_t)call->deadline_ns;
    atomic_store_relaxed(&shared->args_off, out->args.off);            /* SLOT */
    atomic_store_relaxed(&shared->args_len, (uint32_t)call->args_len); /* SLOT */
    shared->method = call->method;
    shared->depth = call->depth;
    shared->path = call->path;
    shared->origin = call->origin;
    shared->origin_at = call->origin_at;
    shared->flags = call->callee->flags & SERVICE_IDEMPOTENT ? CALL_IDEMPOTENT : 0;
    if (!out->args.off && call->args_len)
        memcpy(shared->inline_args, call->args, call->args_len);
}

/*
 * Should the target be given up meanwhile, its bit in our bitmap is set after its state, so that
 * the next turn judges this call too: no second look at the state is needed here.
 */
static void publish(struct mesh *mesh, struct mesh_call *call)
{
    struct link *link = &mesh->links[call->target];
    struct call_slot *shared = caller_slot(mesh, call->target, call->slot);
    uint64_t generation = (word_generation(shared->word) + 1) & CALL_GENERATION_MASK;
    uint64_t word = call_word(generation, CALL_WAITING);
    uint64_t submitted = link->stats->calls_submitted + 1;

    fill_slot(mesh, call, shared);
    redo_note(mesh, &(struct redo_record){.kind = REDO_SUBMIT,
                        .pair = call->target,
                        .slot = call->slot,
                        .word = word,
                        .value = submitted});
    atomic_store_release(&shared->word, word);                      /* SLOT, REDO */
    atomic_store_release(&link->stats->calls_submitted, submitted); /* REDO */
    redo_clear(mesh);
    link->out[call->slot].call = call;
    call->where = CALL_OUT;
    if (!push_call(mesh, call, generation)) {
        caller_free_slot(mesh, call->target, call->slot, CALL_END_FAILED);
        caller_end_later(mesh, call, CALL_END_FAILED, -EPROTO);
    }
}

bool caller_is_given_up(const struct mesh *mesh, uint32_t peer)
{
    const struct peer_control *control = segment_control(&mesh->seg, peer);

    return mesh->orphaned || atomic_load_acquire(&control->state) == PEER_FAILED; /* STATE */
}

static void on_heap_ready(struct heap_waiter *waiter, uint64_t off)
{
    struct mesh_call *call =
        (struct mesh_call *)((char *)waiter - offsetof(struct mesh_call, waiter));
    struct mesh *mesh = call->mesh;
    struct args_buffer args = {.off = off, .len = (uint32_t)call->args_len};

    if (caller_is_given_up(mesh, call->target)) {
        /* That was judged while it waited, and nobody would end it any more. */
        caller_put_free(mesh, call->target, call->slot);
        caller_end_later(mesh, call, CALL_END_NOT_STARTED, -EHOSTDOWN);
        heap_put(&mesh->heap, off, args.len);
        return;
    }
    if (call->ready) {
        caller_stop_timer(call); /* it is looked at when the room is sent */
        call->where = CALL_FILLING;
        call->room = args;
        flight_begin(&mesh->flights, off, args.len);
        call->ready(call, mesh->seg.base + off);
        return;
    }
    mesh->links[call->target].out[call->slot].args = args;
    memcpy(mesh->seg.base + off, call->args, call->args_len);
    mesh_count_payload(mesh, true, call->args_len);
    publish(mesh, call);
}

/* A room that was filled already is sent a second time as it is. */
void caller_with_slot(struct mesh *mesh, struct mesh_call *call)
{
    bool is_large = call->args_len > SEGMENT_INLINE_BYTES;

    if (is_large && call->room.off)
        mesh->links[call->target].out[call->slot].args = call->room;
    if (call->room.off || (!is_large && !call->ready)) {
        publish(mesh, call);
        return;
    }
    call->where = CALL_FOR_HEAP;
    heap_get(&mesh->heap, &call->waiter, call->target, call->args_len, on_heap_ready);
}

/*
 * A shard that is to be restarted by order finishes what it has; new calls to it wait in line for
 * its replacement, whose judgement pumps the line. A call from within one that this shard itself
 * serves or has made, here or further out, is part of what it has to finish; a lock given back may
 * be, too; and a coroutine that is on its way there, or waits there for its wake, is there already.
 */
static bool goes_on(const struct mesh_call *call)
{
    return path_has(call->path, call->target) || call->method == BUILTIN_LOCK ||
           call->method == BUILTIN_MOVE || call->method == BUILTIN_WAKE;
}

static bool is_held(const struct mesh *mesh, const struct mesh_call *call)
{
    const struct peer_control *control = segment_control(&mesh->seg, call->target);

    return atomic_load_acquire(&control->state) == PEER_RESTARTING && /* STATE */
           !goes_on(call);
}

/* A slot of its class is free. */
static void take_slot(struct mesh *mesh, struct call_class *class, struct mesh_call *call)
{
    call->slot = class->free_slots - 1;
    class->free_slots = mesh->links[call->target].out[call->slot].next_free;
    caller_with_slot(mesh, call);
}

/* Where a slot is free and somebody stands in line all the same, the line is held. */
static bool goes_at_once(
    const struct mesh *mesh, const struct call_class *class, const struct mesh_call *call)
{
    if (!class->free_slots)
        return false;
    return class->line.first ? goes_on(call) : !is_held(mesh, call);
}

static void pump_class(struct mesh *mesh, struct call_class *class)
{
    struct mesh_call *next;

    for (struct mesh_call *call = class->line.first; call && class->free_slots; call = next) {
        next = call->next;
        if (is_held(mesh, call))
            continue;
        call_list_remove(&class->line, call);
        take_slot(mesh, class, call);
    }
}

void caller_pump(struct mesh *mesh, uint32_t peer)
{
    for (uint32_t lane = N_LANES; lane-- > 0;)
        for (uint32_t class = 0; class < SEGMENT_SLOT_CLASSES; class ++)
            pump_class(mesh, &mesh->links[peer].classes[lane][class]);
}

void caller_leave_slot(struct mesh *mesh, const struct mesh_call *call)
{
    caller_put_free(mesh, call->target, call->slot);
    caller_pump(mesh, call->target);
}

/* ---- ending ---- */

void caller_finish(struct mesh *mesh, struct mesh_call *call, const struct mesh_answer *answer)
{
    struct mesh_answer told = *answer;
    char text[128];

    if (!told.data && told.status < 0) {
        told.data = text;
        told.len = call_end_explain(answer, mesh->orphaned, text, sizeof(text));
    }
    caller_stop_timer(call);
    call->where = CALL_NOWHERE;
    if (call->room.off)
        caller_drop_room(mesh, call);
    if (call->n_crashes)
        poison_forget(call);
    mesh->n_under_way--;
    call->done(call, &told);
}

void caller_abandon(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct call_slot *shared = caller_slot(mesh, peer, slot);

    atomic_store_release(
        &shared->word, call_word(word_generation(shared->word), CALL_ABANDONED)); /* GONE */
    caller_note_withdrawal(mesh, peer);
}

/* So that a method that runs for long need not go on for nobody. */
void caller_push_abandoned(struct mesh *mesh, uint32_t peer, uint32_t slot, int32_t why)
{
    mesh_push(mesh, peer,
        &(struct message){.kind = MESSAGE_ABANDONED,
            .slot = slot,
            .status = why,
            .generation = word_generation(caller_slot(mesh, peer, slot)->word)});
}

/* Before its slot is let go: who dies in between has noted the end, or still has the slot. */
void caller_note_end(struct mesh_call *call, const struct mesh_answer *answer)
{
    if (call->note)
        call->note(call, answer);
}

/* The same, for one that is taken back. */
static void note_taken_back(struct mesh_call *call, enum call_end end, int status)
{
    if (call->where == CALL_OUT)
        caller_note_end(
            call, &(struct mesh_answer){.end = end, .status = status, .shard = call->target});
}

/* Takes a call back from wherever it is; one that is published leaves its slot abandoned. */
static void take_back(struct mesh *mesh, struct mesh_call *call)
{
    struct link *link = &mesh->links[call->target];

    switch ((enum mesh_call_where)call->where) {
    case CALL_IN_LINE:
        call_list_remove(&class_of_call(mesh, call)->line, call);
        break;
    case CALL_FOR_HEAP:
        heap_cancel(&mesh->heap, &call->waiter);
        caller_leave_slot(mesh, call);
        break;
    case CALL_OUT:
        caller_inherit_room(mesh, call);
        link->out[call->slot].call = NULL;
        caller_abandon(mesh, call->target, call->slot);
        caller_push_abandoned(mesh, call->target, call->slot, -ECANCELED);
        break;
    case CALL_NOWHERE:
    case CALL_FILLING:
    case CALL_OVER:
        break;
    }
}

void caller_on_deadline(void *opaque)
{
    struct mesh_call *call = opaque;

    note_taken_back(call, CALL_END_EXPIRED, -ETIMEDOUT);
    take_back(call->mesh, call);
    caller_end_later(call->mesh, call, CALL_END_EXPIRED, -ETIMEDOUT);
}

void mesh_call_cancel(struct mesh *mesh, struct mesh_call *call)
{
    if (call->where == CALL_NOWHERE || call->where == CALL_OVER || call->where == CALL_FILLING)
        return;
    note_taken_back(call, CALL_END_CANCELLED, -ECANCELED);
    take_back(mesh, call);
    caller_end_later(mesh, call, CALL_END_CANCELLED, -ECANCELED);
}

void caller_end_line(struct mesh *mesh, uint32_t peer, enum call_end end, int status)
{
    for (uint32_t lane = 0; lane < N_LANES; lane++)
        for (uint32_t class = 0; class < SEGMENT_SLOT_CLASSES; class ++) {
            struct call_list *line = &mesh->links[peer].classes[lane][class].line;
            while (line->first) {
                struct mesh_call *call = line->first;
                call_list_remove(line, call);
                caller_end_later(mesh, call, end, status);
            }
        }
}

void caller_run_again(struct mesh *mesh, struct mesh_call *call)
{
    call->where = CALL_IN_LINE;
    call_list_prepend(&class_of_call(mesh, call)->line, call);
}

/* ---- starting ---- */

static int check_call(const struct mesh *mesh, struct mesh_call *call)
{
    if (call->target >= mesh->seg.geometry.n_shards || call->target == mesh->self)
        return -ENODEV;
    if (builtin_is(call->method) ? call->depth != SEGMENT_DEPTH_BUILTIN
                                 : call->depth >= SEGMENT_MAX_DEPTH)
        return -ELOOP;
    if (call->depth && mesh->self == segment_gateway(&mesh->seg))
        return -ELOOP;
    if (call->lane >= N_LANES)
        return -EINVAL;
    if (call->args_len > SEGMENT_PAYLOAD_MAX || (call->ready && !call->args_len))
        return -EMSGSIZE;
    call->callee = mesh_method(mesh, call->method, NULL);
    return call->callee ? 0 : -ENOENT;
}

int mesh_call_start(struct mesh *mesh, struct mesh_call *call)
{
    struct call_class *class;
    int r = check_call(mesh, call);

    if (r < 0)
        return r;
    call->mesh = mesh;
    if (!call->depth)
        call->path =
            path_within(0, SEGMENT_MAX_DEPTH - 1, mesh->self); /* a place that no other has */
    call->room.off = 0;
    call->n_crashes = 0;
    call->poison = NULL;
    mesh->n_under_way++;
    if (call->deadline_ns != INT64_MAX)
        aio_timer_init(mesh->ctx, &call->timer, caller_on_deadline, call);
    if (caller_is_given_up(mesh, call->target)) {
        caller_end_later(mesh, call, CALL_END_NOT_STARTED, -EHOSTDOWN);
        return 0;
    }
    if (call->deadline_ns != INT64_MAX)
        timer_mod_ns(&call->timer, call->deadline_ns);
    class = class_of_call(mesh, call);
    if (goes_at_once(mesh, class, call)) {
        take_slot(mesh, class, call);
        return 0;
    }
    call->where = CALL_IN_LINE;
    call_list_append(&class->line, call);
    counter_add(&mesh->links[call->target].stats->slot_waits, 1);
    return 0;
}

/* ---- what comes back ---- */

/* The slot that a message of peer's speaks of, if it is still that call's; else NULL. */
static struct call_slot *slot_of_message(
    const struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct call_slot *shared;

    if (message->slot >= mesh->links[peer].n_out)
        return NULL;
    shared = caller_slot(mesh, peer, message->slot);
    if (word_generation(shared->word) != message->generation ||
        word_state(shared->word) == CALL_FREE)
        return NULL;
    return shared;
}

static bool answer_makes_sense(const struct message *message, const uint8_t *bytes)
{
    return bytes && message->end > CALL_END_NONE && message->end < N_CALL_ENDS;
}

static struct mesh_answer answer_of(
    uint32_t peer, const struct message *message, const uint8_t *bytes)
{
    if (!answer_makes_sense(message, bytes))
        return (struct mesh_answer){.end = CALL_END_FAILED, .status = -EPROTO, .shard = peer};
    return (struct mesh_answer){.end = (enum call_end)message->end,
        .status = message->status,
        .data = bytes,
        .len = message->len,
        .shard = peer};
}

/* One in the serve slot is copied before our slot is free: from then on the callee may write over
 * it. */
static void take_small_answer(
    struct mesh *mesh, uint32_t peer, struct ring_rx *rx, const struct message *message)
{
    struct link *link = &mesh->links[peer];
    struct mesh_call *call = link->out[message->slot].call;
    uint8_t small[SEGMENT_INLINE_BYTES];
    const uint8_t *bytes = message->len <= sizeof(small) ? small : NULL;
    struct mesh_answer answer = answer_of(peer, message, bytes);

    if (bytes)
        memcpy(small, link->served[message->slot].inline_answer, message->len);
    if (call)
        caller_note_end(call, &answer);
    /* An abandoned call's end was told already: by a deadline, a cancel, or to nobody. */
    caller_free_slot(mesh, peer, message->slot, call ? answer.end : CALL_END_NONE);
    /* Dying before this, the replacement finds the answer of a free slot, and drops it. */
    ring_advance(rx);
    if (call)
        caller_finish(mesh, call, &answer);
}

void caller_free_read_slot(struct mesh *mesh, uint32_t peer, uint32_t slot, enum call_end end)
{
    uint64_t generation = word_generation(caller_slot(mesh, peer, slot)->word);

    caller_free_slot(mesh, peer, slot, end);
    mesh_push(mesh, peer,
        &(struct message){.kind = MESSAGE_ANSWER_TAKEN, .slot = slot, .generation = generation});
}

/*
 * One in the callee's heap is read there. The slot stays taken meanwhile, and with it the buffer:
 * the callee's replacement, should it die, finds the slot not free and keeps it (serve_recover).
 * Should we die, our replacement finds it CALL_READING, with no answer to come, and frees it.
 */
static void read_large_answer(
    struct mesh *mesh, uint32_t peer, struct ring_rx *rx, const struct message *message)
{
    struct link *link = &mesh->links[peer];
    struct call_slot *shared = caller_slot(mesh, peer, message->slot);
    struct out_slot *out = &link->out[message->slot];
    struct mesh_call *call = out->call;
    struct mesh_hold hold = {.peer = peer, .slot = message->slot};
    struct mesh_answer answer = answer_of(peer, message,
        message->len <= SEGMENT_PAYLOAD_MAX
            ? segment_heap_at(&mesh->seg, peer, message->off, message->len)
            : NULL);

    if (call && call->room.off)
        out->args = (struct args_buffer){0}; /* the call's, whatever the callee said of them */
    answer.hold = answer.data ? &hold : NULL;
    out->end = call ? answer.end : CALL_END_NONE;
    out->call = NULL;
    if (call)
        caller_note_end(call, &answer);
    atomic_store_release(
        &shared->word, call_word(word_generation(shared->word), CALL_READING)); /* GONE */
    ring_advance(rx);
    if (call) {
        mesh_count_payload(mesh, false, answer.len);
        caller_finish(mesh, call, &answer);
    }
    if (!hold.held)
        caller_free_read_slot(mesh, peer, message->slot, out->end);
}

void mesh_answer_hold(
    struct mesh *mesh, const struct mesh_answer *answer, struct mesh_hold *ret_hold)
{
    assert(answer->hold && !answer->hold->held);
    answer->hold->held = true;
    *ret_hold = *answer->hold;
    mesh->n_held++;
}

void mesh_hold_release(struct mesh *mesh, struct mesh_hold *hold)
{
    if (!hold->held)
        return;
    hold->held = false;
    mesh->n_held--;
    caller_free_read_slot(
        mesh, hold->peer, hold->slot, mesh->links[hold->peer].out[hold->slot].end);
    caller_pump(mesh, hold->peer);
}

void caller_on_answer(
    struct mesh *mesh, uint32_t peer, struct ring_rx *rx, const struct message *message)
{
    struct link *link = &mesh->links[peer];
    const struct call_slot *shared = slot_of_message(mesh, peer, message);

    if (!shared || word_state(shared->word) == CALL_READING) {
        ring_advance(rx);
        counter_add(&link->stats->dropped, 1);
        return;
    }
    if (message->off)
        read_large_answer(mesh, peer, rx, message);
    else
        take_small_answer(mesh, peer, rx, message);
    pump_class(mesh, class_of_slot(mesh, peer, message->slot));
}
