/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * heap - shared buffers of one peer: arguments it sends and answers it gives, where they are not
 * small
 *
 * Why:         what travels between processes must lie in the segment, and be bounded.
 * Use:         heap_get() calls back at once or when there is room; heap_put() gives back
 *              a replacement: heap_init(), heap_mark() for each buffer still in somebody's hand,
 *              or in the kernel's (shard/flight.h)
 * Concurrency: owner loop. The book-keeping is private; only the bytes are shared.
 * Lifetime:    a buffer belongs to a call slot or serve slot and its generation. Whoever holds one,
 *              in any heap, may wait for a disk and waits for no other buffer and no call, so
 *              whoever waits for room gets it (shard/mesh.h).
 */
#include <stdbool.h>
#include <stdint.h>

struct heap_waiter;
typedef void heap_ready_fn(struct heap_waiter *waiter, uint64_t off);

/* Embed it; it stays valid until ready() was called or heap_cancel(). */
struct heap_waiter {
    heap_ready_fn *ready;
    struct heap_waiter *prev, *next;
    uint64_t len;
    bool waits;
};

struct heap {
    uint64_t off; /* of the first page, in the segment */
    uint32_t n_pages;
    uint32_t n_used;
    uint32_t n_high;
    uint64_t n_waits;
    uint64_t *used; /* a bit a page */
    struct heap_waiter *first, **last;
};

/* 0 or -ENOMEM. */
int heap_init(struct heap *heap, uint64_t off, uint64_t bytes);
void heap_deinit(struct heap *heap);

/* ready() comes with the offset of len bytes (1 to the heap's size): before this returns where
 * there is room and nobody waits, else when it is this waiter's turn, first come first served. */
void heap_get(struct heap *heap, struct heap_waiter *waiter, uint64_t len, heap_ready_fn *ready);

/* Takes a waiter off; one that does not wait: nothing. */
void heap_cancel(struct heap *heap, struct heap_waiter *waiter);

/* Gives back what heap_get() or heap_mark() took, and serves who waits. */
void heap_put(struct heap *heap, uint64_t off, uint64_t len);

/* Gives back the pages behind the first `keep` bytes (at least 1) of a piece of len bytes. */
void heap_trim(struct heap *heap, uint64_t off, uint64_t len, uint64_t keep);

/* Takes [off, off + len) as it was found in the segment. False where it is no such piece of this
 * heap, or taken. */
bool heap_mark(struct heap *heap, uint64_t off, uint64_t len);
