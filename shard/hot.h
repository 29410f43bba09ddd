/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * hot - the few senders whose rings are looked into in every turn, whether they say so or not
 *
 * Why:         between two ends that are awake a message is one cache line; a bit in a bitmap that
 *              both of them write is three more, each waited for after the other.
 * Use:         sender:   push; fence; no bit where hot_heeds() says so; notify_me as ever
 *              receiver: hot_add() who had something; hot_has_work() before any sleep;
 *                        hot_collect() and hot_tidy() in each turn
 * Concurrency: owner loop; hot_heeds() by the senders. The words are in the receiver's part, a line
 *              that stays in every sender's cache as long as nobody comes or goes.
 * Lifetime:    the mesh's. A predecessor's words are cleared by hot_init(), before the rings are
 *              looked into.
 * Not here:    who sleeps, and who is rung (runtime/doorbell.h): a hot peer's message wakes by the
 *              same look at notify_me
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/ring.h"
#include "shard/segment.h"

#define HOT_MAX 4u /* so that an empty turn costs the same however many shards there are */

struct hot_peer {
    const struct ring_rx *rx; /* its rings, N_LANES of them */
    uint32_t peer;
    bool quiet; /* it had nothing since the last look at who is still hot */
};

struct hot {
    uint64_t *words; /* in our part */
    uint32_t n;
    uint32_t turns_left; /* until the next such look */
    struct hot_peer peers[HOT_MAX];
};

/* Nobody is hot. The caller then looks into every ring once. */
void hot_init(struct hot *hot, struct part_hot *words);

/* The peer had something in one of its rings. Nothing where it is hot already, or HOT_MAX are. */
void hot_add(struct hot *hot, uint32_t peer, const struct ring_rx *rx);

/* Adds to `found` the hot peers that have something. */
void hot_collect(struct hot *hot, uint64_t found[SEGMENT_BITMAP_WORDS]);

/* Adds to `found` those that are hot no more, into whose rings a last look is due. */
void hot_drop_quiet(struct hot *hot, uint64_t found[SEGMENT_BITMAP_WORDS]);

/* Counts a turn, in which hot_drop_quiet() may be due. */
static inline void hot_tidy(struct hot *hot, uint64_t found[SEGMENT_BITMAP_WORDS])
{
    if (hot->n > 0 && --hot->turns_left == 0)
        hot_drop_quiet(hot, found);
}

static inline bool hot_peer_has_work(const struct hot_peer *hot)
{
    return ring_has(&hot->rx[LANE_NORMAL]) || ring_has(&hot->rx[LANE_URGENT]);
}

/* Reads a line a ring, which is in this core's cache until somebody writes to it. */
static inline bool hot_has_work(const struct hot *hot)
{
    bool any = false;

    for (uint32_t i = 0; i < hot->n; i++)
        any |= hot_peer_has_work(&hot->peers[i]);
    return any;
}

/* Whether the receiver, whose words these are, finds what self has pushed by itself. Behind a full
 * fence. Context: the sender. */
static inline bool hot_heeds(const struct part_hot *words, uint32_t self)
{
    return atomic_load_relaxed(&words->senders[self / 64]) >> self % 64 & 1; /* HOT in hot.c */
}
