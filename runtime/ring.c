/* SPDX-License-Identifier: MIT */
#include "runtime/ring.h"
/*
 * A slot says itself whether it holds position p: its seq is p + 1 then, and p + 1 - n_slots or
 * less before. So the consumer looks at the one cache line that it is about to read anyway, and the
 * tail is there only for onlookers and for a replacement of the producer.
 *
 * A crash of the producer leaves one of three states, all of them whole: payload half written and
 * seq old (nothing was published; the next producer writes over it), seq new and tail old (one
 * slot, counted again by ring_tx_init()), or all new. A consumer that dies before it stores the
 * head leaves a slot that its replacement reads once more.
 *
 * Positions are 64 bits and never wrap. What the other side wrote is used only where it makes
 * sense: a head that goes back, or ahead of what was published, is as good as no news.
 *
 * Orderings        first           then            ordered by                    if broken
 *   PUB    slot bytes      slot seq        push release, peek acquire    consumer reads half a slot
 *   TAIL   slot seq        tail            push release, depth acquire   a replacement of the
 *                                                                        producer counts a slot
 *                                                                        that is not there
 *   FREE   slot read       head            advance release, push acquire producer overwrites a slot
 *                                                                        in use
 */
#include <assert.h>
#include <string.h>

#include "runtime/atomic.h"

static_assert(sizeof(struct ring_slot) == 64, "a slot is one cache line");
static_assert(offsetof(struct ring_slot, payload) == 8, "shared memory layout");

static bool is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static bool tx_is_full(const struct ring_tx *tx)
{
    return tx->next - tx->known_head > tx->mask;
}

/* Takes the consumer's head over where it lies between the last one known and what is published. */
static void tx_refresh_head(struct ring_tx *tx)
{
    uint64_t head = atomic_load_acquire(tx->head); /* FREE */

    if (head - tx->known_head <= tx->next - tx->known_head)
        tx->known_head = head;
}

void ring_tx_init(struct ring_tx *tx, struct ring_slot *slots, uint64_t *tail, const uint64_t *head,
    uint32_t n_slots)
{
    assert(is_power_of_two(n_slots));
    *tx = (struct ring_tx){.slots = slots, .tail = tail, .head = head, .mask = n_slots - 1};

    tx->next = atomic_load_relaxed(tail); /* TAIL: our own, or a dead predecessor's */
    for (uint32_t i = 0; i < n_slots; i++) {
        if (atomic_load_acquire(&slots[tx->next & tx->mask].seq) != tx->next + 1) /* PUB */
            break;
        tx->next++;
    }
    atomic_store_release(tail, tx->next); /* TAIL */
    /* Full until the consumer says otherwise; near the beginning this wraps, as it should. */
    tx->known_head = tx->next - n_slots;
    tx_refresh_head(tx);
}

void *ring_room(struct ring_tx *tx)
{
    if (tx_is_full(tx)) {
        tx_refresh_head(tx);
        if (tx_is_full(tx))
            return NULL;
    }
    return tx->slots[tx->next & tx->mask].payload;
}

void ring_publish(struct ring_tx *tx)
{
    struct ring_slot *slot = &tx->slots[tx->next & tx->mask];

    tx->next++;
    atomic_store_release(&slot->seq, tx->next); /* PUB */
    atomic_store_release(tx->tail, tx->next);   /* TAIL */
}

bool ring_push(struct ring_tx *tx, const void *payload)
{
    void *room = ring_room(tx);

    if (!room)
        return false;
    memcpy(room, payload, RING_PAYLOAD_BYTES);
    ring_publish(tx);
    return true;
}

bool ring_tx_peek_at(const struct ring_tx *tx, uint64_t n, void *ret_payload)
{
    if (n >= tx->next - tx->known_head)
        return false;
    memcpy(ret_payload, tx->slots[(tx->known_head + n) & tx->mask].payload, RING_PAYLOAD_BYTES);
    return true;
}

void ring_rx_init(
    struct ring_rx *rx, const struct ring_slot *slots, uint64_t *head, uint32_t n_slots)
{
    assert(is_power_of_two(n_slots));
    *rx = (struct ring_rx){.slots = slots,
        .head = head,
        .mask = n_slots - 1,
        .next = atomic_load_relaxed(head)}; /* FREE: likewise */
}

bool ring_peek_at(const struct ring_rx *rx, uint64_t n, void *ret_payload)
{
    const struct ring_slot *slot = &rx->slots[(rx->next + n) & rx->mask];

    if (atomic_load_acquire(&slot->seq) != rx->next + n + 1) /* PUB */
        return false;
    memcpy(ret_payload, slot->payload, RING_PAYLOAD_BYTES);
    return true;
}

bool ring_peek(const struct ring_rx *rx, void *ret_payload)
{
    return ring_peek_at(rx, 0, ret_payload);
}

void ring_advance_by(struct ring_rx *rx, uint64_t n)
{
    rx->next += n;
    atomic_store_release(rx->head, rx->next); /* FREE */
}

void ring_advance(struct ring_rx *rx)
{
    ring_advance_by(rx, 1);
}

bool ring_pop(struct ring_rx *rx, void *ret_payload)
{
    if (!ring_peek(rx, ret_payload))
        return false;
    ring_advance(rx);
    return true;
}

uint64_t ring_depth(const uint64_t *tail, const uint64_t *head, uint32_t n_slots)
{
    /* The head first: it can only fall behind while the tail is read. */
    uint64_t freed = atomic_load_acquire(head);
    uint64_t published = atomic_load_acquire(tail); /* TAIL */

    if (published <= freed)
        return 0; /* the consumer is ahead of a tail not yet stored */
    return published - freed < n_slots ? published - freed : n_slots;
}
