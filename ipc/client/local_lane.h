/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * local_lane - the client's ends of the rings that it shares with one shard
 *
 * Why:         the order of these few stores and looks is what a lost wake-up or half an entry
 *              would come from, so it stands in one place.
 * Use:         entry = local_ring_next(); fill it; local_lane_push(). Once for many of these:
 *              local_lane_wants_bell(). while (local_lane_pop(lane, &completion)) …
 *              Before sleeping: local_lane_arm() all, local_lane_fence(), local_lane_has() none;
 *              after it local_lane_disarm()
 * Concurrency: one thread; the shard is the other end
 *
 * Orderings    first               then              ordered by                 if broken
 *   ENTRY    entry's bytes       its turn          release, shard's acquire   half an entry is taken
 *   DONE     completion's bytes  its turn          shard's release, acquire   half an end is believed
 *   ASKED    entry's turn        need_wakeup       local_lane_fence(), and the      both miss: the shard
 *                                                  shard's before its look    sleeps on an entry
 *   SLEEPS   client_sleeps set   a last look       local_lane_fence(), and the      both miss: we sleep on
 *                                                  shard's after its end      a completion
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/client/slots.h"
#include "proto/data_plane.h"
#include "runtime/atomic.h"

enum local_lane_state {
    LOCAL_LANE_CLOSED,
    LOCAL_LANE_WANTED, /* to be opened */
    LOCAL_LANE_OPEN,
};

/* Of submissions. */
struct local_ring {
    struct plane_submission *entries;
    uint64_t tail;     /* next submission's position */
    uint64_t consumed; /* the shard has taken all submissions below it: perhaps more */
    uint32_t mask;     /* of positions */
    uint32_t n_out;    /* requests */
    uint32_t n_spare;  /* of these, that have not been cancelled: each has an entry kept for that */
    uint32_t limit;    /* of them */
};

struct local_lane {
    struct plane_words *words;
    struct local_ring ring;
    struct local_ring urgent; /* limit 0: there is none */
    struct plane_completion *completions;
    uint32_t mask;  /* of completions' positions */
    uint32_t state; /* enum local_lane_state */
    uint64_t done;  /* next completion's position */
    uint32_t n_out; /* requests, in both rings */
    uint32_t sleep; /* number of the latest sleep */
    int bell_fd;    /* -1: none */
    bool is_dirty;  /* pushed to since the last flush */
    bool is_armed;
    bool is_down;          /* its shard is given up, as far as we have heard */
    struct slot_list line; /* requests that wait here, urgent ones first */
    uint32_t last_urgent;  /* in line */
};

/* Half of each ring is for requests, so that each can be cancelled. */
void local_lane_map(struct local_lane *lane, const struct plane_layout *layout, void *base,
    uint32_t shard, bool has_urgent);

/* Rings, at need more than once: what is lost was not needed. */
void local_lane_ring(struct local_lane *lane);

/* The shard's bytes say nothing. False: its end is closed. */
bool local_lane_drain_bell(struct local_lane *lane);

/* Whether a submission may be written: there is no other way to learn what the shard has taken than
 * by what it has ended. */
static inline bool local_ring_has_room(const struct local_ring *ring)
{
    return ring->tail - ring->consumed <= ring->mask;
}

/* The same of a request, which has to have room for its cancel too: of cancels that nothing has
 * ended behind, nobody knows that they were taken. */
static inline bool local_ring_has_room_for_request(const struct local_ring *ring)
{
    return ring->tail - ring->consumed + ring->n_spare < ring->mask;
}

/* Of those that a request may go into. */
static inline struct local_ring *local_lane_ring_for(struct local_lane *lane, bool urgent)
{
    return urgent && lane->urgent.n_out < lane->urgent.limit &&
                   local_ring_has_room_for_request(&lane->urgent)
               ? &lane->urgent
               : &lane->ring;
}

static inline struct local_ring *local_lane_ring_of(
    struct local_lane *lane, const struct slot *slot)
{
    return slot->in_urgent ? &lane->urgent : &lane->ring;
}

static inline struct plane_submission *local_ring_next(const struct local_ring *ring)
{
    return &ring->entries[ring->tail & ring->mask];
}

static inline void local_lane_push(struct local_lane *lane, struct local_ring *ring)
{
    struct plane_submission *entry = local_ring_next(ring);

    ring->tail++;
    atomic_store_release(&entry->turn, (uint32_t)ring->tail); /* ENTRY */
    lane->is_dirty = true;
}

/* That one has ended, so it was taken, and all before it. */
static inline void local_ring_consume(struct local_ring *ring, const struct slot *slot)
{
    ring->n_out--;
    ring->n_spare -= !slot->cancel;
    if (slot->position >= ring->consumed)
        ring->consumed = slot->position + 1;
}

static inline bool local_lane_has(const struct local_lane *lane)
{
    return atomic_load_acquire(&lane->completions[lane->done & lane->mask].turn) == /* DONE */
           (uint32_t)(lane->done + 1);
}

static inline bool local_lane_pop(struct local_lane *lane, struct plane_completion *ret_completion)
{
    if (!local_lane_has(lane))
        return false;
    *ret_completion = lane->completions[lane->done & lane->mask];
    lane->done++;
    return true;
}

static inline void local_lane_fence(void)
{
    atomic_full_fence(); /* ASKED, SLEEPS */
}

static inline bool local_lane_wants_bell(const struct local_lane *lane)
{
    return atomic_load_relaxed(&lane->words->need_wakeup); /* ASKED */
}

static inline void local_lane_arm(struct local_lane *lane)
{
    lane->sleep += 1 + (lane->sleep == UINT32_MAX);
    lane->is_armed = true;
    atomic_store_relaxed(&lane->words->client_sleeps, lane->sleep); /* SLEEPS */
}

static inline void local_lane_disarm(struct local_lane *lane)
{
    lane->is_armed = false;
    atomic_store_relaxed(&lane->words->client_sleeps, 0); /* SLEEPS */
}
