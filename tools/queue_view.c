/* SPDX-License-Identifier: MIT */
#include "tools/queue_view.h"

#include "tools/clock.h"

static const char *const to_shards[N_LANES] = {"rings_to_shards", "urgent_to_shards"};
static const char *const to_gateway[N_LANES] = {"rings_to_gateway", "urgent_to_gateway"};

/* A column that is not there reads as 0. */
void queue_reader_init(struct queue_reader *reader, const struct look *look)
{
    const struct segment_view *view = &look->view;
    *reader = (struct queue_reader){.look = look,
        .n_shards = view->n_shards,
        .n_peers = view->n_shards + 1,
        .now_ns = (uint64_t)clock_now_ns()};
#define X(name, side, text) view_column_find(view, "pairs", #name, &reader->name);
    PAIR_FIGURES(X)
#undef X
    view_column_find(view, "pairs", "ends", &reader->ends);
    view_column_find(view, "tails", "position", &reader->tails);
    view_column_find(view, "heads", "position", &reader->heads);
    view_column_find(view, "calls", "word", &reader->call);
    view_column_find(view, "counters", "io_read_bytes", &reader->read_bytes);
    view_column_find(view, "counters", "io_write_bytes", &reader->write_bytes);
    for (uint32_t lane = 0; lane < N_LANES; lane++) {
        view_column_find(view, to_shards[lane], "seq", &reader->rings_to_shards[lane]);
        view_column_find(view, to_gateway[lane], "seq", &reader->rings_to_gateway[lane]);
    }
}

/* ---- a ring ---- */

static uint32_t ring_slots(const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane)
{
    return view_column_n_inner(
        to == r->n_shards ? &r->rings_to_gateway[lane] : &r->rings_to_shards[lane], from);
}

bool queue_view_slot(const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane,
    uint64_t position, struct view_record *ret)
{
    uint32_t n = ring_slots(r, from, to, lane);
    bool is_to_gateway = to == r->n_shards;
    return n > 0 && segment_view_of_peer(&r->look->view, from,
                        is_to_gateway ? to_gateway[lane] : to_shards[lane], is_to_gateway ? 0 : to,
                        (uint32_t)(position % n), ret);
}

uint64_t queue_view_age_ns(const struct queue_reader *r, const struct view_record *message)
{
    uint64_t sent;
    if (!r->look->is_same_version || !view_u64(message, "sent", &sent))
        return 0;
    uint32_t now = (uint32_t)(r->now_ns >> MESSAGE_SENT_SHIFT);
    uint32_t age = now - (uint32_t)sent;
    return age <= UINT32_MAX / 2 ? (uint64_t)age << MESSAGE_SENT_SHIFT : 0;
}

/* Of the message at position, if it is there still. */
static uint64_t oldest_ns(
    const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane, uint64_t position)
{
    struct view_record slot, message;
    if (!queue_view_slot(r, from, to, lane, position, &slot) ||
        look_word(&slot, "seq") != position + 1 || !view_inner(&slot, "payload", &message))
        return 0;
    uint64_t age_ns = queue_view_age_ns(r, &message);
    return look_word(&slot, "seq") == position + 1 ? age_ns : 0;
}

static void add_ring(
    const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane, struct pair_view *ret)
{
    uint64_t slots = ring_slots(r, from, to, lane);
    uint64_t head = view_column_load(&r->heads, to, from, lane, 0);
    uint64_t tail = view_column_load(&r->tails, from, to, lane, 0);
    uint64_t depth = tail > head ? tail - head : 0;
    uint64_t age_ns = depth ? oldest_ns(r, from, to, lane, head) : 0;
    ret->slots += slots;
    ret->depth += depth < slots ? depth : slots;
    if (age_ns > ret->oldest_ns)
        ret->oldest_ns = age_ns;
}

/* ---- a pair ---- */

static void count_call_slots(
    const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane, struct pair_view *ret)
{
    uint32_t n = from == to || to == r->n_shards ? 0 : view_column_n_inner(&r->call, from);
    for (uint32_t slot = 0; r->look->is_same_version && slot < n; slot++) {
        if (lane != ALL_LANES && segment_slot_lane(n, slot) != lane)
            continue;
        ret->call_slots++;
        ret->call_slots_free += (view_column_load(&r->call, from, to, slot, 0) & 0xff) == CALL_FREE;
    }
}

static uint64_t figure(
    const struct view_column *column, uint32_t peer, uint32_t other, uint32_t lane)
{
    bool is_by_lane = column->n_elements == N_LANES;
    uint64_t sum = 0;
    for (uint32_t nth = 0; nth < column->n_elements; nth++)
        if (!is_by_lane || lane == ALL_LANES || lane == nth)
            sum += view_column_load(column, peer, other, 0, nth);
    return sum;
}

static uint64_t under_way(uint64_t submitted, const uint64_t ends[N_CALL_ENDS])
{
    uint64_t ended = 0;
    for (int end = 0; end < N_CALL_ENDS; end++)
        ended += ends[end];
    return submitted > ended ? submitted - ended : 0;
}

struct pair_view queue_view_pair(
    const struct queue_reader *r, uint32_t from, uint32_t to, uint32_t lane)
{
    uint32_t sender = from, sender_of = to, receiver = to, receiver_of = from;
    struct pair_view view = {0};
    for (uint32_t end = 0; end < N_CALL_ENDS; end++)
        view.ends[end] = view_column_load(&r->ends, from, to, 0, end);
#define X(name, side, text) view.name = figure(&r->name, side, side##_of, lane);
    PAIR_FIGURES(X)
#undef X
    view.calls_under_way = under_way(view.calls_submitted, view.ends);
    for (uint32_t n = 0; n < N_LANES; n++)
        if (from != to && (lane == ALL_LANES || lane == n))
            add_ring(r, from, to, n, &view);
    count_call_slots(r, from, to, lane, &view);
    return view;
}

uint64_t queue_view_pushed(const struct queue_reader *r, uint32_t from, uint32_t to)
{
    return figure(&r->pushed, from, to, ALL_LANES);
}

/* ---- a shard ---- */

struct shard_view queue_view_shard(const struct queue_reader *r, uint32_t shard)
{
    struct shard_view view = {.read_bytes = view_column_load(&r->read_bytes, shard, 0, 0, 0),
        .write_bytes = view_column_load(&r->write_bytes, shard, 0, 0, 0)};
    for (uint32_t caller = 0; caller < r->n_peers; caller++) {
        uint64_t ends[N_CALL_ENDS];
        if (caller == shard)
            continue;
        for (uint32_t end = 0; end < N_CALL_ENDS; end++) {
            ends[end] = view_column_load(&r->ends, caller, shard, 0, end);
            view.ends[end] += ends[end];
        }
        view.started += figure(&r->calls_started, shard, caller, ALL_LANES);
        view.under_way += under_way(figure(&r->calls_submitted, caller, shard, ALL_LANES), ends);
    }
    return view;
}
