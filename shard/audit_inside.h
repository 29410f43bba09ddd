/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * audit_inside - what the files of the audit share: the words it reads, by name, and its findings
 *
 * Concurrency: as audit.h
 */
#include "shard/audit.h"
#include "shard/view_column.h"

/* X(member, region, field) */
#define AUDIT_COLUMNS(X)                                        \
    X(submitted, "pairs", "calls_submitted")                    \
    X(ends, "pairs", "ends")                                    \
    X(begun, "pairs", "calls_started")                          \
    X(judged, "pairs", "judged_incarnation")                    \
    X(redo_kind, "head", "redo.kind")                           \
    X(redo_pair, "head", "redo.pair")                           \
    X(redo_slot, "head", "redo.slot")                           \
    X(redo_word, "head", "redo.word")                           \
    X(redo_value, "head", "redo.value")                         \
    X(redo_end, "head", "redo.end")                             \
    X(heartbeat, "head", "heartbeat")                           \
    X(own_incarnation, "head", "incarnation")                   \
    X(heap_used_bytes, "head", "heap_used_bytes")               \
    X(heap_quarantined_bytes, "head", "heap_quarantined_bytes") \
    X(requests_accepted, "head", "requests_accepted")           \
    X(requests_ended, "head", "requests_ended")                 \
    X(requests_in_flight, "head", "requests_in_flight")         \
    X(asleep, "counters", "asleep")                             \
    X(co_alive, "counters", "co_alive")                         \
    X(co_unlisted, "counters", "co_unlisted")                   \
    X(co_id, "coroutines", "id")                                \
    X(co_position_at, "coroutines", "position_at")              \
    X(tails, "tails", "position")                               \
    X(heads, "heads", "position")                               \
    X(to_shards, "rings_to_shards", "seq")                      \
    X(urgent_to_shards, "urgent_to_shards", "seq")              \
    X(to_gateway, "rings_to_gateway", "seq")                    \
    X(urgent_to_gateway, "urgent_to_gateway", "seq")            \
    X(call, "calls", "word")                                    \
    X(args_off, "calls", "args_off")                            \
    X(args_len, "calls", "args_len")                            \
    X(served, "serves_shards", "started")                       \
    X(answered, "serves_shards", "answer_generation")           \
    X(answer_off, "serves_shards", "answer_off")                \
    X(answer_len, "serves_shards", "answer_len")                \
    X(gateway_served, "serves_gateway", "started")              \
    X(gateway_answered, "serves_gateway", "answer_generation")  \
    X(gateway_answer_off, "serves_gateway", "answer_off")       \
    X(gateway_answer_len, "serves_gateway", "answer_len")       \
    X(flight, "flights", "value")                               \
    X(lock, "locks", "word")                                    \
    X(lock_id, "locks", "id")                                   \
    X(lock_peer, "locks", "holders.peer")                       \
    X(lock_incarnation, "locks", "holders.incarnation")         \
    X(incarnation, "peers", "incarnation")                      \
    X(state, "peers", "state")                                  \
    X(lane_generation, "client_lanes", "generation")            \
    X(lane_state, "client_lanes", "state")                      \
    X(lane_requests, "client_lanes", "requests")                \
    X(lane_tail, "client_lanes", "tail")                        \
    X(ledger, "ledger", "word")                                 \
    X(ledger_client, "ledger", "client")                        \
    X(ledger_generation, "ledger", "client_generation")         \
    X(ledger_number, "ledger", "number")                        \
    X(arena, "arena", "word")                                   \
    X(tag, "tags", "value")

#define AUDIT_LOOKS 3

/* A peer's heap, in the segment. */
struct audit_heap {
    uint64_t off, bytes;
};

/* A buffer that a slot in a peer's part names, where the slot is in use. */
struct audit_buffer {
    uint64_t off, len;
    uint32_t to;
    const struct view_column *column; /* where stands whether it still is what it was, */
    uint32_t peer, other, slot;
    uint64_t was; /* and what stood there */
};

/* What a look found of a client's lane. */
struct audit_lane {
    uint64_t requests, tail;
    uint64_t n_held, n_maybe; /* slots of the ledger */
};

/* What a look found of a peer's requests. */
struct audit_requests {
    uint64_t accepted, ended, in_flight;
};

struct audit {
    const struct segment_view *view;
    uint32_t n_peers, gateway;
    uint64_t stacks_at, stacks_bytes, stack_bytes; /* of portable coroutines, in the processes */
#define X(member, region, field) struct view_column member;
    AUDIT_COLUMNS(X)
#undef X
    /* Room. */
    uint64_t *words;
    struct audit_buffer *buffers;
    size_t n_buffers, max_buffers;
    uint64_t *pages; /* a bit a page of a heap */
    uint32_t max_pages;
    bool *listed;             /* by slot of the arena */
    struct audit_lane *lanes; /* by client */
    struct audit_requests requests;
    /* The run under way. */
    audit_finding_fn *on_finding;
    void *opaque;
    struct audit_result *result;
};

/* A column's word: of peer, about other. */
#define AUDIT_LOAD(a, member, peer, other, inner, nth) \
    view_column_load(&(a)->member, peer, other, inner, nth)

/* One word of a peer. */
#define AUDIT_OF(a, member, peer) AUDIT_LOAD(a, member, peer, 0, 0, 0)

/* One word of the supervisor's about a peer. */
#define AUDIT_CONTROL(a, member, peer) AUDIT_LOAD(a, member, 0, peer, 0, 0)

/*
 * Looks until nothing is wrong, AUDIT_LOOKS times at the most with a pause between; what is wrong
 * in the last is found. look() returns whether all is right, else fills in the finding.
 */
struct audit_subject {
    uint32_t peer, other;
};
typedef bool audit_look_fn(
    struct audit *a, struct audit_subject subject, struct audit_finding *ret);
void audit_look(struct audit *a, struct audit_subject subject, audit_look_fn *look);

/* How many call slots of caller's for callee there are. */
uint32_t audit_call_slots(const struct audit *a, uint32_t caller, uint32_t callee);

/*
 * A peer that sleeps from before the figures are read until after is in the middle of nothing, so
 * what it shows is exact. begin says whether it does, and what to compare with later.
 */
struct audit_rest {
    uint64_t heartbeat;
    bool asleep;
};
struct audit_rest audit_rest_begin(const struct audit *a, uint32_t peer);
bool audit_rest_lasted(const struct audit *a, uint32_t peer, const struct audit_rest *rest);

/* A process of it runs, and has come up. */
bool audit_is_up(const struct audit *a, uint32_t peer);

struct audit_heap audit_heap_of(const struct audit *a, uint32_t peer);

/* ---- the accounts, each of one peer or of all ---- */

void audit_buffers(struct audit *a, uint32_t peer);
void audit_flights(struct audit *a, uint32_t peer);
void audit_portables(struct audit *a);
void audit_locks(struct audit *a, uint32_t home);

/* ---- audit_ledger.c ---- */

/* The lanes of local clients in a shard. */
void audit_ledger(struct audit *a, uint32_t shard);
