/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * flight - the in-flight table of a peer's heap: which buffers I/O may be touching
 *
 * Why:         io_uring may go on writing to a shared buffer after the process that asked for it is
 *              gone; a buffer used again before the kernel has let go would be written over.
 * Use:         flight_begin() before a buffer is shown to whoever may begin I/O on it, flight_end()
 *              when no I/O is under way on it
 *              a replacement: flights_init() takes what the dead have in flight out of use;
 *              flights_look() gives it back once the supervisor has proof (shard/quiet.c)
 * Concurrency: owner loop. The words lie in the owner's part; only its incarnations write them.
 * Lifetime:    the heap and the mapping outlive it.
 * Not here:    the proof (shard/quiet.c), the words' layout (shard/segment.h)
 */
#include "shard/heap.h"
#include "shard/segment.h"

struct flights {
    const struct segment *seg;
    struct heap *heap;
    uint64_t *words;
    uint32_t self;
    uint32_t incarnation;
    uint32_t n_quarantined; /* pages */
};

/* Of a heap of which nothing is in use yet: marks what an incarnation before had in flight, unless
 * the kernel is known to have let go of it. */
void flights_init(struct flights *flights, const struct segment *seg, struct heap *heap,
    uint32_t self, uint32_t incarnation);

/* I/O of this process may touch the buffer [off, off + len) from now on. */
void flight_begin(struct flights *flights, uint64_t off, uint64_t len);

/* The same is over. The buffer stays its owner's. */
void flight_end(struct flights *flights, uint64_t off);

/* The buffer [off, off + len), which this process held, is nobody's, but I/O of a peer's dead
 * incarnation may be reading it: out of use until that is quiet. */
void flight_leave(
    struct flights *flights, uint64_t off, uint64_t len, uint32_t peer, uint32_t incarnation);

/* Gives back to the heap what the kernel has let go of since, and serves who waits for it. Whether
 * there was anything. */
bool flights_look(struct flights *flights);
