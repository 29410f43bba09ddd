/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * heap - shared buffers of one peer: arguments it sends and answers it gives, where they are not
 * small
 *
 * Why:         what travels between processes must lie in the segment, and be bounded; and a peer
 *              that is stopped with its hands full must not keep it from all others.
 * Use:         heap_get() calls back at once or when there is room; heap_put() gives back
 *              a replacement: heap_init(), heap_mark() for each buffer still in somebody's hand,
 *              or in the kernel's (shard/flight.h)
 * Concurrency: owner loop. The book-keeping is private; only the bytes are shared.
 * Lifetime:    a buffer belongs to a call slot or serve slot and its generation. Whoever holds one,
 *              in any heap, may wait for a disk and waits for no other buffer and no call, so
 *              whoever waits for room gets it (shard/mesh.h).
 *
 * Each buffer is meant for a holder, the peer that reads it and without which it does not come
 * back. A holder may have any one buffer; more of them only up to twice of what they leave free. So
 * one that is stopped ends up with two thirds at most, two with two fifths each; some is always
 * left.
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"

#define HEAP_PATIENCE_NS INT64_C(50000000)
#define HEAP_NOBODY      UINT32_MAX /* holder of what is in quarantine */

struct heap_waiter;
typedef void heap_ready_fn(struct heap_waiter *waiter, uint64_t off);

/* Embed it; it stays valid until ready() was called or heap_cancel(). */
struct heap_waiter {
    heap_ready_fn *ready;
    struct heap_waiter *prev, *next; /* in its holder's line */
    uint64_t len;
    int64_t since_ns;
    uint32_t holder;
    bool waits;
};

/* What one holder has, and who waits for more of it. */
struct heap_share {
    struct heap_waiter *first, *last;
    uint32_t n_used;
    uint32_t next_turn; /* the share that waits behind this one: index + 1; 0: the last */
};

struct heap {
    uint64_t off; /* of the first page, in the segment */
    uint32_t n_pages;
    uint32_t n_used;
    uint32_t n_high;
    uint32_t n_shares;
    uint64_t n_waits;
    uint16_t *holders; /* of each page: peer + 1; 0: free */
    struct heap_share *shares;
    uint32_t first_turn; /* of the shares in which somebody waits: index + 1; 0: none */
    uint32_t last_turn;
    AioTimer patience;
};

/* For n_peers holders. 0 or -ENOMEM. */
int heap_init(struct heap *heap, AioContext *ctx, uint64_t off, uint64_t bytes, uint32_t n_peers);
void heap_deinit(struct heap *heap);

/*
 * ready() comes with the offset of len bytes (1 to the heap's size): before this returns where
 * there is room and nobody waits, else when it is this waiter's turn. Those who want a buffer for
 * the same holder are served first come first served, and the holders in turn. Who is within its
 * share and finds no room that is large enough keeps others from taking what comes back, so that
 * small ones do not starve it; but for no longer than HEAP_PATIENCE_NS, in which each peer that
 * runs has looked: what has not come back by then may never do.
 */
void heap_get(struct heap *heap, struct heap_waiter *waiter, uint32_t holder, uint64_t len,
    heap_ready_fn *ready);

/* Whether heap_get() would call back at once. */
bool heap_has_room(const struct heap *heap, uint32_t holder, uint64_t len);

/* Takes a waiter off; one that does not wait: nothing. */
void heap_cancel(struct heap *heap, struct heap_waiter *waiter);

/* Gives back what heap_get() or heap_mark() took, and serves who waits. It is taken, whole. */
void heap_put(struct heap *heap, uint64_t off, uint64_t len);

/* Gives back the pages behind the first `keep` bytes (at least 1) of a piece of len bytes. */
void heap_trim(struct heap *heap, uint64_t off, uint64_t len, uint64_t keep);

/* It counts as nobody's from now on: its holder is gone, and something else keeps it taken. */
void heap_disown(struct heap *heap, uint64_t off, uint64_t len);

/* Takes [off, off + len) as it was found in the segment, whatever holder has by then. False where
 * it is no such piece of this heap, or taken. */
bool heap_mark(struct heap *heap, uint32_t holder, uint64_t off, uint64_t len);
