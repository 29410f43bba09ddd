/* SPDX-License-Identifier: MIT */
/*
 * Orderings   first           then       ordered by                if broken
 *   ASKED     (nothing)       is_on      store release, acquire    none: it is about time alone
 *   TOLD      last echo       is_off     store release, acquire    a late echo meets the next run
 */
#include "tests/bench/bare_rings.h"

#include "runtime/atomic.h"
#include "runtime/ring.h"
#include "tests/bench/two_cpus.h"

#define SLOTS 512

struct bare_rings {
    struct ring_slot there[SLOTS];
    struct ring_slot back[SLOTS];
    uint64_t words[4 * 8];                        /* tail and head of each, a cache line apart */
    uint32_t is_on;                               /* written by the one end */
    uint32_t is_off __attribute__((aligned(64))); /* by the other, once it echoes no more */
};

struct bare_rings *bare_rings_new(void)
{
    return two_cpus_memory(sizeof(struct bare_rings));
}

void bare_rings_start(struct bare_rings *rings)
{
    atomic_store_release(&rings->is_off, 0); /* TOLD */
    atomic_store_release(&rings->is_on, 1);  /* ASKED */
}

void bare_rings_stop(struct bare_rings *rings)
{
    atomic_store_release(&rings->is_on, 0);      /* ASKED */
    while (!atomic_load_acquire(&rings->is_off)) /* TOLD */
        atomic_pause();
}

void bare_rings_run(struct bare_rings *rings, uint64_t n, uint32_t in_flight)
{
    uint8_t payload[RING_PAYLOAD_BYTES] = {0};
    uint64_t sent = 0, received = 0;
    struct ring_tx tx;
    struct ring_rx rx;

    ring_tx_init(&tx, rings->there, &rings->words[0], &rings->words[8], SLOTS);
    ring_rx_init(&rx, rings->back, &rings->words[24], SLOTS);
    while (received < n) {
        while (sent < n && sent - received < in_flight && ring_push(&tx, payload))
            sent++;
        while (ring_pop(&rx, payload))
            received++;
    }
}

void bare_rings_echo(struct bare_rings *rings)
{
    uint8_t payload[RING_PAYLOAD_BYTES];
    struct ring_rx rx;
    struct ring_tx tx;

    if (!atomic_load_acquire(&rings->is_on)) /* ASKED */
        return;
    ring_rx_init(&rx, rings->there, &rings->words[8], SLOTS);
    ring_tx_init(&tx, rings->back, &rings->words[16], &rings->words[24], SLOTS);
    while (atomic_load_acquire(&rings->is_on)) /* ASKED */
        while (ring_pop(&rx, payload))
            ring_push(&tx, payload);
    atomic_store_release(&rings->is_off, 1); /* TOLD */
}
