/* SPDX-License-Identifier: MIT */
/*
 * A request's way, each step a store that makes the fields before it count, so that whoever takes
 * over after any of them knows how far it was (heir.c):
 *
 *     free      the entry is copied into the slot, and checked
 *     taken     marked with client, generation and position; then the lane's head moves
 *     started   the method begins
 *     ended     the completion stands in the slot, with its position; then the lane's tail moves,
 *               and the completion is written to the client's memory
 *     free
 *
 * Completions are written some at a time, at the latest when the phase of the loop ends: a client
 * that waits for the next one reads the line that it will be in again and again, and takes it away
 * from this core each time; so it costs the less the fewer of them it sees coming.
 *
 * One slot is kept for what ends at once, so that what must be refused can be, however full it is.
 *
 * Orderings  first                 then              ordered by             if broken
 *   TAKEN    mark and entry        word = taken      store release          half an entry is run
 *   HEAD     word = taken          head, requests    store release          one is taken twice
 *   START    incarnation           word = started    store release, before  what was begun
 *                                                    the first step         counts as not begun
 *   ENDED    completion, position  word = ended      store release          half a completion is
 *                                                                           written
 *   TAIL     word = ended          tail              store release          a position is given out
 *                                                                           twice
 *   TURN     completion's bytes    its turn          store release,         the client reads half a
 *                                                    client's acquire       completion
 *   FREE     turn                  word = free       store release          a completion is never
 *                                                                           written
 *   CANCEL   flag                  the method's end  store relaxed          the heir does not know
 */
#include <errno.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/context.h"

#define RETRY_US_MIN 100u
#define RETRY_US_MAX 1000000u

void ledger_init(struct plane *plane)
{
    plane->first_free = NO_REQUEST;
    for (uint32_t n = plane->n_ledger; n-- > 0;) {
        if (ledger_state(plane->ledger[n].word) != LEDGER_FREE)
            continue;
        plane->requests[n].next = plane->first_free;
        plane->first_free = n;
        plane->n_free++;
    }
}

/* ---- taking ---- */

struct ledger_slot *ledger_next(struct plane *plane)
{
    return &plane->ledger[plane->first_free];
}

static void link_to_lane(struct lane *lane, struct request *request)
{
    struct plane *plane = lane->plane;
    uint32_t n = (uint32_t)(request - plane->requests);

    request->lane = lane;
    request->prev = NO_REQUEST;
    request->next = lane->first;
    if (lane->first != NO_REQUEST)
        plane->requests[lane->first].prev = n;
    lane->first = n;
    lane->n_in_flight++;
    lane->bytes_in_flight += request->bytes;
    plane->n_under_way++;
    plane->n_accepted++;
}

struct request *ledger_commit(struct lane *lane, enum mesh_lane which, uint64_t bytes)
{
    struct plane *plane = lane->plane;
    struct request *request = &plane->requests[plane->first_free];
    struct ledger_slot *slot = ledger_next(plane);

    plane->first_free = request->next;
    plane->n_free--;
    slot->client = lane->grant.client;
    slot->client_generation = lane->grant.generation;
    slot->position = lane->intakes[which].head;
    slot->number = lane->row->requests;
    slot->taken_ns = context_coarse_ns(plane->ctx);
    slot->flags = which == LANE_URGENT ? LEDGER_URGENT : 0;
    atomic_store_release(
        &slot->word, ledger_word(ledger_generation(slot->word) + 1, LEDGER_TAKEN)); /* TAKEN */
    intake_pass(&lane->intakes[which]);
    atomic_store_release(&lane->row->requests, lane->row->requests + 1); /* HEAD */
    request->bytes = bytes;
    link_to_lane(lane, request);
    return request;
}

void ledger_adopt(struct lane *lane, struct request *request)
{
    struct ledger_slot *slot = slot_of(lane->plane, request);
    struct client_lane *row = lane->row;
    const struct plane_submission *entry = entry_of(slot);
    struct intake *in = &lane->intakes[intake_of(slot)];

    request->bytes = entry_bytes(entry);
    link_to_lane(lane, request);
    if (slot->position >= in->head) {
        in->head = slot->position + 1;
        atomic_store_release(in->row_head, in->head); /* HEAD */
    }
    if (slot->number >= row->requests)
        atomic_store_release(&row->requests, slot->number + 1); /* HEAD */
}

void ledger_void(struct plane *plane, struct request *request)
{
    struct ledger_slot *slot = slot_of(plane, request);

    atomic_store_release(
        &slot->word, ledger_word(ledger_generation(slot->word), LEDGER_FREE)); /* FREE */
    request->lane = NULL;
    request->next = plane->first_free;
    plane->first_free = (uint32_t)(request - plane->requests);
    plane->n_free++;
}

void ledger_start(struct plane *plane, struct request *request)
{
    struct ledger_slot *slot = slot_of(plane, request);

    atomic_store_relaxed(&slot->incarnation, plane->incarnation); /* START */
    atomic_store_release(
        &slot->word, ledger_word(ledger_generation(slot->word), LEDGER_STARTED)); /* START */
}

/* ---- answers ---- */

uint8_t *ledger_room(struct plane *plane, struct request *request, size_t len)
{
    const struct plane_submission *entry = entry_of(slot_of(plane, request));

    return len <= entry->room_len ? request->lane->data + entry->room_off : NULL;
}

uint32_t ledger_put_text(struct plane *plane, struct request *request, const char *text)
{
    struct ledger_slot *slot = slot_of(plane, request);
    size_t len = text ? strlen(text) : 0, room_len = entry_of(slot)->room_len;

    if (len <= PLANE_INLINE_ANSWER || room_len <= PLANE_INLINE_ANSWER) {
        len = len <= PLANE_INLINE_ANSWER ? len : PLANE_INLINE_ANSWER;
        memcpy(completion_of(slot)->inline_answer, text ? text : "", len);
    } else {
        len = len <= room_len ? len : room_len;
        memcpy(ledger_room(plane, request, len), text, len);
    }
    return (uint32_t)len;
}

/* ---- ending ---- */

static struct plane_completion *completion_at(const struct lane *lane, uint64_t position)
{
    return &lane->completions[position & (lane->n_entries - 1)];
}

/* The bytes first, and the turn that makes them count last. */
static void write_completion(struct lane *lane, const struct plane_completion *from)
{
    struct plane_completion *to = completion_at(lane, from->turn - 1);

    memcpy(to, from, offsetof(struct plane_completion, turn));
    atomic_store_release(&to->turn, from->turn); /* TURN */
}

static void unlink_from_lane(struct plane *plane, struct request *request)
{
    struct lane *lane = request->lane;

    if (request->prev != NO_REQUEST)
        plane->requests[request->prev].next = request->next;
    else
        lane->first = request->next;
    if (request->next != NO_REQUEST)
        plane->requests[request->next].prev = request->prev;
    lane->n_in_flight--;
    lane->bytes_in_flight -= request->bytes;
    plane->n_under_way--;
    plane->n_ended++;
}

/* A slot and a place in its quota are free again; who has waited for either is looked at. */
static void wake_waiting(struct lane *lane)
{
    struct plane *plane = lane->plane;

    if (lane_waits(lane))
        intake_go_on(lane, WAIT_OWN);
    if (!plane->n_slot_waits)
        return;
    struct lane *other = plane->hot;

    for (uint32_t i = 0; i < plane->n_hot; i++, other = other->next)
        intake_go_on(other, WAIT_SLOT);
}

void ledger_write(struct lane *lane)
{
    struct plane *plane = lane->plane;
    uint32_t n = lane->n_unwritten;

    if (!n)
        return;
    lane->n_unwritten = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct request *request = &plane->requests[lane->unwritten[i]];
        if (lane->state == CLIENT_LANE_OPEN)
            write_completion(lane, completion_of(slot_of(plane, request)));
        unlink_from_lane(plane, request);
        ledger_void(plane, request);
    }
    wake_waiting(lane);
}

void ledger_publish(struct plane *plane, struct request *request)
{
    struct ledger_slot *slot = slot_of(plane, request);
    struct lane *lane = request->lane;

    if (slot->tail >= lane->tail) {
        lane->tail = slot->tail + 1;
        atomic_store_release(&lane->row->tail, lane->tail); /* TAIL */
    }
    atomic_prefetch_write(completion_at(lane, slot->tail));
    lane->unwritten[lane->n_unwritten++] = (uint32_t)(request - plane->requests);
    lane_mark_dirty(lane);
    if (lane->n_unwritten == WRITE_BATCH)
        ledger_write(lane);
}

void ledger_end(struct plane *plane, struct request *request, const struct outcome *outcome)
{
    struct ledger_slot *slot = slot_of(plane, request);
    struct plane_completion *completion = completion_of(slot);
    uint32_t n_inline = outcome->len <= PLANE_INLINE_ANSWER ? outcome->len : 0;

    /* Behind the answer stands that of the slot's last client, who may be another. */
    memset(completion->inline_answer + n_inline, 0, PLANE_INLINE_ANSWER - n_inline);
    completion->id = entry_of(slot)->id;
    completion->len = outcome->len;
    completion->error = outcome->error;
    completion->end = (uint8_t)outcome->end;
    memset(completion->spare, 0, sizeof(completion->spare));
    completion->shard = outcome->shard;
    completion->retry_us = outcome->retry_us;
    completion->turn = (uint32_t)(request->lane->tail + 1);
    slot->tail = request->lane->tail;
    atomic_store_release(
        &slot->word, ledger_word(ledger_generation(slot->word), LEDGER_ENDED)); /* ENDED */
    ledger_publish(plane, request);
}

void ledger_refuse(struct plane *plane, struct request *request, enum call_end end, int error,
    const char *text, uint32_t retry_us)
{
    ledger_end(plane, request,
        &(struct outcome){.end = end,
            .error = error,
            .len = ledger_put_text(plane, request, text),
            .shard = UINT32_MAX,
            .retry_us = retry_us});
}

void ledger_refuse_behind(struct plane *plane, struct request *request, int64_t delay_ns)
{
    uint64_t us = (uint64_t)delay_ns / 1000;

    counter_add(&request->lane->row->refused, 1);
    ledger_refuse(plane, request, CALL_END_NOT_STARTED, -EAGAIN, "the shard is behind",
        us < RETRY_US_MIN   ? RETRY_US_MIN
        : us > RETRY_US_MAX ? RETRY_US_MAX
                            : (uint32_t)us);
}

void ledger_turn_away(struct plane *plane, struct request *request)
{
    ledger_refuse(plane, request, CALL_END_NOT_STARTED, -ESHUTDOWN, "the instance is draining", 0);
    plane->n_accepted--;
    plane->n_ended--;
}

void ledger_cancel(struct plane *plane, struct request *request)
{
    struct ledger_slot *slot = slot_of(plane, request);

    if (slot->flags & LEDGER_CANCELLED)
        return;
    atomic_store_relaxed(&slot->flags, slot->flags | LEDGER_CANCELLED); /* CANCEL */
    if (request->forward)
        co_cancel(request->forward);
    else if (request->call)
        serve_abandon(request->call); /* it may be over when this returns */
}
