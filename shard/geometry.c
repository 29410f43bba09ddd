/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"

#include <errno.h>

#include "shard/regions.h"

#define MIN_HEAP_BYTES    (SEGMENT_PAYLOAD_MAX + 64u * 1024)
#define MAX_HEAP_BYTES    (8u * 1024 * 1024)
#define MIN_SLOTS_GATEWAY 8u
#define STACK_BYTES       (64u * 1024)
#define MIN_PORTABLE      4u /* for each shard */
#define MAX_PORTABLE      16u
#define MANY_PORTABLE     256u /* enough for the instance */
#define FEW_SHARDS        16u  /* up to here each has the larger tables for clients */
#define MIN_CLIENTS       64u
#define MIN_LEDGER        64u
#define MIN_FATES         256u
#define MAX_FATES         (1u << 23)

static uint64_t align_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static uint64_t planned_bytes(const struct segment_geometry *g)
{
    struct segment seg;

    regions_lay_out(&seg, g);
    return seg.bytes;
}

/* Many for few shards; for many shards few each, which is many in all. */
static uint32_t plan_portable(uint32_t n_shards)
{
    uint32_t n = n_shards * MAX_PORTABLE;
    uint32_t enough =
        n_shards * MIN_PORTABLE > MANY_PORTABLE ? n_shards * MIN_PORTABLE : MANY_PORTABLE;

    return n < enough ? n : enough;
}

static uint32_t plan_clients(uint32_t n_shards)
{
    return n_shards <= FEW_SHARDS ? 8192 : 4096;
}

static uint32_t plan_ledger(uint32_t n_shards)
{
    return n_shards <= FEW_SHARDS ? 2048 : 512;
}

static uint32_t plan_fates(uint64_t fates_bytes)
{
    uint64_t n = fates_bytes / sizeof(struct fate);

    if (!fates_bytes)
        return 12288;
    return n >= SEGMENT_FATES_EACH && n <= MAX_FATES ? (uint32_t)n : 0;
}

/* What each peer needs for itself, for clients, and what each pair needs. */
static uint64_t default_bytes(uint32_t n_shards, uint32_t n_fates)
{
    uint64_t n_pairs = (uint64_t)n_shards * n_shards;
    uint64_t clients_bytes = plan_clients(n_shards) * sizeof(struct client_lane) +
                             plan_ledger(n_shards) * sizeof(struct ledger_slot);

    return 17 * (UINT64_C(1) << 19) + (n_shards + 1) * (UINT64_C(5) << 19) +
           plan_clients(n_shards) * sizeof(struct client_row) + n_shards * clients_bytes +
           n_fates * sizeof(struct fate) +
           segment_sessions_of(n_fates) * sizeof(struct session_row) +
           n_pairs / 16 * (UINT64_C(3) << 16);
}

static uint64_t flights_bytes(uint64_t heap_bytes)
{
    return heap_bytes / SEGMENT_PAGE * sizeof(uint64_t);
}

/* A heap with its in-flight table. */
static uint64_t whole_heap_bytes(uint64_t heap_bytes)
{
    return heap_bytes + align_up(flights_bytes(heap_bytes), SEGMENT_PAGE);
}

static uint64_t largest_heap(uint64_t room)
{
    uint64_t bytes = room < MAX_HEAP_BYTES ? room / SEGMENT_PAGE * SEGMENT_PAGE : MAX_HEAP_BYTES;

    while (whole_heap_bytes(bytes) > room)
        bytes -= SEGMENT_PAGE;
    return bytes;
}

static bool halve(uint32_t *n, uint32_t least)
{
    if (*n <= least)
        return false;
    *n = *n / 2 < least ? least : *n / 2;
    return true;
}

/* Fewer of them make calls wait sooner; they are for pairs of shards. False: there are the
 * fewest. */
static bool halve_slots(struct segment_geometry *g)
{
    bool took = halve(&g->slots_shard, SEGMENT_MIN_SLOTS);

    took |= halve(&g->slots_gateway, MIN_SLOTS_GATEWAY);
    took |= halve(&g->n_portable, g->n_shards);
    return took;
}

/* Where these are full, clients are refused. */
static bool halve_tables(struct segment_geometry *g, uint32_t least_fates)
{
    bool took = halve(&g->n_clients, MIN_CLIENTS);

    took |= halve(&g->n_ledger, MIN_LEDGER);
    took |= halve(&g->n_fates, least_fates);
    return took;
}

/* What takes most gives way. False: nothing can. */
static bool shrink(struct segment_geometry *g, uint32_t least_fates)
{
    struct segment_geometry fewer_slots = *g, smaller_tables = *g;
    bool has_slots = halve_slots(&fewer_slots);
    bool has_tables = halve_tables(&smaller_tables, least_fates);

    if (!has_slots && !has_tables)
        return false;
    if (has_slots && has_tables)
        has_slots = planned_bytes(&fewer_slots) <= planned_bytes(&smaller_tables);
    *g = has_slots ? fewer_slots : smaller_tables;
    return true;
}

int segment_geometry_plan(
    uint32_t n_shards, uint64_t max_bytes, struct segment_geometry *ret, uint64_t *ret_bytes)
{
    return segment_geometry_plan_fates(n_shards, max_bytes, 0, ret, ret_bytes);
}

int segment_geometry_plan_fates(uint32_t n_shards, uint64_t max_bytes, uint64_t fates_bytes,
    struct segment_geometry *ret, uint64_t *ret_bytes)
{
    struct segment_geometry g = {
        .n_shards = n_shards, .n_events = 1024, .n_coroutines = 1024, .stack_bytes = STACK_BYTES};
    uint64_t heaps_bytes, fixed;
    uint32_t least_fates;

    g.n_fates = plan_fates(fates_bytes);
    least_fates = fates_bytes ? g.n_fates : MIN_FATES;
    if (n_shards < 1 || n_shards > SEGMENT_MAX_SHARDS)
        return -EINVAL;
    if (!g.n_fates)
        return -ERANGE;
    if (!max_bytes)
        max_bytes = default_bytes(n_shards, g.n_fates);
    heaps_bytes = (uint64_t)(n_shards + 1) * whole_heap_bytes(MIN_HEAP_BYTES);
    g.slots_shard = 256;
    g.slots_gateway = 512;
    g.n_portable = plan_portable(n_shards);
    g.n_clients = plan_clients(n_shards);
    g.n_ledger = plan_ledger(n_shards);
    g.heap_bytes = 0;
    while ((fixed = planned_bytes(&g)) + heaps_bytes > max_bytes) {
        if (!shrink(&g, least_fates)) {
            *ret_bytes = fixed + heaps_bytes;
            return -ENOSPC;
        }
    }
    g.heap_bytes = largest_heap((max_bytes - fixed) / (n_shards + 1));
    *ret = g;
    *ret_bytes = planned_bytes(&g);
    return 0;
}

uint64_t segment_geometry_add(struct segment_geometry *geometry, uint64_t service_bytes)
{
    geometry->service_bytes = align_up(service_bytes, SEGMENT_PAGE);
    return planned_bytes(geometry);
}

bool segment_geometry_is_sane(const struct segment_geometry *g)
{
    return g->n_shards >= 1 && g->n_shards <= SEGMENT_MAX_SHARDS &&
           g->slots_shard >= SEGMENT_MIN_SLOTS && g->slots_shard <= 1024 &&
           (g->slots_shard & (g->slots_shard - 1)) == 0 && g->slots_gateway >= 1 &&
           g->slots_gateway <= 65536 && g->n_events >= 1 && g->n_events <= 1u << 20 &&
           (g->n_events & (g->n_events - 1)) == 0 && g->n_coroutines <= 1u << 20 &&
           g->n_portable <= 1u << 16 && g->stack_bytes >= 4 * SEGMENT_PAGE &&
           g->stack_bytes <= 1u << 24 && (g->stack_bytes & (g->stack_bytes - 1)) == 0 &&
           g->n_clients <= 1u << 20 && g->n_fates <= MAX_FATES && g->n_ledger <= 1u << 16 &&
           g->heap_bytes % SEGMENT_PAGE == 0 && g->heap_bytes <= UINT64_C(1) << 32 &&
           g->service_bytes % SEGMENT_PAGE == 0 && g->service_bytes <= SEGMENT_SERVICE_BYTES_MAX;
}
