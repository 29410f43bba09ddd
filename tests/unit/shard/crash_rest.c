/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/crash_rest.h"

#include <stdio.h>

#include "shard/arena.h"
#include "shard/mesh_inside.h"
#include "tests/unit/shard/crash_load.h"

bool rest_heaps_are_empty(const struct segment *seg)
{
    for (uint32_t peer = 0; peer < seg->n_peers; peer++) {
        const struct part_head *part = segment_part(seg, peer);
        const uint64_t *flights = segment_flights(seg, peer);
        if (atomic_load_relaxed(&part->heap_used_bytes) != 0)
            return false;
        for (uint32_t page = 0; page < seg->geometry.heap_bytes / SEGMENT_PAGE; page++)
            if (atomic_load_relaxed(&flights[page]) != 0)
                return false;
    }
    return true;
}

bool rest_arena_is_empty(const struct segment *seg)
{
    uint32_t shard;

    for (uint32_t slot = 0; slot < seg->geometry.n_portable; slot++)
        if (arena_co_at(seg, slot))
            return false;
    for (uint32_t chunk = 0; chunk < segment_n_chunks(seg); chunk++) {
        uint64_t tag = atomic_load_acquire(segment_chunk_tag(seg, chunk));
        if (tag && arena_co_lives(seg, tag, &shard))
            return false;
    }
    return true;
}

bool rest_no_lock_is_held(const struct segment *seg)
{
    for (uint32_t shard = 0; shard < LOAD_SHARDS; shard++)
        for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
            if (atomic_load_relaxed(&segment_locks(seg, shard)[idx].word) & LOCK_HELD)
                return false;
    return true;
}

typedef void slot_fn(const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot);

/* Calls fn, which may be NULL, for each slot that is not free. Returns how many those are. */
static uint64_t for_each_under_way(const struct segment *seg, slot_fn *fn)
{
    uint64_t n = 0;

    for (uint32_t caller = 0; caller < seg->n_peers; caller++)
        for (uint32_t callee = 0; callee < seg->n_peers; callee++)
            for (uint32_t slot = 0; slot < segment_call_slots(seg, caller, callee); slot++) {
                uint64_t word = atomic_load_acquire(&segment_call(seg, caller, callee, slot)->word);
                if (word_state(word) == CALL_FREE)
                    continue;
                n++;
                if (fn)
                    fn(seg, caller, callee, slot);
            }
    return n;
}

uint64_t rest_n_under_way(const struct segment *seg)
{
    return for_each_under_way(seg, NULL);
}

static void tell_of_slot(const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot)
{
    const struct call_slot *call = segment_call(seg, caller, callee, slot);
    const struct serve_slot *serve = segment_serve(seg, callee, caller, slot);
    uint32_t shard = UINT32_MAX;

    arena_co_lives(seg, serve->co, &shard);
    fprintf(stderr,
        "%u to %u, slot %u: state %u, generation %llu, method %u; started: generation %llu by "
        "incarnation %u of %u, coroutine %llx in %d\n",
        caller, callee, slot, word_state(call->word),
        (unsigned long long)word_generation(call->word), call->method,
        (unsigned long long)started_generation(serve->started),
        (uint32_t)serve->started & CALL_INCARNATION_MASK, segment_control(seg, callee)->incarnation,
        (unsigned long long)serve->co, (int)shard);
}

static void tell_of_heaps(const struct segment *seg)
{
    for (uint32_t peer = 0; peer < seg->n_peers; peer++) {
        const uint64_t *flights = segment_flights(seg, peer);
        fprintf(stderr, "%u: heap of %llu bytes, incarnation %u, quiet up to %u\n", peer,
            (unsigned long long)segment_part(seg, peer)->heap_used_bytes,
            segment_control(seg, peer)->incarnation, segment_control(seg, peer)->quiet_incarnation);
        for (uint32_t page = 0; page < seg->geometry.heap_bytes / SEGMENT_PAGE; page++)
            if (flights[page])
                fprintf(stderr, "    in flight at page %u: %llx\n", page,
                    (unsigned long long)flights[page]);
    }
}

void rest_tell(const struct segment *seg)
{
    for_each_under_way(seg, tell_of_slot);
    tell_of_heaps(seg);
}
