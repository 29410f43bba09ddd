/* SPDX-License-Identifier: MIT */
#include "tools/queue_json.h"

#include "tools/json.h"

static json_t *ends_json(const uint64_t ends[N_CALL_ENDS])
{
    json_t *o = json_object();
#define X(name, number, text) json_set_u64(o, text, ends[CALL_END_##name]);
    CALL_ENDS(X)
#undef X
    json_set_u64(o, "abandoned", ends[CALL_END_NONE]);
    return o;
}

/* X(key): what is told of each lane, and of both */
#define LANE_FIGURES(X) \
    X(slots)            \
    X(depth)            \
    X(pushed)           \
    X(popped)           \
    X(high_water)       \
    X(call_slots)       \
    X(call_slots_free)

static void set_lane(json_t *o, const struct pair_view *view)
{
#define X(key) json_set_u64(o, #key, view->key);
    LANE_FIGURES(X)
#undef X
    json_object_set_new(
        o, "oldest_s", view->oldest_ns ? json_real((double)view->oldest_ns / 1e9) : json_null());
}

static json_t *pair_json(
    const struct queue_reader *reader, const struct queue_rates *rates, uint32_t from, uint32_t to)
{
    struct pair_view view = queue_view_pair(reader, from, to, ALL_LANES);
    char name[LOOK_NAME];
    json_t *o = json_object();
    json_set_text(o, "from", look_peer_name(reader->look, from, name));
    json_set_text(o, "to", look_peer_name(reader->look, to, name));
    set_lane(o, &view);
#define X(name, side, text) json_set_u64(o, #name, view.name);
    PAIR_FIGURES(X)
#undef X
    json_object_set_new(o, "pushed_per_s",
        rates ? json_integer((json_int_t)queue_rates_of(rates, from, to)) : json_null());
    json_set_u64(o, "calls_under_way", view.calls_under_way);
    json_object_set_new(o, "ends", ends_json(view.ends));
    for (uint32_t lane = 0; lane < N_LANES; lane++) {
        struct pair_view of_lane = queue_view_pair(reader, from, to, lane);
        json_t *l = json_object();
        set_lane(l, &of_lane);
        json_object_set_new(o, mesh_lane_text(lane), l);
    }
    return o;
}

json_t *queue_pairs_json(const struct queue_reader *reader, const struct queue_rates *rates)
{
    json_t *pairs = json_array();
    for (uint32_t from = 0; from < reader->n_peers; from++)
        for (uint32_t to = 0; to < reader->n_peers; to++)
            if (from != to)
                json_array_append_new(pairs, pair_json(reader, rates, from, to));
    return pairs;
}

static json_t *shard_json(const struct queue_reader *reader, uint32_t shard)
{
    struct shard_view view = queue_view_shard(reader, shard);
    json_t *o = json_object();
    json_set_u64(o, "shard", shard);
    json_set_u64(o, "calls_started", view.started);
    json_set_u64(o, "calls_under_way", view.under_way);
    json_set_u64(o, "read_bytes", view.read_bytes);
    json_set_u64(o, "write_bytes", view.write_bytes);
    json_object_set_new(o, "ends", ends_json(view.ends));
    return o;
}

json_t *queue_shards_json(const struct queue_reader *reader)
{
    json_t *shards = json_array();
    for (uint32_t shard = 0; shard < reader->n_shards; shard++)
        json_array_append_new(shards, shard_json(reader, shard));
    return shards;
}
