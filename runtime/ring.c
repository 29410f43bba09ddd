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
 * A predecessor that was hit by a stray pointer of its own may leave a tail or a head that makes no
 * sense, or slots that were never published. A replacement of the producer goes on behind what lies
 * in a row where the consumer stands, one of the consumer behind the last message, where its head
 * makes no sense. Who uses the ring finds what was lost so (shard/serve.c); what comes later
 * arrives.
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

/* What was published behind the tail counts. */
static void count_published(struct ring_tx *tx)
{
    for (uint64_t n = 0; n <= tx->mask; n++) {
        if (atomic_load_acquire(&tx->slots[tx->next & tx->mask].seq) != tx->next + 1) /* PUB */
            break;
        tx->next++;
    }
}

/* What a slot says before position is published in it. */
static uint64_t seq_before(uint64_t mask, uint64_t position)
{
    return position > mask ? position - mask : 0;
}

/* Whether a position may be where a producer or a consumer stands: the slot there is as it is
 * before, or after, the message is published, and the slot before it as one that was. */
static bool is_plausible(const struct ring_slot *slots, uint64_t mask, uint64_t position)
{
    uint64_t here = atomic_load_acquire(&slots[position & mask].seq);         /* PUB */
    uint64_t before = atomic_load_acquire(&slots[(position - 1) & mask].seq); /* PUB */

    if (here != position + 1 && here != seq_before(mask, position))
        return false;
    return position == 0 || before == position || before == position + mask + 1;
}

/*
 * Where a producer begins to count. The consumer says where it stands, and from there on what was
 * published lies in a row; the tail is behind that row. So the consumer is believed, unless what it
 * says is far from the tail, and the slots speak for the tail alone: then it was hit itself.
 */
static uint64_t first_to_count(const struct ring_tx *tx, uint64_t tail, uint64_t consumed)
{
    bool agree = tail - consumed <= tx->mask + 1;

    return agree || is_plausible(tx->slots, tx->mask, consumed) ||
                   !is_plausible(tx->slots, tx->mask, tail)
               ? consumed
               : tail;
}

/* From the first slot on that is not published, none says that it is: else the consumer would read
 * it before it is. */
static void void_the_rest(struct ring_tx *tx)
{
    for (uint64_t n = 0; n <= tx->mask; n++) {
        uint64_t *seq = &tx->slots[(tx->next + n) & tx->mask].seq;
        uint64_t before = seq_before(tx->mask, tx->next + n);

        if (*seq != before)                    /* none but a producer writes it */
            atomic_store_release(seq, before); /* PUB */
    }
}

void ring_tx_init(struct ring_tx *tx, struct ring_slot *slots, uint64_t *tail, const uint64_t *head,
    uint32_t n_slots)
{
    assert(is_power_of_two(n_slots));
    *tx = (struct ring_tx){.slots = slots, .tail = tail, .head = head, .mask = n_slots - 1};

    tx->next = first_to_count(tx, atomic_load_relaxed(tail), /* TAIL: own, or a predecessor's */
        atomic_load_acquire(head));                          /* FREE */
    count_published(tx);
    if (tx->next > 0) /* else nobody has written to it */
        void_the_rest(tx);
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

bool ring_tx_peek_at(struct ring_tx *tx, uint64_t n, void *ret_payload)
{
    if (n == 0)
        tx_refresh_head(tx);
    if (n >= tx->next - tx->known_head)
        return false;
    memcpy(ret_payload, tx->slots[(tx->known_head + n) & tx->mask].payload, RING_PAYLOAD_BYTES);
    return true;
}

/* A stray pointer hit the head: which messages were read is not known, so all that are there
 * were. */
static void skip_to_end(struct ring_rx *rx)
{
    rx->next = 0;
    for (uint64_t i = 0; i <= rx->mask; i++) {
        uint64_t seq = atomic_load_acquire(&rx->slots[i].seq); /* PUB */
        if (seq > rx->next && ((seq - 1) & rx->mask) == i)
            rx->next = seq;
    }
    atomic_store_release(rx->head, rx->next); /* FREE */
}

void ring_rx_init(
    struct ring_rx *rx, const struct ring_slot *slots, uint64_t *head, uint32_t n_slots)
{
    assert(is_power_of_two(n_slots));
    *rx = (struct ring_rx){.slots = slots,
        .head = head,
        .mask = n_slots - 1,
        .next = atomic_load_relaxed(head)}; /* FREE: likewise */
    if (!is_plausible(slots, rx->mask, rx->next))
        skip_to_end(rx);
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
