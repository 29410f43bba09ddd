/* SPDX-License-Identifier: MIT */
#include "shard/regions.h"
/*
 * The layout is a function of the geometry: areas of whole pages, each a row of regions, in the
 * order of their table; in a part, what differs between a shard and the gateway is how many slots
 * and peers each region has. Slots for oneself are left out: the n-th other peer of p is n for n <
 * p, n + 1 above.
 */
#include <assert.h>
#include <ctype.h>
#include <string.h>

static uint64_t align_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static uint32_t power_of_two_above(uint32_t value)
{
    uint32_t power = 1;

    while (power < value)
        power *= 2;
    return value ? power : 0;
}

uint32_t regions_lane_slots(
    const struct segment_geometry *g, uint32_t caller, uint32_t callee, enum mesh_lane lane)
{
    if (caller == callee || callee == g->n_shards)
        return 0;
    if (lane == LANE_URGENT)
        return SEGMENT_URGENT_SLOTS;
    return caller == g->n_shards ? g->slots_gateway : g->slots_shard;
}

/* Of both lanes. */
uint32_t regions_call_slots(const struct segment_geometry *g, uint32_t caller, uint32_t callee)
{
    return regions_lane_slots(g, caller, callee, LANE_NORMAL) +
           regions_lane_slots(g, caller, callee, LANE_URGENT);
}

/*
 * Room for all that can be under way from one peer to another in a lane, so that a push never
 * fails. For each call it makes: the call, that it was abandoned, that the answer's buffer was
 * taken; of these those of two generations, for a callee may die between marking the first as
 * started and freeing its message. For each call it serves: that the arguments' buffer was taken,
 * and the answer. FIFO and the slots' states allow no more of each at a time.
 */
uint32_t regions_ring_slots(
    const struct segment_geometry *g, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    return power_of_two_above(
        6 * regions_lane_slots(g, from, to, lane) + 2 * regions_lane_slots(g, to, from, lane));
}

static struct dimensions dimensions_of(const struct segment_geometry *g, bool gateway)
{
    uint32_t n = g->n_shards, self = gateway ? n : 0;
    uint32_t any_other = gateway ? 0 : 1; /* no shard where n_others is 0 */

    return (struct dimensions){.g = g,
        .gateway = gateway,
        .n_peers = n + 1,
        .n_others = gateway ? n : n - 1,
        .to_shard = regions_ring_slots(g, self, any_other, LANE_NORMAL),
        .urgent_to_shard = regions_ring_slots(g, self, any_other, LANE_URGENT),
        .to_gateway = regions_ring_slots(g, self, n, LANE_NORMAL),
        .urgent_to_gateway = regions_ring_slots(g, self, n, LANE_URGENT),
        .calls = regions_call_slots(g, self, any_other),
        .gateway_calls = regions_call_slots(g, n, 0)};
}

static_assert(N_REGIONS <= SEGMENT_REGIONS_MAX, "struct segment has room for the regions");

/* In the description a part's regions stand twice: a shard's and the gateway's. */
#define N_DESCRIBED (2 * N_REGIONS)

struct region_shape {
    uint32_t area; /* enum layout_area_number; AREA_shard stands for every part */
    uint32_t record;
    uint32_t index;
    uint32_t align;
    uint32_t n_outer, n_inner;
};

static void region_shapes(const struct dimensions *d, struct region_shape ret[N_REGIONS])
{
    const struct region_shape shapes[] = {
#define X(name, area, record, index, align, outer, inner) \
    {AREA_##area, RECORD_##record, INDEX_##index, align, outer, inner},
        REGIONS(X)
#undef X
    };
    memcpy(ret, shapes, sizeof(shapes));
}

/* Puts the regions of one area after each other from `start`; returns where the last one ends, on
 * a page. */
static uint64_t place_regions(const struct segment_geometry *g, bool gateway, uint32_t area,
    uint64_t start, uint64_t offsets[SEGMENT_REGIONS_MAX])
{
    struct region_shape shapes[N_REGIONS];
    struct dimensions d = dimensions_of(g, gateway);
    uint64_t off = start;

    region_shapes(&d, shapes);
    for (uint32_t r = 0; r < N_REGIONS; r++) {
        const struct region_shape *s = &shapes[r];
        if (s->area != area)
            continue;
        off = align_up(off, s->align);
        offsets[r] = off;
        off += (uint64_t)s->n_outer * s->n_inner *
               layout_record_bytes((enum layout_record_number)s->record);
    }
    return align_up(off, SEGMENT_PAGE);
}

void regions_lay_out(struct segment *seg, const struct segment_geometry *g)
{
    seg->geometry = *g;
    seg->n_peers = g->n_shards + 1;
    seg->control_off = align_up(SEGMENT_PAGE + layout_bytes(N_DESCRIBED), SEGMENT_PAGE);
    seg->commons_off = place_regions(g, false, AREA_control, seg->control_off, seg->shard_regions);
    seg->parts_off = place_regions(g, false, AREA_commons, seg->commons_off, seg->shard_regions);
    seg->shard_bytes = place_regions(g, false, AREA_shard, 0, seg->shard_regions);
    seg->gateway_bytes = place_regions(g, true, AREA_shard, 0, seg->gateway_regions);
    seg->bytes = seg->parts_off + g->n_shards * seg->shard_bytes + seg->gateway_bytes;
}

/* ---- the description ---- */

static void name_region(char *to, const char *name)
{
    for (; *name; name++)
        *to++ = (char)tolower((unsigned char)*name);
}

/* What stands in a part is described for shards and, once more, for the gateway. */
static uint32_t describe_regions(const struct segment *seg, bool gateway, struct layout_region *to)
{
    static const char *const names[] = {
#define X(name, area, record, index, align, outer, inner) #name,
        REGIONS(X)
#undef X
    };
    const uint64_t *offsets = gateway ? seg->gateway_regions : seg->shard_regions;
    struct dimensions d = dimensions_of(&seg->geometry, gateway);
    struct region_shape shapes[N_REGIONS];
    uint32_t n = 0;

    region_shapes(&d, shapes);
    for (uint32_t r = 0; r < N_REGIONS; r++) {
        const struct region_shape *s = &shapes[r];
        uint64_t base = s->area == AREA_control   ? seg->control_off
                        : s->area == AREA_commons ? seg->commons_off
                                                  : 0;
        if (gateway && s->area != AREA_shard)
            continue;
        to[n] = (struct layout_region){.area = gateway ? AREA_gateway : s->area,
            .record = s->record,
            .index = s->index,
            .n_outer = s->n_outer,
            .n_inner = s->n_inner,
            .stride = layout_record_bytes((enum layout_record_number)s->record),
            .off = offsets[r] - base};
        name_region(to[n++].name, names[r]);
    }
    return n;
}

/* The superblock and the description of seg, in control_off zeroed bytes. */
void regions_describe(const struct segment *seg, void *to)
{
    uint64_t gateway_off = seg->parts_off + seg->geometry.n_shards * seg->shard_bytes;
    const struct layout_area areas[N_AREAS] = {
        [AREA_super] = {.off = 0, .stride = SEGMENT_PAGE, .n = 1},
        [AREA_control] = {.off = seg->control_off,
            .stride = seg->commons_off - seg->control_off,
            .n = 1},
        [AREA_commons] = {.off = seg->commons_off,
            .stride = seg->parts_off - seg->commons_off,
            .n = 1},
        [AREA_shard] = {.off = seg->parts_off,
            .stride = seg->shard_bytes,
            .n = seg->geometry.n_shards},
        [AREA_gateway] = {.off = gateway_off, .stride = seg->gateway_bytes, .n = 1},
    };
    struct layout_region regions[N_DESCRIBED] = {{.name = "super",
        .area = AREA_super,
        .record = RECORD_segment_super,
        .n_outer = 1,
        .n_inner = 1,
        .stride = sizeof(struct segment_super)}};
    uint32_t n = 1;

    n += describe_regions(seg, false, regions + n);
    n += describe_regions(seg, true, regions + n);
    layout_write(to, seg->geometry.n_shards, areas, regions, n);
}
