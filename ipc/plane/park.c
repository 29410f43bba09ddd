/* SPDX-License-Identifier: MIT */
/*
 * A request of a client that is run again by each heir of its shard has nobody who lives from one
 * crash to the next but the segment: so there, in the shard's part, each heir notes the crash that
 * made it one, and what that left, before it begins anything. There are few such notes, since each
 * crash is of one request; one that is pushed out by others is counted anew, and its client is cut
 * off for three crashes all the same (charge.c).
 *
 * Orderings    first               then             ordered by       if broken
 *   NOTE     a crash's record    the note's n      store release    a crash is noted in half, or
 *            and incarnation                                        twice
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "shard/poison.h"

_Static_assert(SEGMENT_NOTED == DEAD_LETTER_CRASHES, "each of them is noted");

/* ---- notes ---- */

static bool was_on_cpu(const struct plane *plane, const struct request *request)
{
    const struct peer_control *control = plane->control;
    const struct ledger_slot *slot = slot_of(plane, request);

    return control->crashed_incarnation == slot->incarnation &&
           control->crashed_generation == ledger_generation(slot->word) &&
           control->crashed_slot == (uint32_t)(request - plane->requests) &&
           control->crashed_peer == plane->shard && control->crashed_home == plane->shard;
}

/* NULL: there is none. */
static struct crash_note *find_note(const struct plane *plane, const struct request *request)
{
    struct crash_note *notes = segment_crash_notes(&plane->seg, plane->shard);
    uint64_t generation = ledger_generation(slot_of(plane, request)->word);

    for (uint32_t i = 0; i < SEGMENT_CRASH_NOTES; i++)
        if (notes[i].n > 0 && notes[i].n <= SEGMENT_NOTED &&
            notes[i].slot == (uint32_t)(request - plane->requests) &&
            notes[i].generation == generation)
            return &notes[i];
    return NULL;
}

/* Of a request that is not under way any more, or else that with the oldest crash. */
static bool is_over(const struct plane *plane, const struct crash_note *note)
{
    return note->n == 0 || note->n > SEGMENT_NOTED || note->slot >= plane->n_ledger ||
           plane->ledger[note->slot].word != ledger_word(note->generation, LEDGER_STARTED);
}

static struct crash_note *take_note(struct plane *plane, const struct request *request)
{
    struct crash_note *notes = segment_crash_notes(&plane->seg, plane->shard), *note = notes;

    for (uint32_t i = 0; i < SEGMENT_CRASH_NOTES; i++) {
        if (is_over(plane, &notes[i])) {
            note = &notes[i];
            break;
        }
        if ((int32_t)(notes[i].incarnations[notes[i].n - 1] - note->incarnations[note->n - 1]) < 0)
            note = &notes[i];
    }
    atomic_store_release(&note->n, 0u); /* NOTE */
    note->slot = (uint32_t)(request - plane->requests);
    note->generation = ledger_generation(slot_of(plane, request)->word);
    return note;
}

void park_note(struct plane *plane, struct request *request)
{
    uint32_t incarnation = slot_of(plane, request)->incarnation;
    struct crash_note *note;

    if (!was_on_cpu(plane, request))
        return;
    note = find_note(plane, request);
    if (!note)
        note = take_note(plane, request);
    /* It may have been noted by one that died since, of something else. */
    if (note->n == SEGMENT_NOTED || (note->n > 0 && note->incarnations[note->n - 1] == incarnation))
        return;
    poison_read_record(&plane->seg, plane->shard, incarnation, &note->records[note->n]);
    note->incarnations[note->n] = incarnation;
    atomic_store_release(&note->n, note->n + 1); /* NOTE */
}

bool park_is_due(const struct plane *plane, const struct request *request)
{
    const struct crash_note *note = find_note(plane, request);

    return note && note->n == SEGMENT_NOTED;
}

/* ---- the letter ---- */

struct parked {
    struct plane *plane;
    struct request *request;
    struct poison crashes;
};

static void on_kept(void *opaque, const char *text)
{
    struct parked *parked = opaque;

    parked->request->lane->n_parked--;
    ledger_refuse(parked->plane, parked->request, CALL_END_FAILED, -ENOTRECOVERABLE, text, 0);
    free(parked);
}

static void copy_note(const struct plane *plane, const struct crash_note *note, struct poison *to)
{
    for (uint32_t i = 0; i < SEGMENT_NOTED; i++) {
        to->shards[i] = plane->shard;
        to->incarnations[i] = note->incarnations[i];
        to->records[i] = note->records[i];
    }
}

void park_begin(struct plane *plane, struct request *request)
{
    const struct plane_submission *entry = entry_of(slot_of(plane, request));
    bool is_inline = entry->flags & PLANE_ARGS_INLINE || entry->args_len == 0;
    struct parked *parked = malloc(sizeof(*parked));

    if (!parked) {
        ledger_refuse(
            plane, request, CALL_END_FAILED, -ENOTRECOVERABLE, "no memory for a dead letter", 0);
        return;
    }
    parked->plane = plane;
    parked->request = request;
    copy_note(plane, find_note(plane, request), &parked->crashes);
    request->lane->n_parked++;
    poison_keep(plane->mesh,
        &(struct poisoned){.caller = plane->shard,
            .callee = plane->shard,
            .method = entry->method,
            .origin = lane_origin(request->lane),
            .args = is_inline ? entry->inline_args : request->lane->data + entry->args_off,
            .args_len = entry->args_len,
            .crashes = &parked->crashes},
        on_kept, parked);
}
