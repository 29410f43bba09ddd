/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * regions - which regions a segment has, where each lies, and how that is described
 *
 * Why:         offsets and description come from one table, so that neither can lack a region.
 * Use:         for segment.c alone; a region more is one row more here, and an accessor there
 * Concurrency: pure functions, but regions_describe(), which writes where it is told to
 * Not here:    the records in them (segment.h, *_records.h)
 */
#include "shard/layout.h"
#include "shard/segment.h"

#define LINE 64u

/* What a part's regions follow from. */
struct dimensions {
    const struct segment_geometry *g;
    bool gateway; /* whose part it is: the gateway's, else a shard's */
    uint32_t n_peers;
    uint32_t n_others;                  /* other shards */
    uint32_t to_shard, urgent_to_shard; /* slots of a ring */
    uint32_t to_gateway, urgent_to_gateway;
    uint32_t calls, gateway_calls; /* slots for calls to a shard, and for the gateway's */
};

/*
 * Every region: X(NAME, where, record, outer index, alignment, outer number, inner number). The
 * order is that of the segment; the heap is a part's last. From here come the offsets and the
 * description that the segment carries.
 */
#define REGIONS(X)                                                                                 \
    X(SUPERVISOR, control, supervisor_head, NUMBER, LINE, 1, 1)                                    \
    X(PEERS, control, peer_control, PEER, LINE, d->n_peers, 1)                                     \
    X(METHODS, control, method_name, NUMBER, LINE, 1, SEGMENT_METHODS)                             \
    X(LISTENERS, control, listener_row, NUMBER, LINE, 1, SEGMENT_LISTENERS)                        \
    X(CULPRITS, control, culprit, NUMBER, LINE, 1, SEGMENT_CULPRITS)                               \
    X(CLIENT_USERS, control, client_user, NUMBER, LINE, 1, SEGMENT_CLIENT_USERS)                   \
    X(BELLS, commons, commons_bell, PEER, LINE, d->n_peers + 1, 1)                                 \
    X(ARENA, commons, arena_slot, NUMBER, LINE, 1, d->g->n_portable)                               \
    X(TAGS, commons, segment_word, NUMBER, LINE, 1, d->g->n_portable *ARENA_CHUNKS_EACH)           \
    X(CHUNKS, commons, segment_page, NUMBER, SEGMENT_PAGE, 1, d->g->n_portable *ARENA_CHUNKS_EACH) \
    X(STACKS, commons, segment_page, NUMBER, SEGMENT_PAGE, d->g->n_portable,                       \
        d->g->stack_bytes / SEGMENT_PAGE)                                                          \
    X(HEAD, shard, part_head, NUMBER, LINE, 1, 1)                                                  \
    X(HOT, shard, part_hot, NUMBER, LINE, 1, 1)                                                    \
    X(WITHDRAWALS, shard, segment_word, PEER, LINE, d->n_peers, 1)                                 \
    X(COUNTERS, shard, aio_counters, NUMBER, LINE, 1, 1)                                           \
    X(PAIRS, shard, pair_stats, PEER, LINE, d->n_peers, 1)                                         \
    X(HEADS, shard, ring_mark, PEER, LINE, d->n_peers, N_LANES)                                    \
    X(TAILS, shard, ring_mark, PEER, LINE, d->n_peers, N_LANES)                                    \
    X(RECORDED, shard, segment_word, NUMBER, LINE, 1, 1)                                           \
    X(EVENTS, shard, recorder_event, NUMBER, LINE, 1, d->g->n_events)                              \
    X(COROUTINES, shard, co_entry, NUMBER, LINE, 1, d->g->n_coroutines)                            \
    X(CRASH, shard, crash_record, NUMBER, LINE, 1, 1)                                              \
    X(VERDICTS, shard, verdict_record, NUMBER, LINE, 1, SEGMENT_VERDICTS)                          \
    X(RINGS_TO_SHARDS, shard, ring_slot, OTHER_SHARD, LINE, d->n_others, d->to_shard)              \
    X(URGENT_TO_SHARDS, shard, ring_slot, OTHER_SHARD, LINE, d->n_others, d->urgent_to_shard)      \
    X(RINGS_TO_GATEWAY, shard, ring_slot, NUMBER, LINE, !d->gateway, d->to_gateway)                \
    X(URGENT_TO_GATEWAY, shard, ring_slot, NUMBER, LINE, !d->gateway, d->urgent_to_gateway)        \
    X(CALLS, shard, call_slot, OTHER_SHARD, LINE, d->n_others, d->calls)                           \
    X(SERVES_SHARDS, shard, serve_slot, OTHER_SHARD, LINE, d->gateway ? 0 : d->n_others, d->calls) \
    X(SERVES_GATEWAY, shard, serve_slot, NUMBER, LINE, !d->gateway, d->gateway_calls)              \
    X(FLIGHTS, shard, segment_word, NUMBER, LINE, 1, (uint32_t)(d->g->heap_bytes / SEGMENT_PAGE))  \
    X(LOCKS, shard, lock_record, NUMBER, LINE, !d->gateway, SEGMENT_LOCKS)                         \
    X(CLIENTS, shard, client_row, NUMBER, LINE, d->gateway, d->g->n_clients)                       \
    X(SESSIONS, shard, session_row, NUMBER, LINE, d->gateway, segment_sessions_of(d->g->n_fates))  \
    X(FATES, shard, fate, NUMBER, LINE, d->gateway, d->g->n_fates)                                 \
    X(CLIENT_LANES, shard, client_lane, NUMBER, LINE, !d->gateway, d->g->n_clients)                \
    X(LEDGER, shard, ledger_slot, NUMBER, LINE, !d->gateway, d->g->n_ledger)                       \
    X(CRASH_NOTES, shard, crash_note, NUMBER, LINE, !d->gateway,                                   \
        d->g->n_ledger ? SEGMENT_CRASH_NOTES : 0)                                                  \
    X(SERVICE_COUNTERS, shard, service_count, NUMBER, LINE, !d->gateway, SEGMENT_SERVICE_COUNTERS) \
    X(SERVICE_REGIONS, shard, service_region_head, NUMBER, LINE, !d->gateway,                      \
        SEGMENT_SERVICE_REGIONS)                                                                   \
    X(SERVICE_MEMORY, shard, segment_page, NUMBER, SEGMENT_PAGE, !d->gateway,                      \
        (uint32_t)(d->g->service_bytes / SEGMENT_PAGE))                                            \
    X(HEAP, shard, segment_page, NUMBER, SEGMENT_PAGE, 1,                                          \
        (uint32_t)(d->g->heap_bytes / SEGMENT_PAGE))

enum region {
#define X(name, area, record, index, align, outer, inner) REGION_##name,
    REGIONS(X)
#undef X
        N_REGIONS
};

/* Call slots of a pair in a lane, and in both; slots of a ring. */
uint32_t regions_lane_slots(
    const struct segment_geometry *g, uint32_t caller, uint32_t callee, enum mesh_lane lane);
uint32_t regions_call_slots(const struct segment_geometry *g, uint32_t caller, uint32_t callee);
uint32_t regions_ring_slots(
    const struct segment_geometry *g, uint32_t from, uint32_t to, enum mesh_lane lane);

/* Fills in geometry, offsets and sizes. */
void regions_lay_out(struct segment *seg, const struct segment_geometry *g);

/* Writes the description of seg to zeroed memory of seg->control_off - SEGMENT_PAGE bytes. */
void regions_describe(const struct segment *seg, void *to);
