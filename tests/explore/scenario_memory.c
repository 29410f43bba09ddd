/* SPDX-License-Identifier: MIT */
/*
 * The memory itself: what runtime/atomic.h's accesses promise, and what they do not. Two threads
 * each store their own word and load the other's; that both miss the other's store, only a fence
 * forbids.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"

static struct {
    uint32_t words[2];
    uint32_t counts[2];
    uint32_t seen[2]; /* each thread's own */
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
}

static void end(void)
{
    explorer_check(s.seen[0] || s.seen[1]);
}

static void store_fence_load(void)
{
    uint32_t self = explorer_self();

    atomic_store_relaxed(&s.words[self], (uint32_t)1);
    atomic_full_fence();
    s.seen[self] = atomic_load_relaxed(&s.words[!self]);
}

static void store_count_load(void)
{
    uint32_t self = explorer_self();

    atomic_store_relaxed(&s.words[self], (uint32_t)1);
    atomic_add_seq(&s.counts[self], (uint32_t)1);
    s.seen[self] = atomic_load_relaxed(&s.words[!self]);
}

#define BOUNDS                             \
    {                                      \
        .preemptions = 2, .stale_loads = 2 \
    }

const struct scenario memory_scenarios[] = {
    {"a_fence_keeps_a_load_behind_the_store_before_it", begin, end, BOUNDS, BOUNDS,
        {{"first", store_fence_load}, {"second", store_fence_load}}},
    {"wrong: a read-modify-write keeps a load behind the store before it", begin, end, BOUNDS,
        BOUNDS, {{"first", store_count_load}, {"second", store_count_load}}},
    {NULL},
};
