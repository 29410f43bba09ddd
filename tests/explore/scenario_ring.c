/* SPDX-License-Identifier: MIT */
/*
 * runtime/ring.c: what is popped is what was pushed, whole, in order and once, and a side that dies
 * can be replaced.
 *
 * Numbers from 0 on are pushed through a ring of two slots, so that it is full and wraps.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/ring.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"

#define N_SLOTS   2
#define N_NUMBERS 3

static struct {
    struct ring_slot slots[N_SLOTS];
    uint64_t tail;
    uint64_t head;
    uint64_t n_popped; /* in order; by the consumers */
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
}

static void end(void)
{
    explorer_check(s.n_popped == N_NUMBERS);
    explorer_check(ring_depth(&s.tail, &s.head, N_SLOTS) == 0);
}

static void push_on(struct ring_tx *tx)
{
    while (tx->next < N_NUMBERS) {
        uint64_t payload[RING_PAYLOAD_BYTES / sizeof(uint64_t)] = {tx->next, [6] = ~tx->next};

        if (!ring_push(tx, payload))
            atomic_pause();
    }
}

static void produce(void)
{
    struct ring_tx tx;

    ring_tx_init(&tx, s.slots, &s.tail, &s.head, N_SLOTS);
    push_on(&tx);
}

static void produce_after_a_crash(void)
{
    if (explorer_wait_for_crash())
        produce();
}

/* One popped before its consumer died may come again. */
static void pop_on(struct ring_rx *rx)
{
    uint64_t payload[RING_PAYLOAD_BYTES / sizeof(uint64_t)];

    while (rx->next < N_NUMBERS) {
        if (!ring_peek(rx, payload)) {
            atomic_pause();
            continue;
        }
        explorer_check(payload[0] == rx->next && payload[6] == ~rx->next);
        explorer_check(s.n_popped - payload[0] <= 1);
        s.n_popped = payload[0] + 1;
        ring_advance(rx);
    }
}

static void consume(void)
{
    struct ring_rx rx;

    ring_rx_init(&rx, s.slots, &s.head, N_SLOTS);
    pop_on(&rx);
}

static void consume_after_a_crash(void)
{
    if (explorer_wait_for_crash())
        consume();
}

static void look_on(void)
{
    for (int i = 0; i < 2; i++)
        explorer_check(ring_depth(&s.tail, &s.head, N_SLOTS) <= N_SLOTS);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 2 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 4, .stale_loads = 4 \
    }
#define DAILY_DEAD                                       \
    {                                                    \
        .preemptions = 2, .stale_loads = 1, .crashes = 1 \
    }
#define LONG_DEAD                                        \
    {                                                    \
        .preemptions = 3, .stale_loads = 3, .crashes = 1 \
    }

const struct scenario ring_scenarios[] = {
    {"what_is_popped_is_whole_and_in_order", begin, end, DAILY, LONG,
        {{"producer", produce}, {"consumer", consume}}},
    {"the_depth_is_never_more_than_the_slots", begin, NULL, {.preemptions = 1, .stale_loads = 2},
        LONG, {{"producer", produce}, {"consumer", consume}, {"onlooker", look_on}}},
    {"a_producer_that_dies_is_replaced_without_loss_or_doubles", begin, end, DAILY_DEAD, LONG_DEAD,
        {{"producer", produce, .may_crash = true}, {"replacement", produce_after_a_crash},
            {"consumer", consume}}},
    {"a_consumer_that_dies_is_replaced_without_loss", begin, end, DAILY_DEAD, LONG_DEAD,
        {{"producer", produce}, {"consumer", consume, .may_crash = true},
            {"replacement", consume_after_a_crash}}},
    {NULL},
};
