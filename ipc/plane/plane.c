/* SPDX-License-Identifier: MIT */
/*
 * A lane is hot while it is looked at in each turn; else its client has been told to ring. Hot ones
 * stand in a circle, of which a turn visits at most VISITS, each for at most BUDGET entries: so a
 * client with a full ring has no more of a shard than one with two entries. Their urgent rings are
 * looked at first, all of them, and then the others, where each lane has left what it has not
 * spent: so what is urgent runs before what is not, and nobody has more by it. A lane at which
 * nothing was found for QUIET_LOOKS visits is told to ring, and so are all before the loop sleeps:
 * then nothing is looked at any more, and 5,000 lanes cost nothing.
 *
 * What ends in a phase of the loop is rung for once for each client, in flush().
 *
 * Orderings  first              then           ordered by                 if broken
 *   ENTRY    entry's bytes      its turn       client's release, acquire  half an entry is taken
 *   ASKED    need_wakeup set    a last look    full fence, and the        both miss: the shard
 *                                              client's after its push    sleeps on an entry
 *   SLEEPS   completion's turn  client_sleeps  full fence, and the        both miss: the client
 *                                              client's before it looks   sleeps on a completion
 */
#include "ipc/plane/plane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/context.h"

#define VISITS      8u
#define QUIET_LOOKS 1024u
#define TABLE_NAME  "sys.methods"

/* ---- looking ---- */

static bool plane_pending(void *opaque)
{
    struct plane *plane = opaque;
    uint32_t n = plane->n_hot < VISITS ? plane->n_hot : VISITS;

    if (plane->unblocked)
        return true;
    for (uint32_t i = 0; i < n; i++) {
        if (lane_is_due(plane->hot))
            return true;
        plane->hot = plane->hot->next; /* the next look, or turn, goes on there */
    }
    return false;
}

/* Asks the client to ring, unless it has pushed something meanwhile. */
static void cool_quiet(struct lane *lane)
{
    atomic_store_relaxed(&lane->words->need_wakeup, 1); /* ASKED */
    atomic_full_fence();                                /* ASKED */
    if (lane_is_due(lane)) {
        atomic_store_relaxed(&lane->words->need_wakeup, 0);
        lane->n_quiet = 0;
    } else {
        lane_cool(lane);
    }
}

static bool visit(struct lane *lane)
{
    bool progress = intake_visit(lane, LANE_NORMAL);

    if (progress || lane->n_taken || lane_waits(lane))
        lane->n_quiet = 0;
    else if (++lane->n_quiet >= QUIET_LOOKS)
        cool_quiet(lane);
    intake_end_turn(lane);
    return progress;
}

static bool look_at_urgent(struct plane *plane, uint32_t n)
{
    struct lane *lane = plane->hot;
    bool progress = false;

    for (uint32_t i = 0; i < n && plane->hot; i++) {
        struct lane *next = lane->next;
        if (intake_is_due(&lane->intakes[LANE_URGENT]))
            progress |= intake_visit(lane, LANE_URGENT);
        else
            lane->intakes[LANE_URGENT].left_ns = 0;
        lane = next;
    }
    return progress;
}

static bool look_at_lanes(struct plane *plane)
{
    uint32_t n = plane->n_hot < VISITS ? plane->n_hot : VISITS;
    bool progress = look_at_urgent(plane, n);

    for (uint32_t i = 0; i < n && plane->hot; i++) {
        struct lane *lane = plane->hot;
        plane->hot = lane->next;
        progress |= visit(lane);
    }
    return progress;
}

static bool plane_dispatch(void *opaque)
{
    struct plane *plane = opaque;
    bool progress = plane->unblocked;

    plane->unblocked = false;
    progress |= charge_look(plane);
    if (plane->n_inherited)
        progress |= heir_look(plane);
    if (plane->hot && !plane->is_closed)
        progress |= look_at_lanes(plane);
    return progress;
}

/* All are asked to ring before the last look at any, with one fence for all of them. */
static bool plane_prepare(void *opaque)
{
    struct plane *plane = opaque;
    struct lane *lane = plane->hot;
    uint32_t n = plane->n_hot;
    bool found = false;

    if (!n || plane->is_closed)
        return false;
    for (uint32_t i = 0; i < n; i++, lane = lane->next)
        atomic_store_relaxed(&lane->words->need_wakeup, 1); /* ASKED */
    atomic_full_fence();                                    /* ASKED */
    for (uint32_t i = 0; i < n; i++) {
        struct lane *next = lane->next;
        if (lane_is_due(lane)) {
            found = true;
            atomic_store_relaxed(&lane->words->need_wakeup, 0);
        } else if (!lane_waits(
                       lane)) { /* else it is found when that is over, and rings for a cancel */
            lane_cool(lane);
        }
        lane = next;
    }
    return found;
}

/* ---- ringing ---- */

static void show_counts(struct plane *plane)
{
    counter_set(&plane->part->requests_ended, plane->n_ended);
    counter_set(&plane->part->requests_in_flight, plane->n_under_way);
    counter_set(&plane->part->requests_accepted, plane->n_accepted);
}

static void plane_flush(void *opaque)
{
    struct plane *plane = opaque;

    if (plane->n_accepted != plane->part->requests_accepted ||
        plane->n_ended != plane->part->requests_ended)
        show_counts(plane);
    if (!plane->dirty)
        return;
    for (struct lane *lane = plane->dirty; lane; lane = lane->next_dirty)
        ledger_write(lane);
    atomic_full_fence(); /* SLEEPS */
    while (plane->dirty) {
        struct lane *lane = plane->dirty;
        plane->dirty = lane->next_dirty;
        lane->is_dirty = false;
        lane_ring(lane);
        if (lane_is_ending(lane) && lane->n_in_flight == 0)
            lane_cut(lane, CUT_POISON);
        lane_settle(lane);
    }
}

/* ---- life ---- */

static void inherit_counts(struct plane *plane)
{
    plane->n_ended = plane->part->requests_ended;
    plane->n_accepted = plane->n_ended; /* what is found in the ledger is added */
}

int plane_new(const struct plane_config *config, struct plane **ret_plane)
{
    const struct segment *seg = config->segment;
    struct plane *plane = calloc(1, sizeof(*plane));

    if (!plane)
        return -ENOMEM;
    *plane = (struct plane){.mesh = config->mesh,
        .ctx = config->ctx,
        .seg = *seg,
        .registry = config->registry,
        .bell_fds = config->bell_fds,
        .log = config->log,
        .part = segment_part(seg, config->shard),
        .rows = segment_client_lane(seg, config->shard, 0),
        .ledger = segment_ledger(seg, config->shard, 0),
        .control = segment_control(seg, config->shard),
        .shard = config->shard,
        .incarnation = config->incarnation,
        .n_ledger = seg->geometry.n_ledger,
        .source = {.pending = plane_pending,
            .dispatch = plane_dispatch,
            .prepare = plane_prepare,
            .flush = plane_flush,
            .opaque = plane}};
    plane->requests = calloc(plane->n_ledger, sizeof(plane->requests[0]));
    plane->lanes = calloc(seg->geometry.n_clients, sizeof(plane->lanes[0]));
    if (!plane->requests || !plane->lanes) {
        plane_free(plane);
        return -ENOMEM;
    }
    if (registry_find(plane->registry, TABLE_NAME, strlen(TABLE_NAME), &plane->table_method) < 0)
        plane->table_method = PLANE_METHOD_TABLE; /* which is no method */
    aio_timer_init(plane->ctx, &plane->heir_timer, heir_on_timer, plane);
    inherit_counts(plane);
    ledger_init(plane);
    aio_add_source(plane->ctx, &plane->source);
    *ret_plane = plane;
    return 0;
}

void plane_free(struct plane *plane)
{
    if (!plane)
        return;
    if (plane->requests && plane->lanes) {
        aio_remove_source(plane->ctx, &plane->source);
        timer_del(&plane->heir_timer);
        for (uint32_t client = 0; client < plane->seg.geometry.n_clients; client++)
            lane_free(plane->lanes[client]);
    }
    free(plane->lanes);
    free(plane->requests);
    free(plane);
}

void plane_recover(struct plane *plane)
{
    heir_take_over(plane);
    lane_ring_gateway(plane); /* it may wait for this shard to let go of somebody */
}

void plane_drain(struct plane *plane, bool to_return)
{
    plane->is_draining = true;
    plane->is_closed = to_return;
}

void plane_resume(struct plane *plane)
{
    plane->is_draining = plane->is_closed = false;
}

void plane_close(struct plane *plane)
{
    plane_drain(plane, true);
    for (uint32_t client = 0; client < plane->seg.geometry.n_clients; client++)
        if (plane->lanes[client])
            lane_say_closed(plane->lanes[client]);
}

bool plane_is_idle(const struct plane *plane)
{
    return plane->n_under_way == plane->n_inherited;
}
