/* SPDX-License-Identifier: MIT */
/*
 * A sender fences between its message and its look at the word here, and the receiver between
 * taking the bit back and its last look at the rings: so either the sender sees that nobody looks
 * any more, and sets its bit in the bitmap, or that last look finds the message. As long as the bit
 * stands, the rings are part of what is looked at behind notify_me's fence, before any sleep.
 *
 * Whether the bit is seen late does not matter when somebody becomes hot: the bit in the bitmap
 * that is set meanwhile is found like any other.
 *
 * Orderings    first            then                 ordered by                 if broken
 *   HOT      bit taken back   last look at the     full fence in hot_drop_    sleeps on a message
 *            (receiver);      rings; look at the   quiet() and hot_init();
 *            message (sender) bit                  mesh_flush()
 */
#include "shard/hot.h"

#include "runtime/atomic.h"
#include "shard/bits.h"

#define TURNS_A_LOOK 1024 /* a peer that had nothing in as many makes room for others */

void hot_init(struct hot *hot, struct part_hot *words)
{
    *hot = (struct hot){.words = words->senders, .turns_left = TURNS_A_LOOK};
    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        atomic_store_relaxed(&hot->words[word], 0); /* HOT */
    atomic_full_fence();                            /* HOT */
}

static void show(struct hot *hot, uint32_t peer, bool is_hot)
{
    uint64_t *word = &hot->words[peer / 64], bit = bits_mask(peer);

    atomic_store_relaxed(word, is_hot ? *word | bit : *word & ~bit); /* HOT */
}

void hot_add(struct hot *hot, uint32_t peer, const struct ring_rx *rx)
{
    for (uint32_t i = 0; i < hot->n; i++)
        if (hot->peers[i].peer == peer)
            return;
    if (hot->n == HOT_MAX)
        return;
    hot->peers[hot->n++] = (struct hot_peer){.rx = rx, .peer = peer};
    show(hot, peer, true);
}

static void look_into(uint64_t *found, uint32_t peer)
{
    bits_set(found, peer);
}

void hot_drop_quiet(struct hot *hot, uint64_t found[SEGMENT_BITMAP_WORDS])
{
    uint32_t n_before = hot->n;

    hot->turns_left = TURNS_A_LOOK;
    for (uint32_t i = hot->n; i-- > 0;) {
        struct hot_peer *at = &hot->peers[i];
        if (!at->quiet) {
            at->quiet = true;
            continue;
        }
        show(hot, at->peer, false);
        look_into(found, at->peer);
        *at = hot->peers[--hot->n];
    }
    if (hot->n < n_before)
        atomic_full_fence(); /* HOT: before the look into those rings */
}

void hot_collect(struct hot *hot, uint64_t found[SEGMENT_BITMAP_WORDS])
{
    for (uint32_t i = 0; i < hot->n; i++) {
        struct hot_peer *at = &hot->peers[i];
        if (!hot_peer_has_work(at))
            continue;
        at->quiet = false;
        look_into(found, at->peer);
    }
}
