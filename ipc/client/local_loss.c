/* SPDX-License-Identifier: MIT */
/*
 * What was out when nobody is left to tell its end, by how far it may have got:
 *
 *   not taken out of the ring       submitted again: nothing has happened
 *   taken, of an idempotent method  submitted again
 *   taken, else                     in doubt
 *
 * How far a shard got, says a shard that left in order, in its words of the lane; of one that died
 * nobody does, and all that was pushed may have been taken. What is submitted again keeps its slot,
 * its memory and its deadline; where nobody takes it any more, it is in doubt if it may have run.
 *
 * A client that was cut off submits nothing again of what may have run: that may be why.
 *
 * Orderings    first            then          ordered by                   if broken
 *   CLOSED   last entry taken   `closed`    shard's release, acquire here   what was run counts as not begun
 */
#include <errno.h>
#include <unistd.h>

#include "ipc/client/local.h"

static struct local_untaken untaken_from(const struct local *local, const struct local_lane *lane)
{
    uint64_t closed = atomic_load_acquire(&lane->words->closed);               /* CLOSED */
    uint64_t urgent_closed = atomic_load_relaxed(&lane->words->urgent_closed); /* CLOSED */

    if (closed == 0 || urgent_closed == 0 || local->is_distrusted)
        return (struct local_untaken){.normal = LOCAL_ALL_TAKEN, .urgent = LOCAL_ALL_TAKEN};
    return (struct local_untaken){.normal = closed - 1, .urgent = urgent_closed - 1};
}

static bool may_repeat(const struct local *local, const struct slot *slot)
{
    const struct method *method = &local->base.methods.methods[slot->work.handle];

    return !local->is_cut_off && method->is_known && method->idempotent;
}

static void lose(struct local *local, uint32_t at, const struct local_untaken *untaken)
{
    struct slot *slot = slot_at(&local->slots, at);
    bool begun = slot->position < (slot->in_urgent ? untaken->urgent : untaken->normal);

    if (!local_come_back(local, at))
        return;
    if (begun && !may_repeat(local, slot)) {
        local_end_here(local, at, SHERD_END_IN_DOUBT, -EOWNERDEAD,
            "who had it is gone, and with it whether it was done");
        return;
    }
    slot->may_have_run |= begun;
    if (slot->cancel)
        local_end_here(local, at, SHERD_END_CANCELLED, -ECANCELED, NULL);
    else
        local_back_in_line(local, at);
}

static void close_bell(struct local_lane *lane)
{
    if (lane->bell_fd >= 0)
        close(lane->bell_fd);
    lane->bell_fd = -1;
}

static bool is_at(const struct slot *slot, uint32_t shard, bool in_urgent, uint64_t position)
{
    return slot->is_out && slot->lane == shard && slot->in_urgent == in_urgent &&
           slot->position == position;
}

static void lose_ring(
    struct local *local, uint32_t shard, bool in_urgent, const struct local_untaken *untaken)
{
    const struct local_lane *lane = &local->lanes[shard];
    const struct local_ring *ring = in_urgent ? &lane->urgent : &lane->ring;
    uint64_t n_entries = (uint64_t)ring->mask + 1;

    for (uint64_t position = ring->tail > n_entries ? ring->tail - n_entries : 0;
         lane->n_out > 0 && position < ring->tail; position++) {
        uint32_t at = slot_find(&local->slots, ring->entries[position & ring->mask].id);
        if (at != SLOT_NONE && is_at(slot_at(&local->slots, at), shard, in_urgent, position))
            lose(local, at, untaken);
    }
}

/* In the order of their entries; then those whose entry has been written over. */
static void lose_out(struct local *local, uint32_t shard, const struct local_untaken *untaken)
{
    const struct local_lane *lane = &local->lanes[shard];

    lose_ring(local, shard, true, untaken);
    lose_ring(local, shard, false, untaken);
    for (uint32_t at = 0; lane->n_out > 0 && at < local->slots.n; at++) {
        const struct slot *slot = slot_at(&local->slots, at);
        if (slot->is_out && slot->lane == shard)
            lose(local, at, untaken);
    }
}

/* ---- the connection ---- */

static void close_lane(struct local *local, uint32_t shard)
{
    struct local_lane *lane = &local->lanes[shard];
    struct local_untaken untaken = untaken_from(local, lane);

    lose_out(local, shard, &untaken);
    close_bell(lane);
    lane->state = LOCAL_LANE_CLOSED;
    while (lane->line.n > 0) {
        uint32_t at = lane->line.first;
        local_leave_line(local, at);
        local_await_attach(local, at);
    }
}

void local_lose_all(struct local *local)
{
    for (uint32_t shard = 0; shard < local->layout.n_shards; shard++)
        close_lane(local, shard);
    local->n_open = 0;
}

/* ---- a lane ---- */

static void forget_open(struct local *local, uint32_t shard)
{
    uint32_t i = 0;

    while (local->open[i] != shard)
        i++;
    local->open[i] = local->open[--local->n_open];
}

/* Closed before callbacks run: what they submit waits in its line. */
void local_lose_lane(struct local *local, uint32_t shard, const struct local_untaken *untaken)
{
    struct local_lane *lane = &local->lanes[shard];

    lane->state = LOCAL_LANE_CLOSED;
    forget_open(local, shard);
    close_bell(lane);
    local_take_last(local, shard);
    lose_out(local, shard, untaken);
}

void local_empty_line(struct local *local, uint32_t shard, int error)
{
    struct local_lane *lane = &local->lanes[shard];
    struct slot_list all = lane->line;

    for (uint32_t at = all.first, next; all.n > 0; at = next, all.n--) {
        const struct slot *slot = slot_at(&local->slots, at);
        next = slot->next;
        local_leave_line(local, at);
        if (slot->work.route_kind == PLANE_ROUTE_METHOD && local->home != shard)
            local_place(local, at);
        else
            local_end_unsent(local, at, error, "the shard is given up");
    }
}
