/* SPDX-License-Identifier: MIT */
/*
 * What a dead incarnation left in the ledger, by how far it was:
 *
 *   its client is gone        the slot is free
 *   taken                     run
 *   started, idempotent       run again
 *   started, else             in doubt
 *   ended                     its completion is written once more, at the same position
 *
 * The kernel may go on with what the dead one had in flight. Where a request was about to let it
 * touch the client's memory, neither is it run again nor is its end told before the supervisor has
 * the proof that this is over (shard/quiet.h): the client may use that memory as soon as it hears.
 *
 * A crash counts for the client in the shard that it asked, wherever that had its request run: in
 * this one it is found in the ledger, in another one by judging the call (shard/judge.h).
 *
 * A row whose client is not kept any more was dropped while nobody lived here: it is let go.
 *
 * Orderings    first                 then              ordered by                if broken
 *   QUIET    kernel's last write   client is told    supervisor's release,     a client's buffer is
 *                                                    acquire here (quiet.c)    written over
 *   POISON   crash counted         request judged    store release             a crash is not counted
 *   GONE: see lane.c; ROW: see ipc/gateway/clients.c
 */
#include <errno.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"

#define CRASHES_MAX 3u

/* ---- who was on the CPU ---- */

static bool was_on_cpu(const struct plane *plane, const struct request *request)
{
    const struct peer_control *control = plane->control;
    const struct ledger_slot *slot = slot_of(plane, request);

    return control->crashed_incarnation == slot->incarnation &&
           control->crashed_generation == ledger_generation(slot->word) &&
           control->crashed_slot == (uint32_t)(request - plane->requests) &&
           control->crashed_peer == plane->shard && control->crashed_home == plane->shard;
}

/* Its own in this shard; those in others are read from there. */
static uint32_t count_crashes(const struct lane *lane)
{
    const struct segment *seg = &lane->plane->seg;
    uint32_t n = 0;

    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++) {
        const struct client_lane *row = segment_client_lane(seg, shard, lane->grant.client);
        if (row->generation == lane->grant.generation)
            n += client_lane_crashes(atomic_load_relaxed(&row->crashes));
    }
    return n;
}

/* Whether it is news: it may have been noted by one that died since. */
static bool count_crash(struct client_lane *row, uint32_t incarnation)
{
    uint64_t *word = &row->crashes;

    if ((uint32_t)(*word >> 32) == incarnation)
        return false;
    atomic_store_release(
        word, (uint64_t)incarnation << 32 | (client_lane_crashes(*word) + 1)); /* POISON */
    return true;
}

static void note_crash(struct lane *lane, uint32_t incarnation)
{
    if (!count_crash(lane->row, incarnation))
        return;
    if (count_crashes(lane) >= CRASHES_MAX)
        lane_cut(lane, CUT_POISON);
}

/* The caller judges each call once, so it is news. The incarnation in the word stays: it is that of
 * the last crash of this shard. */
void heir_on_crash(uint64_t origin, void *opaque)
{
    struct plane *plane = opaque;
    uint32_t client = (uint32_t)(origin >> ORIGIN_ID_BITS);
    struct client_lane *row;
    struct lane *lane;

    if (client >= plane->seg.geometry.n_clients)
        return;
    row = &plane->rows[client];
    if (origin_word(client, row->generation) != origin)
        return;                                            /* it is long gone */
    atomic_store_release(&row->crashes, row->crashes + 1); /* POISON */
    lane = lane_find(plane, client, row->generation);
    if (lane && count_crashes(lane) >= CRASHES_MAX)
        lane_cut(lane, CUT_POISON);
    lane_tell_gateway(plane); /* its user is to wait from now on */
}

/* ---- one request ---- */

static bool is_quiet(const struct plane *plane, const struct ledger_slot *slot)
{
    uint32_t quiet = atomic_load_acquire(&plane->control->quiet_incarnation); /* QUIET */

    return !(slot->flags & LEDGER_TOUCHES_CLIENT) || (int32_t)(quiet - slot->incarnation) >= 0;
}

static void judge_started(struct plane *plane, struct request *request)
{
    struct ledger_slot *slot = slot_of(plane, request);
    const struct service_method *method =
        registry_method(plane->registry, entry_of(slot)->method, NULL);

    if (was_on_cpu(plane, request))
        note_crash(request->lane, slot->incarnation);
    if (!method || !(method->flags & SERVICE_IDEMPOTENT))
        ledger_refuse(plane, request, CALL_END_IN_DOUBT, -EOWNERDEAD, "its shard died with it", 0);
    else if (slot->flags & LEDGER_CANCELLED)
        ledger_refuse(plane, request, CALL_END_CANCELLED, -ECANCELED, NULL, 0);
    else if (request->lane->state != CLIENT_LANE_OPEN)
        ledger_refuse(plane, request, CALL_END_FAILED, -EOWNERDEAD, NULL, 0);
    else
        run_begin(plane, request);
}

static void judge_taken(struct plane *plane, struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);

    if (slot->flags & LEDGER_CANCELLED || request->lane->state != CLIENT_LANE_OPEN)
        ledger_refuse(plane, request, CALL_END_CANCELLED, -ECANCELED, NULL, 0);
    else
        run_begin(plane, request);
}

bool heir_look(struct plane *plane)
{
    bool progress = false;

    for (uint32_t n = 0; n < plane->n_ledger && plane->n_inherited > 0; n++) {
        struct request *request = &plane->requests[n];
        const struct ledger_slot *slot = slot_of(plane, request);
        if (!request->is_inherited || !is_quiet(plane, slot))
            continue;
        request->is_inherited = false;
        plane->n_inherited--;
        progress = true;
        if (ledger_state(slot->word) == LEDGER_STARTED)
            judge_started(plane, request);
        else
            judge_taken(plane, request);
    }
    return progress;
}

/* ---- all of them ---- */

/* Its client left in time, but its user is to wait for it all the same. */
static void void_request(struct plane *plane, struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);
    struct client_lane *row;

    if (slot->client < plane->seg.geometry.n_clients &&
        ledger_state(slot->word) == LEDGER_STARTED && was_on_cpu(plane, request)) {
        row = &plane->rows[slot->client];
        if (row->generation == slot->client_generation)
            count_crash(row, slot->incarnation);
    }
    ledger_void(plane, request);
}

/* What it never got, or lost with a death, it has let go of. */
static void let_go(struct plane *plane, uint32_t client)
{
    const struct client_row *row = segment_client(&plane->seg, client);
    uint64_t word = atomic_load_acquire(&row->word); /* ROW */
    bool is_owed = row->opened[plane->shard / 64] >> plane->shard % 64 & 1;

    if (plane->lanes[client])
        return;
    lane_let_go(plane, client, plane->rows[client].generation);
    if (is_owed && client_state(word) == CLIENT_ENDING)
        lane_let_go(plane, client, client_generation(word));
}

static void take_over(struct plane *plane, struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);
    enum ledger_state state = ledger_state(slot->word);
    struct lane *lane;

    if (state == LEDGER_FREE)
        return;
    lane = lane_find(plane, slot->client, slot->client_generation);
    if (!lane || state > LEDGER_ENDED) {
        void_request(plane, request);
        return;
    }
    ledger_adopt(lane, request);
    if (state == LEDGER_ENDED) {
        ledger_publish(plane, request);
        return;
    }
    request->is_inherited = true;
    plane->n_inherited++;
}

void heir_take_over(struct plane *plane)
{
    for (uint32_t n = 0; n < plane->n_ledger; n++)
        take_over(plane, &plane->requests[n]);
    for (uint32_t client = 0; client < plane->seg.geometry.n_clients; client++)
        let_go(plane, client);
    plane->unblocked = true; /* those that are to be begun are, in the first turn */
}
