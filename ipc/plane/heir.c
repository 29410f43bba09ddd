/* SPDX-License-Identifier: MIT */
/*
 * What a dead incarnation left in the ledger, by how far it was:
 *
 *   its client is gone        the slot is free
 *   taken                     run
 *   started, idempotent       run again; one that was on the CPU in three crashes is kept as a dead
 *                             letter instead
 *   started, else             in doubt
 *   ended                     its completion is written once more, at the same position
 *
 * The kernel may go on with what the dead one had in flight. Where a request was about to let it
 * touch the client's memory, neither is it run again nor is its end told before the supervisor has
 * the proof that this is over (shard/quiet.h): the client may use that memory as soon as it hears.
 *
 * What would be begun is not as long as its user has to wait for having crashed shards (charge.c).
 *
 * A row whose client is not kept any more was dropped while nobody lived here: it is let go. All
 * others are rung, as far as they sleep: between an end's last store and its byte lies a death too.
 *
 * Orderings    first                 then              ordered by                if broken
 *   QUIET    kernel's last write   client is told    supervisor's release,     a client's buffer is
 *                                                    acquire here (quiet.c)    written over
 *   GONE: see lane.c; ROW: see ipc/gateway/clients.c
 */
#include <errno.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "shard/bits.h"

/* ---- one request ---- */

static bool is_quiet(const struct plane *plane, const struct ledger_slot *slot)
{
    uint32_t quiet = atomic_load_acquire(&plane->control->quiet_incarnation); /* QUIET */

    return !(slot->flags & LEDGER_TOUCHES_CLIENT) || (int32_t)(quiet - slot->incarnation) >= 0;
}

static bool is_idempotent(const struct plane *plane, const struct ledger_slot *slot)
{
    const struct service_method *method =
        registry_method(plane->registry, entry_of(slot)->method, NULL);

    return method && method->flags & SERVICE_IDEMPOTENT;
}

static bool goes_on(const struct lane *lane)
{
    return lane->state == CLIENT_LANE_OPEN && !lane_is_ending(lane);
}

/* Whether it has to wait with its user. */
static bool is_barred(const struct plane *plane, const struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);
    struct lane *lane = request->lane;
    bool begins = ledger_state(slot->word) == LEDGER_TAKEN ||
                  (is_idempotent(plane, slot) && !park_is_due(plane, request));

    if (!begins || slot->flags & LEDGER_CANCELLED || !goes_on(lane) || !charge_bars(lane))
        return false;
    timer_mod_anticipate_ns(&lane->plane->heir_timer, lane->barred_ns);
    return true;
}

static void judge(struct plane *plane, struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);
    bool started = ledger_state(slot->word) == LEDGER_STARTED;

    if (started && !is_idempotent(plane, slot))
        ledger_refuse(plane, request, CALL_END_IN_DOUBT, -EOWNERDEAD, "its shard died with it", 0);
    else if (slot->flags & LEDGER_CANCELLED || (!started && !goes_on(request->lane)))
        ledger_refuse(plane, request, CALL_END_CANCELLED, -ECANCELED, NULL, 0);
    else if (started && park_is_due(plane, request))
        park_begin(plane, request);
    else if (!goes_on(request->lane))
        ledger_refuse(plane, request, CALL_END_FAILED, -EOWNERDEAD, NULL, 0);
    else
        run_begin(plane, request);
}

bool heir_look(struct plane *plane)
{
    bool progress = false;

    for (uint32_t n = 0; n < plane->n_ledger && plane->n_inherited > 0; n++) {
        struct request *request = &plane->requests[n];
        const struct ledger_slot *slot = slot_of(plane, request);
        if (!request->is_inherited || !is_quiet(plane, slot) || is_barred(plane, request))
            continue;
        request->is_inherited = false;
        plane->n_inherited--;
        progress = true;
        judge(plane, request);
    }
    return progress;
}

/* ---- all of them ---- */

/* A client that is kept is rung: the dead one may have written ends that it did not ring for. What
 * this shard never got, or lost with a death, it has let go of. */
static void greet_or_let_go(struct plane *plane, uint32_t client)
{
    const struct client_row *row = segment_client(&plane->seg, client);
    uint64_t word = atomic_load_acquire(&row->word);                        /* ROW */
    uint64_t opened = atomic_load_relaxed(&row->opened[plane->shard / 64]); /* ROW */

    if (plane->lanes[client]) {
        lane_mark_dirty(plane->lanes[client]);
        return;
    }
    lane_let_go(plane, client, plane->rows[client].generation);
    if (client_state(word) == CLIENT_ENDING && opened & bits_mask(plane->shard))
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
        ledger_void(plane, request);
        return;
    }
    ledger_adopt(lane, request);
    if (state == LEDGER_ENDED) {
        ledger_publish(plane, request);
        return;
    }
    if (state == LEDGER_STARTED && is_idempotent(plane, slot))
        park_note(plane, request);
    request->is_inherited = true;
    plane->n_inherited++;
}

void heir_on_timer(void *opaque)
{
    struct plane *plane = opaque;

    plane->unblocked = true; /* heir_look() follows */
}

void heir_take_over(struct plane *plane)
{
    for (uint32_t n = 0; n < plane->n_ledger; n++)
        take_over(plane, &plane->requests[n]);
    for (uint32_t client = 0; client < plane->seg.geometry.n_clients; client++)
        greet_or_let_go(plane, client);
    charge_look(plane);
    plane->unblocked = true; /* those that are to be begun are, in the first turn */
}
