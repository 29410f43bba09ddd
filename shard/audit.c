/* SPDX-License-Identifier: MIT */
#include "shard/audit.h"
/*
 * A slot's state and the counter that goes with it are two stores, noted in the writer's redo
 * record in between (caller.c); a writer that stands still there, or has died there, is counted as
 * if it had gone on.
 *
 * Orderings    first             then              ordered by               if broken
 *   WINDOW   counters, slots   slots, counters   a column's loads are     a range too narrow, and an
 *                                                acquires (LOOK): in the  account wrongly called wrong
 *                                                order they stand in
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shard/audit_inside.h"

#define BETWEEN_LOOKS_NS 2000000

const char *audit_expected_text(enum audit_account account)
{
    static const char *const texts[] = {
#define X(name, expected, found) expected,
        AUDIT_ACCOUNTS(X)
#undef X
    };
    return texts[account];
}

const char *audit_found_text(enum audit_account account)
{
    static const char *const texts[] = {
#define X(name, expected, found) found,
        AUDIT_ACCOUNTS(X)
#undef X
    };
    return texts[account];
}

/* ---- for all accounts ---- */

static void found(struct audit *a, const struct audit_finding *finding)
{
    a->result->n_findings++;
    a->on_finding(a->opaque, finding);
}

static void pause_a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = BETWEEN_LOOKS_NS}, NULL);
}

void audit_look(struct audit *a, struct audit_subject subject, audit_look_fn *look)
{
    struct audit_finding finding;

    for (int looks = 1; !look(a, subject, &finding); looks++) {
        if (looks == AUDIT_LOOKS) {
            found(a, &finding);
            return;
        }
        pause_a_moment();
    }
}

uint32_t audit_call_slots(const struct audit *a, uint32_t caller, uint32_t callee)
{
    if (caller == callee || callee == a->gateway)
        return 0;
    return view_column_n_inner(&a->call, caller);
}

struct audit_rest audit_rest_begin(const struct audit *a, uint32_t peer)
{
    return (struct audit_rest){.heartbeat = AUDIT_OF(a, heartbeat, peer),
        .asleep = AUDIT_OF(a, asleep, peer) && audit_is_up(a, peer)};
}

bool audit_rest_lasted(const struct audit *a, uint32_t peer, const struct audit_rest *rest)
{
    return rest->asleep && AUDIT_OF(a, asleep, peer) &&
           AUDIT_OF(a, heartbeat, peer) == rest->heartbeat;
}

bool audit_is_up(const struct audit *a, uint32_t peer)
{
    uint64_t state = AUDIT_CONTROL(a, state, peer);

    return state != PEER_STARTING && state != PEER_DYING && state != PEER_FAILED &&
           AUDIT_OF(a, own_incarnation, peer) == AUDIT_CONTROL(a, incarnation, peer);
}

/* ---- calls of one pair ---- */

/* What the counters say, with a transition under way taken as done. */
struct counted {
    uint64_t submitted;
    uint64_t ends[N_CALL_ENDS];
    uint64_t ended; /* their sum */
};

/* Of no one moment where it changes meanwhile, like all that is read here. */
static struct redo_record read_redo(const struct audit *a, uint32_t peer)
{
    return (struct redo_record){
        .kind = AUDIT_OF(a, redo_kind, peer),
        .pair = (uint32_t)AUDIT_OF(a, redo_pair, peer),
        .slot = (uint32_t)AUDIT_OF(a, redo_slot, peer),
        .word = AUDIT_OF(a, redo_word, peer),
        .value = AUDIT_OF(a, redo_value, peer),
        .end = (uint32_t)AUDIT_OF(a, redo_end, peer),
    };
}

static void apply(
    struct counted *c, const struct redo_record *redo, const struct audit *a, uint32_t from)
{
    if (redo->kind == REDO_END && redo->end < N_CALL_ENDS && redo->value > c->ends[redo->end])
        c->ends[redo->end] = redo->value;
    if (redo->kind == REDO_SUBMIT && redo->slot < audit_call_slots(a, from, redo->pair) &&
        redo->value > c->submitted &&
        AUDIT_LOAD(a, call, from, redo->pair, redo->slot, 0) == redo->word)
        c->submitted = redo->value;
}

static struct counted read_counters(const struct audit *a, uint32_t from, uint32_t to)
{
    struct counted c = {.submitted = AUDIT_LOAD(a, submitted, from, to, 0, 0)}; /* WINDOW */

    for (uint32_t end = 0; end < N_CALL_ENDS; end++)
        c.ends[end] = AUDIT_LOAD(a, ends, from, to, 0, end);
    struct redo_record redo = read_redo(a, from);

    if (redo.pair == to)
        apply(&c, &redo, a, from);
    for (int i = 0; i < N_CALL_ENDS; i++)
        c.ended += c.ends[i];
    return c;
}

static bool holds_slot(
    const struct audit *a, uint32_t from, uint32_t to, uint32_t slot, uint64_t word)
{
    struct redo_record redo;

    if ((word & 0xff) == CALL_FREE)
        return false;
    redo = read_redo(a, from);
    return !(redo.kind == REDO_END && redo.pair == to && redo.slot == slot);
}

/* Between n_held and n_held + n_changing slots were held at any moment of the count. */
struct slots_held {
    uint64_t n_held, n_changing;
};

static struct slots_held count_slots(const struct audit *a, uint32_t from, uint32_t to)
{
    uint32_t n = audit_call_slots(a, from, to);
    struct slots_held held = {0};

    for (uint32_t slot = 0; slot < n; slot++)
        a->words[slot] = AUDIT_LOAD(a, call, from, to, slot, 0); /* WINDOW */
    for (uint32_t slot = 0; slot < n; slot++)
        if (AUDIT_LOAD(a, call, from, to, slot, 0) != a->words[slot])
            held.n_changing++;
        else if (holds_slot(a, from, to, slot, a->words[slot]))
            held.n_held++;
    return held;
}

/* Looks once. Whether submitted = ended + held can be true. */
static bool calls_can_balance(const struct audit *a, struct audit_subject of,
    struct audit_finding *ret, struct counted *ret_counted, uint64_t *ret_held)
{
    struct counted before = read_counters(a, of.peer, of.other);
    struct slots_held held = count_slots(a, of.peer, of.other);
    struct counted after = read_counters(a, of.peer, of.other);
    uint64_t least = before.ended + held.n_held;
    uint64_t most = after.ended + held.n_held + held.n_changing;

    *ret = (struct audit_finding){.account = AUDIT_CALLS,
        .from = of.peer,
        .to = of.other,
        .expected = least,
        .found = after.submitted};
    *ret_counted = after;
    *ret_held = held.n_held;
    return after.submitted >= least && before.submitted <= most;
}

static void audit_calls(struct audit *a, struct audit_subject of)
{
    struct audit_finding finding;
    struct counted counted;
    uint64_t held;
    int looks = 1;

    while (!calls_can_balance(a, of, &finding, &counted, &held)) {
        if (looks++ == AUDIT_LOOKS) {
            found(a, &finding);
            break;
        }
        pause_a_moment();
    }
    a->result->submitted += counted.submitted;
    a->result->under_way += held;
    for (int end = 0; end < N_CALL_ENDS; end++)
        a->result->ended[end] += counted.ends[end];
}

/* The callee's count first: whatever it has begun was submitted by then. */
static void audit_started(struct audit *a, uint32_t from, uint32_t to)
{
    uint64_t started = AUDIT_LOAD(a, begun, to, from, 0, 0); /* WINDOW */
    uint64_t submitted = read_counters(a, from, to).submitted;

    if (started > submitted)
        found(a, &(struct audit_finding){.account = AUDIT_STARTED,
                     .from = from,
                     .to = to,
                     .expected = submitted,
                     .found = started});
}

/* The tail first: what it counts stays in the ring until the head passes it. */
static void audit_ring(struct audit *a, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    const struct view_column *to_shards[] = {&a->to_shards, &a->urgent_to_shards};
    const struct view_column *to_gateway[] = {&a->to_gateway, &a->urgent_to_gateway};
    uint64_t n_slots =
        view_column_n_inner(to == a->gateway ? to_gateway[lane] : to_shards[lane], from);
    uint64_t tail = AUDIT_LOAD(a, tails, from, to, lane, 0); /* WINDOW */
    uint64_t head = AUDIT_LOAD(a, heads, to, from, lane, 0);

    if (tail > head && tail - head > n_slots)
        found(a, &(struct audit_finding){.account = AUDIT_RING,
                     .from = from,
                     .to = to,
                     .expected = n_slots,
                     .found = tail - head});
}

/* ---- clients' requests ---- */

/* One writer, three words: all of a moment where the first has not changed. A shard that died may
 * have left them between two. */
static bool requests_balance(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    struct audit_requests *seen = &a->requests;

    seen->ended = AUDIT_OF(a, requests_ended, of.peer); /* WINDOW */
    seen->in_flight = AUDIT_OF(a, requests_in_flight, of.peer);
    seen->accepted = AUDIT_OF(a, requests_accepted, of.peer);
    *ret = (struct audit_finding){.account = AUDIT_REQUESTS,
        .from = of.peer,
        .to = of.peer,
        .expected = seen->ended + seen->in_flight,
        .found = seen->accepted};
    return seen->accepted == seen->ended + seen->in_flight ||
           AUDIT_OF(a, requests_ended, of.peer) != seen->ended ||
           (of.peer != a->gateway && !audit_is_up(a, of.peer));
}

/* The gateway's are those that came by message, a shard's those of local clients. What a shard that
 * is given up had under way nobody will end. */
static void audit_requests(struct audit *a, uint32_t peer)
{
    struct audit_result *result = a->result;

    audit_look(a, (struct audit_subject){peer, peer}, requests_balance);
    result->requests_accepted += a->requests.accepted;
    result->requests_ended += a->requests.ended;
    if (AUDIT_CONTROL(a, state, peer) != PEER_FAILED)
        result->requests_in_flight += a->requests.in_flight;
}

/* ---- all of it ---- */

void audit_run(
    struct audit *a, audit_finding_fn *on_finding, void *opaque, struct audit_result *ret_result)
{
    *ret_result = (struct audit_result){0};
    a->on_finding = on_finding;
    a->opaque = opaque;
    a->result = ret_result;
    for (uint32_t from = 0; from < a->n_peers; from++) {
        for (uint32_t to = 0; to < a->n_peers; to++) {
            if (from == to)
                continue;
            audit_started(a, from, to);
            for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
                audit_ring(a, from, to, lane);
            audit_calls(a, (struct audit_subject){from, to});
        }
        audit_buffers(a, from);
        audit_flights(a, from);
        audit_locks(a, from);
        audit_ledger(a, from);
        audit_requests(a, from);
    }
    audit_portables(a);
}

/* ---- life ---- */

struct audit_heap audit_heap_of(const struct audit *a, uint32_t peer)
{
    const struct layout_region *region =
        segment_view_region(a->view, peer == a->gateway ? "gateway" : "shard", "heap");
    struct view_record first;

    if (!region || !segment_view_of_peer(a->view, peer, "heap", 0, 0, &first))
        return (struct audit_heap){0};
    return (struct audit_heap){
        (uint64_t)(first.at - a->view->base), (uint64_t)region->n_inner * region->stride};
}

static bool find_columns(struct audit *a)
{
    return
#define X(member, region, field) view_column_find(a->view, region, field, &a->member) &&
        AUDIT_COLUMNS(X)
#undef X
            true;
}

/* Where the stacks of portable coroutines are in the instance's processes. */
static void find_stacks(struct audit *a)
{
    const struct layout_region *region = segment_view_region(a->view, "commons", "stacks");
    struct view_record super, first;
    uint64_t mapped_at;

    if (!region || !segment_view_at(a->view, "super", 0, "super", 0, 0, &super) ||
        !view_u64(&super, "mapped_at", &mapped_at) ||
        !segment_view_at(a->view, "commons", 0, "stacks", 0, 0, &first))
        return;
    a->stack_bytes = (uint64_t)region->n_inner * region->stride;
    a->stacks_at = mapped_at + (uint64_t)(first.at - a->view->base);
    a->stacks_bytes = a->stack_bytes * region->n_outer;
}

static uint32_t larger(uint32_t one, uint32_t other)
{
    return one > other ? one : other;
}

static bool make_room(struct audit *a)
{
    uint32_t n_slots =
        larger(view_column_n_inner(&a->call, 0), view_column_n_inner(&a->call, a->gateway));
    uint32_t n_serves =
        larger(view_column_n_inner(&a->served, 0), view_column_n_inner(&a->gateway_served, 0));

    a->max_buffers = (size_t)a->n_peers * ((size_t)n_slots + n_serves);
    a->max_pages =
        larger(view_column_n_inner(&a->flight, 0), view_column_n_inner(&a->flight, a->gateway));
    a->words = calloc((size_t)n_slots + 1, sizeof(a->words[0]));
    a->buffers = calloc(a->max_buffers + 1, sizeof(a->buffers[0]));
    a->pages = calloc((size_t)a->max_pages / 64 + 1, sizeof(a->pages[0]));
    a->listed = calloc((size_t)view_column_n_inner(&a->arena, 0) + 1, sizeof(a->listed[0]));
    a->lanes = calloc((size_t)view_column_n_inner(&a->lane_tail, 0) + 1, sizeof(a->lanes[0]));
    return a->words && a->buffers && a->pages && a->listed && a->lanes;
}

int audit_new(const struct segment_view *view, struct audit **ret_audit, const char **ret_why)
{
    struct audit *a;

    *ret_why = "it was made by another version of Sherd, and what its words mean is not known here "
               "(segment ABI)";
    if (view->abi != SEGMENT_ABI || view->n_shards > SEGMENT_MAX_SHARDS)
        return -EPROTO;
    *ret_why = "there is no memory";
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->view = view;
    a->gateway = view->n_shards;
    a->n_peers = view->n_shards + 1;
    if (!find_columns(a)) {
        free(a);
        *ret_why = "its description lacks words that are counted";
        return -EPROTO;
    }
    find_stacks(a);
    if (!make_room(a)) {
        audit_free(a);
        return -ENOMEM;
    }
    *ret_audit = a;
    return 0;
}

void audit_free(struct audit *audit)
{
    if (!audit)
        return;
    free(audit->words);
    free(audit->buffers);
    free(audit->pages);
    free(audit->listed);
    free(audit->lanes);
    free(audit);
}
