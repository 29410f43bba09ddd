/* SPDX-License-Identifier: MIT */
/*
 * Who is charged with a crash, and how long its user waits, is the supervisor's word
 * (shard/blame.h). It counts in each shard from the next look at the lane on, which is before the
 * next entry is taken.
 *
 * A client with too many crashes is cut off by the shard in whose ring the last of these requests
 * came: that one knows how it ends. Nothing more is taken from its ring, and it is cut when all
 * that is under way has ended, and was told; END_NS later at the latest, for it may be hours. A
 * dead letter that is being written delays it further, a write at a time.
 */
#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "shard/blame.h"

#define END_NS INT64_C(200000000)

static void condemn(struct lane *lane)
{
    if (lane->state != CLIENT_LANE_OPEN || lane_is_ending(lane))
        return;
    intake_halt(lane, WAIT_END);
    timer_mod_ns(&lane->wait_timer, aio_clock_ns() + END_NS);
    if (lane->n_in_flight == 0)
        lane_cut(lane, CUT_POISON);
}

void charge_on_time(struct lane *lane)
{
    if (lane->n_parked == 0)
        lane_cut(lane, CUT_POISON);
    else
        timer_mod_ns(&lane->wait_timer, aio_clock_ns() + END_NS); /* it is told of these first */
}

/* The lane here of a client that another shard need not look after. */
static struct lane *lane_of(const struct plane *plane, uint64_t who)
{
    uint32_t client = origin_client(who);
    struct lane *lane = client < plane->seg.geometry.n_clients ? plane->lanes[client] : NULL;

    return lane && culprit_of(lane_origin(lane)) == who ? lane : NULL;
}

bool charge_look(struct plane *plane)
{
    uint64_t n = blame_seen(&plane->seg);
    const struct culprit *culprits = segment_culprits(&plane->seg);

    if (n == plane->blame_seen)
        return false;
    plane->blame_seen = n;
    for (uint32_t i = 0; i < SEGMENT_CULPRITS; i++) {
        uint64_t who = atomic_load_relaxed(&culprits[i].who);
        struct lane *lane = who & ORIGIN_CLIENT ? lane_of(plane, who) : NULL;
        if (lane && blame_crashes(&plane->seg, who) >= BLAME_CRASHES_MAX &&
            atomic_load_relaxed(&culprits[i].home) == plane->shard)
            condemn(lane);
    }
    return true;
}

bool charge_bars(struct lane *lane)
{
    struct plane *plane = lane->plane;
    uint32_t uid = segment_client(&plane->seg, lane->grant.client)->uid;

    if (lane->blame_seen != plane->blame_seen) {
        lane->blame_seen = plane->blame_seen;
        lane->barred_ns = blame_until_ns(&plane->seg, uid);
    }
    if (lane->barred_ns && lane->barred_ns <= aio_clock_ns())
        lane->barred_ns = 0;
    return lane->barred_ns != 0;
}
