/* SPDX-License-Identifier: MIT */
/*
 * Loads of what a scenario does not use need not be steps: call slots that stay free, and the
 * bitmaps' words of peers that are not there.
 */
#include "tests/explore/stage.h"

#include <string.h>

#include "runtime/atomic.h"
#include "shard/geometry.h"
#include "shard/arena.h"
#include "shard/estate.h"
#include "tests/explore/explorer.h"

#define SEGMENT_BYTES (512 * 1024)
#define STACK_BYTES   (16 * 1024)

/* fresh: a segment as segment_init() makes it, which takes system calls, by a plan. */
static uint8_t memory[SEGMENT_BYTES] __attribute__((aligned(4096)));
static uint8_t fresh[SEGMENT_BYTES];
static struct segment fresh_segment;

static const int bell_fds[] = {0, 1, 2, 3, 4};

/* ---- the segment ---- */

static void make_fresh(const struct stage_plan *plan)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    explorer_check(segment_geometry_plan(plan->n_shards, 0, &geometry, &bytes) == 0);
    geometry.slots_shard = SEGMENT_MIN_SLOTS;
    geometry.slots_gateway = 1;
    geometry.n_events = 1;
    geometry.n_coroutines = 0;
    geometry.n_portable = plan->n_portable;
    geometry.stack_bytes = STACK_BYTES;
    geometry.n_clients = geometry.n_ledger = geometry.n_fates = 0;
    geometry.heap_bytes = SEGMENT_PAGE;
    geometry.service_bytes = 0;
    memset(memory, 0, sizeof(memory));
    explorer_check(
        segment_init(&fresh_segment, memory, sizeof(memory), &geometry, "explored") == 0);
    for (uint32_t peer = 0; peer < fresh_segment.n_peers; peer++) {
        segment_control(&fresh_segment, peer)->incarnation = 1;
        segment_control(&fresh_segment, peer)->state = PEER_UP;
    }
    __builtin_memcpy(fresh, memory, fresh_segment.bytes);
}

static bool is_fresh(const struct stage_plan *plan)
{
    return fresh_segment.bytes && fresh_segment.geometry.n_shards == plan->n_shards &&
           fresh_segment.geometry.n_portable == plan->n_portable;
}

static bool is_used(
    const struct stage_plan *plan, const struct segment *seg, const uint32_t pair[2], uint32_t slot)
{
    uint32_t depth = segment_slot_depth(seg, pair[0], pair[1], slot);
    uint32_t before = slot; /* of its class */

    while (before > 0 && segment_slot_depth(seg, pair[0], pair[1], before - 1) == depth)
        before--;
    return segment_slot_lane(segment_call_slots(seg, pair[0], pair[1]), slot) == LANE_NORMAL &&
           slot - before < STAGE_CALLS && plan->uses(pair[0], pair[1], depth);
}

/* Whole rows of slots at a time. */
static void name_constant_calls(
    const struct stage_plan *plan, const struct segment *seg, uint32_t caller, uint32_t callee)
{
    const uint32_t pair[2] = {caller, callee};
    uint32_t n = segment_call_slots(seg, caller, callee), first = 0;

    for (uint32_t slot = 0; slot <= n; slot++) {
        if (slot < n && (caller == segment_gateway(seg) || !is_used(plan, seg, pair, slot)))
            continue;
        if (slot > first) {
            explorer_constant(segment_call(seg, caller, callee, first),
                (slot - first) * sizeof(struct call_slot));
            explorer_constant(segment_serve(seg, callee, caller, first),
                (slot - first) * sizeof(struct serve_slot));
        }
        first = slot + 1;
    }
}

static void name_constants(const struct stage_plan *plan, const struct segment *seg)
{
    for (uint32_t peer = 0; peer < seg->n_peers; peer++) {
        explorer_constant(
            &segment_bitmap(seg, peer)->senders[1], (SEGMENT_BITMAP_WORDS - 1) * sizeof(uint64_t));
        for (uint32_t callee = 0; callee < seg->geometry.n_shards; callee++)
            if (callee != peer)
                name_constant_calls(plan, seg, peer, callee);
    }
}

void stage_begin(struct stage *stage, const struct stage_plan *plan)
{
    if (!is_fresh(plan))
        make_fresh(plan);
    *stage = (struct stage){.seg = fresh_segment, .plan = *plan};
    __builtin_memcpy(memory, fresh, fresh_segment.bytes);
    parts_mesh_reset(plan->methods, plan->n_methods);
    name_constants(plan, &stage->seg);
}

/* ---- ends ---- */

static struct doorbell bell_of(const struct stage *stage, uint32_t peer)
{
    return (struct doorbell){
        .words = &segment_bell(&stage->seg, peer)->words, .fd = bell_fds[peer]};
}

/* All but the first of each class are nobody's for this run. */
static void leave_one_slot_each(struct mesh *mesh)
{
    for (uint32_t peer = 0; peer < mesh->seg.geometry.n_shards; peer++)
        for (uint32_t lane = 0; peer != mesh->self && lane < N_LANES; lane++)
            for (uint32_t depth = 0; depth < SEGMENT_SLOT_CLASSES; depth++) {
                uint32_t first = mesh->links[peer].classes[lane][depth].free_slots;
                if (first)
                    mesh->links[peer].out[first - 1].next_free = 0;
            }
}

void stage_open(struct stage *stage, struct stage_end *end, uint32_t peer)
{
    struct doorbell bell = bell_of(stage, peer);
    struct mesh_config config = {.segment = &stage->seg,
        .peer = peer,
        .incarnation =
            stage->same_incarnation ? 1 : segment_control(&stage->seg, peer)->incarnation,
        .ctx = (AioContext *)&end->loop,
        .bell_fds = bell_fds};

    parts_mesh_loop_init(&end->loop, &bell);
    explorer_check(mesh_new(&config, &end->mesh) == 0);
    if (stage->plan.one_slot_each)
        leave_one_slot_each(end->mesh);
}

void stage_settle(struct stage_end *end)
{
    end->loop.source->dispatch(end->loop.source->opaque);
    stage_flush(end);
}

void stage_serve(struct stage *stage, struct stage_end *end)
{
    while (!atomic_load_acquire(&stage->over))
        parts_mesh_turn(&end->loop, true);
    explorer_may_crash(false);
    parts_mesh_turn(&end->loop, false);
    explorer_check(end->mesh->heap.n_used == 0);
}

static void knock_all(struct stage *stage)
{
    for (uint32_t peer = 0; peer < stage->seg.geometry.n_shards; peer++) {
        struct doorbell bell = bell_of(stage, peer);

        doorbell_knock(&bell);
    }
}

void stage_is_over(struct stage *stage)
{
    explorer_may_crash(false);
    atomic_store_release(&stage->over, 1);
    knock_all(stage);
}

static bool has_calls(const struct stage *stage, uint32_t caller)
{
    for (uint32_t callee = 0; callee < stage->seg.geometry.n_shards; callee++)
        if (callee != caller && stage_has_calls(stage, caller, callee))
            return true;
    return false;
}

static bool all_are_quiet(struct stage *stage)
{
    for (uint32_t peer = 0; peer < stage->seg.geometry.n_shards; peer++)
        if (!atomic_load_acquire(&stage->quiet[peer]))
            return false;
    return true;
}

/* The last one tells the others. */
void stage_is_quiet(struct stage *stage, uint32_t peer)
{
    atomic_store_release(&stage->quiet[peer], 1);
    atomic_full_fence();
    if (all_are_quiet(stage))
        knock_all(stage);
}

void stage_serve_to_the_last(struct stage *stage, struct stage_end *end)
{
    while (!atomic_load_acquire(&stage->over))
        parts_mesh_turn(&end->loop, true);
    explorer_may_crash(false);
    while (has_calls(stage, end->mesh->self))
        parts_mesh_turn(&end->loop, true);
    stage_is_quiet(stage, end->mesh->self);
    while (!all_are_quiet(stage))
        parts_mesh_turn(&end->loop, true);
    parts_mesh_turn(&end->loop, false);
}

/* ---- the supervisor ---- */

static void tell_the_living(struct stage *stage, uint32_t dead)
{
    for (uint32_t living = 0; living < stage->seg.geometry.n_shards; living++) {
        struct doorbell bell = bell_of(stage, living);

        if (living == dead)
            continue;
        if (stage->sets_no_bit)
            doorbell_knock(&bell);
        else
            estate_tell(&stage->seg, dead, living, bell.fd);
    }
}

void stage_bury(struct stage *stage, uint32_t dead, enum peer_state state)
{
    if (stage->tells_first) {
        estate_pass_on(&stage->seg, dead, state);
        tell_the_living(stage, dead);
        estate_mend(&stage->seg, dead);
        return;
    }
    estate_mend(&stage->seg, dead);
    estate_pass_on(&stage->seg, dead, state);
    tell_the_living(stage, dead);
}

void stage_replace(struct stage *stage, struct stage_end *heir, uint32_t dead)
{
    if (!stage->empty_bitmap)
        estate_prepare(&stage->seg, dead);
    stage_open(stage, heir, dead);
    if (stage->keeps_hot)
        atomic_store_relaxed(&segment_hot(&stage->seg, dead)->senders[0], UINT64_MAX);
    if (stage->empty_bitmap)
        atomic_xchg_seq(&segment_bitmap(&stage->seg, dead)->senders[0], 0);
}

/* ---- what holds in the end ---- */

bool stage_has_calls(const struct stage *stage, uint32_t caller, uint32_t callee)
{
    for (uint32_t slot = 0; slot < segment_call_slots(&stage->seg, caller, callee); slot++)
        if (word_state(segment_call(&stage->seg, caller, callee, slot)->word) != CALL_FREE)
            return true;
    return false;
}

static void check_pair(const struct stage *stage, uint32_t caller, uint32_t callee)
{
    const struct pair_stats *stats = segment_pair(&stage->seg, caller, callee);
    uint64_t n_ended = 0;

    for (int end = 0; end < N_CALL_ENDS; end++)
        n_ended += stats->ends[end];
    if (segment_control(&stage->seg, caller)->state == PEER_FAILED)
        return; /* nobody takes over what it had under way */
    explorer_check(!stage_has_calls(stage, caller, callee));
    explorer_check(stats->calls_submitted == n_ended);
}

void stage_check(const struct stage *stage)
{
    uint32_t n = stage->seg.geometry.n_shards;

    for (uint32_t pair = 0; pair < n * n; pair++)
        if (pair / n != pair % n)
            check_pair(stage, pair / n, pair % n);
    for (uint32_t slot = 0; slot < stage->seg.geometry.n_portable; slot++)
        explorer_check(arena_co_at(&stage->seg, slot) == 0);
}
