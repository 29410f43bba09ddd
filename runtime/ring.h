/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * ring - one-way queue of cache-line slots between two threads or processes
 *
 * Why:         a peer must hand over work without a system call for each piece, and a peer that
 *              dies half-way must have published nothing.
 * Use:         producer: if (ring_push(&tx, &payload)) rung = false;
 *                        later, once for many pushes, ring the doorbell
 *              consumer: while (ring_pop(&rx, &payload)) handle(&payload);
 *              a replacement for a dead side: ring_tx_init() or ring_rx_init(), and go on
 * Concurrency: one producer, one consumer. Slots and tail are written by the producer, the head
 *              by the consumer; each lives in memory of its writer. ring_depth(): any process
 *              (stale, never torn).
 * Lifetime:    the caller owns the memory; zero bytes are the empty ring. struct ring_tx and
 *              ring_rx are private to their side and hold nothing that cannot be read again from
 *              the memory.
 * Not here:    flow control and what a slot means (shard/mesh.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/atomic.h"

#define RING_PAYLOAD_BYTES 56

/* Valid for position p while seq == p + 1: no second cache line says how far the producer is. */
struct ring_slot {
    uint64_t seq;
    uint8_t payload[RING_PAYLOAD_BYTES];
};

/* The producer's end. */
struct ring_tx {
    struct ring_slot *slots;
    uint64_t *tail;       /* in the producer's memory: positions published */
    const uint64_t *head; /* in the consumer's memory: positions freed; foreign, checked */
    uint64_t mask;
    uint64_t next;       /* private: next position to publish */
    uint64_t known_head; /* private: last head read that made sense */
};

/* The consumer's end. */
struct ring_rx {
    const struct ring_slot *slots; /* foreign */
    uint64_t *head;
    uint64_t mask;
    uint64_t next; /* private: next position to take */
};

/* n_slots is a power of two. Both are for fresh memory and for taking over from a dead side alike:
 * the tx side also counts what was published without its tail having been stored. */
void ring_tx_init(struct ring_tx *tx, struct ring_slot *slots, uint64_t *tail, const uint64_t *head,
    uint32_t n_slots);
void ring_rx_init(
    struct ring_rx *rx, const struct ring_slot *slots, uint64_t *head, uint32_t n_slots);

/* Copies RING_PAYLOAD_BYTES in and publishes them. False where the ring is full. Context: the
 * producer. */
bool ring_push(struct ring_tx *tx, const void *payload);

/* Whether there is something to take. Context: the consumer. */
static inline bool ring_has(const struct ring_rx *rx)
{
    return atomic_load_acquire(&rx->slots[rx->next & rx->mask].seq) ==
           rx->next + 1; /* PUB in ring.c */
}

/* Copies the n-th payload of those that were published, here or by a dead predecessor, and are not
 * known to be freed; false where there are not so many. Context: the producer. */
bool ring_tx_peek_at(struct ring_tx *tx, uint64_t n, void *ret_payload);

/* The same in two steps: room of RING_PAYLOAD_BYTES for the next payload, NULL where the ring is
 * full; and its publication. Whoever fills it in place saves a copy. Context: the producer. */
void *ring_room(struct ring_tx *tx);
void ring_publish(struct ring_tx *tx);

/* Copies the oldest payload out without freeing its slot; false where there is none. Context: the
 * consumer. */
bool ring_peek(const struct ring_rx *rx, void *ret_payload);

/* As ring_peek(), of the n-th after the oldest. n is less than the ring has slots. Context: the
 * consumer. */
bool ring_peek_at(const struct ring_rx *rx, uint64_t n, void *ret_payload);

/* Frees the slot that ring_peek() read, or the n oldest. Context: the consumer. */
void ring_advance(struct ring_rx *rx);
void ring_advance_by(struct ring_rx *rx, uint64_t n);

/* ring_peek() and ring_advance(). Context: the consumer. */
bool ring_pop(struct ring_rx *rx, void *ret_payload);

/* Slots published and not yet freed, between 0 and n_slots whatever the words hold. Context: any
 * process. */
uint64_t ring_depth(const uint64_t *tail, const uint64_t *head, uint32_t n_slots);
