/* SPDX-License-Identifier: MIT */
/*
 * A shard that is given up: nobody takes from its clients' rings any more, nor ends what it took.
 * Each client that has opened it is told so, with how far the shard came, and goes on with the
 * others.
 *
 * It uses the lane's memory anew from then on, so nobody else may touch it: it is told when the
 * kernel writes no more for the dead (shard/quiet.h), and its row says `closed` first, which a
 * shard that is started again heeds: what it inherits of such a lane it lets go. Where the shard is
 * being started again at that very moment, so that this may come too late, the client is cut off
 * and attaches anew.
 *
 * A new gateway tells all of it once more. Who has heard it already has no such lane, and is told
 * in vain.
 *
 * Orderings    first                 then                 ordered by               if broken
 *   OVER     row's closed bit      a look whether it    full fence; the       a lane is served of which its
 *                                  is failed            supervisor's state    client has heard that it is
 *                                                       before its fork,      over
 *                                                       and the child's look
 *   QUIET    kernel's last write   client is told       supervisor's release, a client's memory is written
 *                                                       acquire here          over
 *   FAILED: see shard/death.c; UP: see shard/member.c; LET_GO: see clients.c
 */
#include <errno.h>

#include "ipc/gateway/attach_inside.h"
#include "runtime/atomic.h"
#include "shard/bits.h"

static bool is_failed(const struct segment *seg, uint32_t shard)
{
    return atomic_load_acquire(&segment_control(seg, shard)->state) == PEER_FAILED; /* FAILED */
}

static bool is_quiet(const struct segment *seg, uint32_t shard)
{
    uint32_t quiet =
        atomic_load_acquire(&segment_control(seg, shard)->quiet_incarnation);    /* QUIET */
    uint32_t last = atomic_load_acquire(&segment_part(seg, shard)->incarnation); /* UP */

    return (int32_t)(quiet - last) >= 0;
}

static uint64_t *closed_word(const struct attach_link *link, uint32_t shard)
{
    return &segment_client(link->attach->config.segment, link->client)->closed[shard / 64];
}

bool attach_is_closed(const struct attach_link *link, uint32_t shard)
{
    return *closed_word(link, shard) & bits_mask(shard);
}

/* The shard has nothing of that lane any more. */
static bool has_let_go(const struct attach_link *link, uint32_t shard)
{
    const struct segment *seg = link->attach->config.segment;
    const struct client_lane *lane = segment_client_lane(seg, shard, link->client);
    uint64_t generation = client_generation(segment_client(seg, link->client)->word);

    return atomic_load_acquire(&lane->generation) != generation || /* LET_GO */
           atomic_load_acquire(&lane->state) == CLIENT_LANE_NONE;  /* LET_GO */
}

bool attach_reopen(struct attach_link *link, uint32_t shard)
{
    uint64_t *word = closed_word(link, shard);

    if (!attach_is_closed(link, shard))
        return true;
    if (!has_let_go(link, shard))
        return false;
    atomic_store_release(word, *word & ~bits_mask(shard)); /* OVER */
    return true;
}

static int send_closed(const struct attach_link *link, uint32_t shard)
{
    const struct segment *seg = link->attach->config.segment;
    const struct client_lane *lane = segment_client_lane(seg, shard, link->client);
    const struct attach_closed closed = {
        .head = {.magic = ATTACH_MAGIC, .version = ATTACH_VERSION, .kind = ATTACH_CLOSED},
        .shard = shard,
        .error = -EHOSTDOWN,
        .taken = has_let_go(link, shard) ? 0 : atomic_load_relaxed(&lane->head),
    };

    return attach_send(link->fd, &closed, sizeof(closed), -1);
}

static void close_lane(struct attach_link *link, uint32_t shard)
{
    uint64_t *word = closed_word(link, shard);

    atomic_store_release(word, *word | bits_mask(shard)); /* OVER */
    atomic_full_fence();                                  /* OVER */
    if (!is_failed(link->attach->config.segment, shard) || send_closed(link, shard) < 0)
        attach_cut_off(link, shard, CUT_SHARD);
}

void attach_look_at_given_up(struct attach *attach, uint32_t shard)
{
    const struct segment *seg = attach->config.segment;
    uint64_t mark =
        (uint64_t)atomic_load_acquire(&segment_control(seg, shard)->incarnation) + 1; /* DEATH */

    if (!is_failed(seg, shard)) {
        attach->given_up[shard] = 0;
        return;
    }
    if (attach->given_up[shard] == mark || !is_quiet(seg, shard))
        return;
    attach->given_up[shard] = mark;
    for (uint32_t client = 0; client < seg->geometry.n_clients; client++) {
        struct attach_link *link = attach->links[client];
        if (link && !link->over && bits_has(segment_client(seg, client)->opened, shard))
            close_lane(link, shard);
    }
}
