/* SPDX-License-Identifier: MIT */
/*
 * The layout is a function of the geometry. A part is a row of regions, each aligned to a cache
 * line, in the order of enum region; what differs between a shard and the gateway is how many slots
 * and peers each region has. Slots for oneself are left out: the n-th other peer of p is n for n <
 * p, n + 1 above.
 */
#include "shard/segment.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/build_id.h"

#define LINE              64u
#define MIN_HEAP_BYTES    (SEGMENT_PAYLOAD_MAX + 64u * 1024)
#define MAX_HEAP_BYTES    (8u * 1024 * 1024)
#define MIN_SLOTS_GATEWAY 8u
#define STACK_BYTES       (64u * 1024)
#define MIN_PORTABLE      4u /* for each shard */
#define MAX_PORTABLE      16u
#define MANY_PORTABLE     256u /* enough for the instance */

static_assert(sizeof(struct ring_slot) == LINE, "a slot is a cache line");
static_assert(sizeof(struct message) == RING_PAYLOAD_BYTES, "a message fills its slot");
static_assert(sizeof(struct peer_control) == 128, "part of the ABI");
static_assert(sizeof(struct supervisor_head) == 256, "part of the ABI");
static_assert(sizeof(struct commons_bell) == LINE, "a line each");
static_assert(sizeof(struct arena_slot) == LINE, "a line each");
static_assert(ARENA_CHUNK_BYTES == SEGMENT_PAGE, "chunks are pages");
static_assert(offsetof(struct part_head, redo) % LINE == 0, "redo has its own line");
static_assert(sizeof(struct redo_record) == LINE, "redo has its own line");
static_assert(sizeof(struct part_head) % LINE == 0, "whole lines");
static_assert(sizeof(struct pair_stats) % LINE == 0, "whole lines");
static_assert(sizeof(struct call_slot) == 256, "part of the ABI");
static_assert(sizeof(struct serve_slot) == 256, "part of the ABI");
static_assert(sizeof(struct lock_record) == LINE, "a line each");
static_assert(SEGMENT_MIN_SLOTS / 8 * SEGMENT_SLOT_CLASSES <= SEGMENT_MIN_SLOTS, "one a class");
static_assert(sizeof(struct segment_super) <= SEGMENT_PAGE, "the superblock is a page");
static_assert(SEGMENT_MAX_PEERS <= SEGMENT_BITMAP_WORDS * 64, "a bit a sender");

const char *peer_state_text(uint32_t state)
{
    static const char *const texts[] = {
#define X(name, text) [PEER_##name] = text,
        PEER_STATES(X)
#undef X
    };
    return state < sizeof(texts) / sizeof(texts[0]) ? texts[state] : "unknown";
}

const char *mesh_lane_text(uint32_t lane)
{
    static const char *const texts[] = {
#define X(name, text) [LANE_##name] = text,
        MESH_LANES(X)
#undef X
    };
    return lane < N_LANES ? texts[lane] : "unknown";
}

const char *call_end_text(uint32_t end)
{
    switch (end) {
#define X(name, number, text) \
    case CALL_END_##name:     \
        return text;
        CALL_ENDS(X)
#undef X
    default:
        return "unknown";
    }
}

/* ---- sizes ---- */

enum region {
    REGION_HEAD,
    REGION_COUNTERS,
    REGION_PAIRS,
    REGION_HEADS,
    REGION_TAILS,
    REGION_RECORDED,
    REGION_EVENTS,
    REGION_COROUTINES,
    REGION_CRASH,
    REGION_RINGS_TO_SHARDS,
    REGION_RINGS_TO_GATEWAY,
    REGION_CALLS,
    REGION_SERVES_SHARDS,
    REGION_SERVES_GATEWAY,
    REGION_FLIGHTS,
    REGION_LOCKS,
    REGION_HEAP,
    N_REGIONS
};

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

static uint32_t lane_slots(
    const struct segment_geometry *g, uint32_t caller, uint32_t callee, enum mesh_lane lane)
{
    if (caller == callee || callee == g->n_shards)
        return 0;
    if (lane == LANE_URGENT)
        return SEGMENT_URGENT_SLOTS;
    return caller == g->n_shards ? g->slots_gateway : g->slots_shard;
}

/* Of both lanes. */
static uint32_t call_slots(const struct segment_geometry *g, uint32_t caller, uint32_t callee)
{
    return lane_slots(g, caller, callee, LANE_NORMAL) + lane_slots(g, caller, callee, LANE_URGENT);
}

/*
 * Room for all that can be under way from one peer to another in a lane, so that a push never
 * fails. For each call it makes: the call, that it was abandoned, that the answer's buffer was
 * taken; of these those of two generations, for a callee may die between marking the first as
 * started and freeing its message. For each call it serves: that the arguments' buffer was taken,
 * and the answer. FIFO and the slots' states allow no more of each at a time.
 */
static uint32_t ring_slots(
    const struct segment_geometry *g, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    return power_of_two_above(
        6 * lane_slots(g, from, to, lane) + 2 * lane_slots(g, to, from, lane));
}

/* The rings of all lanes, one behind the other. */
static uint64_t rings_slots(const struct segment_geometry *g, uint32_t from, uint32_t to)
{
    return (uint64_t)ring_slots(g, from, to, LANE_NORMAL) + ring_slots(g, from, to, LANE_URGENT);
}

static uint64_t flights_bytes(uint64_t heap_bytes)
{
    return align_up(heap_bytes / SEGMENT_PAGE * sizeof(uint64_t), LINE);
}

static uint64_t region_bytes(const struct segment_geometry *g, bool gateway, enum region region)
{
    uint32_t n_peers = g->n_shards + 1;
    uint32_t self = gateway ? g->n_shards : 0;
    uint32_t n_others = gateway ? g->n_shards : g->n_shards - 1; /* other shards */
    uint32_t any_other =
        gateway ? 0 : 1; /* a shard that is not self; meaningless where n_others is 0 */

    switch (region) {
    case REGION_HEAD:
        return sizeof(struct part_head);
    case REGION_COUNTERS:
        return align_up(sizeof(struct aio_counters), LINE);
    case REGION_PAIRS:
        return (uint64_t)n_peers * sizeof(struct pair_stats);
    case REGION_HEADS:
    case REGION_TAILS:
        return (uint64_t)n_peers * N_LANES * sizeof(struct ring_mark);
    case REGION_RECORDED:
        return LINE;
    case REGION_EVENTS:
        return (uint64_t)g->n_events * sizeof(struct recorder_event);
    case REGION_COROUTINES:
        return (uint64_t)g->n_coroutines * sizeof(struct co_entry);
    case REGION_CRASH:
        return sizeof(struct crash_record);
    case REGION_RINGS_TO_SHARDS:
        return (uint64_t)n_others * rings_slots(g, self, any_other) * sizeof(struct ring_slot);
    case REGION_RINGS_TO_GATEWAY:
        return gateway ? 0 : rings_slots(g, self, g->n_shards) * sizeof(struct ring_slot);
    case REGION_CALLS:
        return (uint64_t)n_others * call_slots(g, self, any_other) * sizeof(struct call_slot);
    case REGION_SERVES_SHARDS:
        return gateway ? 0
                       : (uint64_t)n_others * call_slots(g, any_other, self) *
                             sizeof(struct serve_slot);
    case REGION_SERVES_GATEWAY:
        return gateway ? 0 : (uint64_t)call_slots(g, g->n_shards, self) * sizeof(struct serve_slot);
    case REGION_FLIGHTS:
        return flights_bytes(g->heap_bytes);
    case REGION_LOCKS:
        return gateway ? 0 : SEGMENT_LOCKS * sizeof(struct lock_record);
    case REGION_HEAP:
        return g->heap_bytes;
    case N_REGIONS:
        break;
    }
    return 0;
}

/* Offset of a region in its part; N_REGIONS: the size of the part. The heap begins on a page. */
static uint64_t region_offset(const struct segment_geometry *g, bool gateway, enum region region)
{
    uint64_t off = 0;

    for (uint32_t r = 0; r < (uint32_t)region; r++) {
        off += region_bytes(g, gateway, (enum region)r);
        if (r + 1 == REGION_HEAP)
            off = align_up(off, SEGMENT_PAGE);
    }
    return region == N_REGIONS ? align_up(off, SEGMENT_PAGE) : off;
}

static void lay_out(struct segment *seg, const struct segment_geometry *g)
{
    uint64_t n_peers = g->n_shards + 1;

    seg->geometry = *g;
    seg->n_peers = g->n_shards + 1;
    seg->control_off = SEGMENT_PAGE;
    seg->commons_off = seg->control_off + align_up(sizeof(struct supervisor_head) +
                                                       n_peers * sizeof(struct peer_control),
                                              SEGMENT_PAGE);
    seg->arena_off = seg->commons_off + (n_peers + 1) * sizeof(struct commons_bell);
    seg->tags_off = seg->arena_off + g->n_portable * sizeof(struct arena_slot);
    seg->chunks_off =
        align_up(seg->tags_off + segment_n_chunks(seg) * sizeof(uint64_t), SEGMENT_PAGE);
    seg->stacks_off = seg->chunks_off + (uint64_t)segment_n_chunks(seg) * ARENA_CHUNK_BYTES;
    seg->parts_off = seg->stacks_off + (uint64_t)g->n_portable * g->stack_bytes;
    for (int r = 0; r <= N_REGIONS; r++) {
        seg->shard_regions[r] = region_offset(g, false, (enum region)r);
        seg->gateway_regions[r] = region_offset(g, true, (enum region)r);
    }
    seg->bytes = seg->parts_off + g->n_shards * seg->shard_regions[N_REGIONS] +
                 seg->gateway_regions[N_REGIONS];
}

static_assert(N_REGIONS < SEGMENT_REGIONS_MAX, "struct segment has room for the regions");

/* ---- planning ---- */

static uint64_t planned_bytes(const struct segment_geometry *g)
{
    struct segment seg;

    lay_out(&seg, g);
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

/* What each peer needs for itself, and what each pair needs. */
static uint64_t default_bytes(uint32_t n_shards)
{
    uint64_t n_pairs = (uint64_t)n_shards * n_shards;

    return 17 * (UINT64_C(1) << 19) + (n_shards + 1) * (UINT64_C(5) << 19) +
           n_pairs / 16 * (UINT64_C(3) << 16);
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

int segment_geometry_plan(
    uint32_t n_shards, uint64_t max_bytes, struct segment_geometry *ret, uint64_t *ret_bytes)
{
    struct segment_geometry g = {
        .n_shards = n_shards, .n_events = 1024, .n_coroutines = 1024, .stack_bytes = STACK_BYTES};
    uint64_t heaps_bytes, fixed;

    if (n_shards < 1 || n_shards > SEGMENT_MAX_SHARDS)
        return -EINVAL;
    if (!max_bytes)
        max_bytes = default_bytes(n_shards);
    heaps_bytes = (uint64_t)(n_shards + 1) * whole_heap_bytes(MIN_HEAP_BYTES);
    g.slots_shard = 256;
    g.slots_gateway = 512;
    g.n_portable = plan_portable(n_shards);
    for (;;) {
        g.heap_bytes = 0;
        fixed = planned_bytes(&g);
        if (fixed + heaps_bytes <= max_bytes)
            break;
        if (g.slots_shard == SEGMENT_MIN_SLOTS && g.slots_gateway == MIN_SLOTS_GATEWAY &&
            g.n_portable == n_shards) {
            *ret_bytes = fixed + heaps_bytes;
            return -ENOSPC;
        }
        if (g.slots_shard > SEGMENT_MIN_SLOTS)
            g.slots_shard /= 2;
        if (g.slots_gateway > MIN_SLOTS_GATEWAY)
            g.slots_gateway /= 2;
        g.n_portable = g.n_portable / 2 < n_shards ? n_shards : g.n_portable / 2;
    }
    g.heap_bytes = largest_heap((max_bytes - fixed) / (n_shards + 1));
    *ret = g;
    *ret_bytes = planned_bytes(&g);
    return 0;
}

static bool geometry_is_sane(const struct segment_geometry *g)
{
    return g->n_shards >= 1 && g->n_shards <= SEGMENT_MAX_SHARDS &&
           g->slots_shard >= SEGMENT_MIN_SLOTS && g->slots_shard <= 1024 &&
           (g->slots_shard & (g->slots_shard - 1)) == 0 && g->slots_gateway >= 1 &&
           g->slots_gateway <= 65536 && g->n_events >= 1 && g->n_events <= 1u << 20 &&
           (g->n_events & (g->n_events - 1)) == 0 && g->n_coroutines <= 1u << 20 &&
           g->n_portable <= 1u << 16 && g->stack_bytes >= 4 * SEGMENT_PAGE &&
           g->stack_bytes <= 1u << 24 && (g->stack_bytes & (g->stack_bytes - 1)) == 0 &&
           g->heap_bytes % SEGMENT_PAGE == 0 && g->heap_bytes <= UINT64_C(1) << 32;
}

/* ---- making and opening ---- */

static uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill_sizes(struct segment_super *super)
{
    super->abi = SEGMENT_ABI;
    super->super_bytes = sizeof(struct segment_super);
    super->control_bytes = sizeof(struct peer_control);
    super->part_head_bytes = sizeof(struct part_head);
    super->counters_bytes = sizeof(struct aio_counters);
    super->call_slot_bytes = sizeof(struct call_slot);
    super->serve_slot_bytes = sizeof(struct serve_slot);
    super->pair_bytes = sizeof(struct pair_stats);
}

int segment_init(struct segment *seg, void *base, uint64_t bytes,
    const struct segment_geometry *geometry, const char *instance)
{
    struct segment_super *super = base;

    if (!geometry_is_sane(geometry) || strlen(instance) >= sizeof(super->instance))
        return -EINVAL;
    *seg = (struct segment){.base = base, .writable = true};
    lay_out(seg, geometry);
    if (seg->bytes > bytes)
        return -EINVAL;
    fill_sizes(super);
    build_id_read(super->build_id);
    memcpy(super->instance, instance, strlen(instance) + 1);
    super->created_ns = realtime_ns();
    super->total_bytes = seg->bytes;
    super->control_off = seg->control_off;
    super->commons_off = seg->commons_off;
    super->parts_off = seg->parts_off;
    super->geometry = *geometry;
    /* Last, so that a file without it is one that was never finished. */
    memcpy(super->magic, SEGMENT_MAGIC, sizeof(super->magic));
    return 0;
}

static const char *misfit(const struct segment_super *super)
{
    struct segment_super own = {0};

    fill_sizes(&own);
    if (memcmp(super->magic, SEGMENT_MAGIC, sizeof(super->magic)) != 0)
        return "it is no Sherd segment, or was never finished";
    if (super->abi != own.abi)
        return "it was made by another version of Sherd (segment ABI)";
    if (super->super_bytes != own.super_bytes || super->control_bytes != own.control_bytes ||
        super->part_head_bytes != own.part_head_bytes ||
        super->counters_bytes != own.counters_bytes ||
        super->call_slot_bytes != own.call_slot_bytes ||
        super->serve_slot_bytes != own.serve_slot_bytes || super->pair_bytes != own.pair_bytes)
        return "it was made by another build of Sherd (record sizes)";
    if (!geometry_is_sane(&super->geometry))
        return "its geometry makes no sense";
    if (super->geometry.spare != 0)
        return "its spare bytes are not zero";
    return NULL;
}

int segment_attach(struct segment *seg, void *base, uint64_t bytes, const char **ret_why)
{
    struct segment_super super;

    if (bytes < SEGMENT_PAGE) {
        *ret_why = "it is too short";
        return -EPROTO;
    }
    memcpy(&super, base, sizeof(super));
    *ret_why = misfit(&super);
    if (*ret_why)
        return -EPROTO;
    *seg = (struct segment){.base = base};
    lay_out(seg, &super.geometry);
    if (seg->bytes != super.total_bytes || seg->bytes > bytes ||
        seg->control_off != super.control_off || seg->commons_off != super.commons_off ||
        seg->parts_off != super.parts_off) {
        *ret_why = "its layout differs from this build's, or it was cut short";
        return -EPROTO;
    }
    return 0;
}

int segment_open(struct segment *seg, const char *path, const char **ret_why)
{
    struct stat st;
    void *base;
    int r, fd;

    *ret_why = "it can't be opened";
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = fstat(fd, &st) < 0 ? -errno : 0;
    if (r == 0 && st.st_size < (off_t)SEGMENT_PAGE) {
        *ret_why = "it is too short";
        r = -EPROTO;
    }
    base = r == 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (r == 0 && base == MAP_FAILED)
        r = -errno;
    close(fd);
    if (r < 0)
        return r;
    r = segment_attach(seg, base, (uint64_t)st.st_size, ret_why);
    if (r < 0) {
        munmap(base, (size_t)st.st_size);
        return r;
    }
    seg->mapped_bytes = (uint64_t)st.st_size;
    return 0;
}

void segment_close(struct segment *seg)
{
    if (seg->mapped_bytes)
        munmap(seg->base, seg->mapped_bytes);
    *seg = (struct segment){0};
}

/* ---- where things are ---- */

static uint8_t *region_of(const struct segment *seg, uint32_t peer, enum region region)
{
    const uint64_t *offsets =
        peer == seg->geometry.n_shards ? seg->gateway_regions : seg->shard_regions;

    return seg->base + seg->parts_off + peer * seg->shard_regions[N_REGIONS] + offsets[region];
}

/* Number of `other` among the peers that are not `self`. */
static uint32_t among_others(uint32_t self, uint32_t other)
{
    return other < self ? other : other - 1;
}

const struct segment_super *segment_super(const struct segment *seg)
{
    return (const struct segment_super *)seg->base;
}

struct supervisor_head *segment_supervisor(const struct segment *seg)
{
    return (struct supervisor_head *)(seg->base + seg->control_off);
}

struct peer_control *segment_control(const struct segment *seg, uint32_t peer)
{
    return (struct peer_control *)(seg->base + seg->control_off + sizeof(struct supervisor_head)) +
           peer;
}

struct commons_bell *segment_bell(const struct segment *seg, uint32_t peer)
{
    return (struct commons_bell *)(seg->base + seg->commons_off) + peer;
}

struct commons_bitmap *segment_bitmap(const struct segment *seg, uint32_t peer)
{
    return &segment_bell(seg, peer)->bitmap;
}

struct arena_slot *segment_arena(const struct segment *seg, uint32_t slot)
{
    return (struct arena_slot *)(seg->base + seg->arena_off) + slot;
}

uint8_t *segment_stack(const struct segment *seg, uint32_t slot)
{
    return seg->base + seg->stacks_off + (uint64_t)slot * seg->geometry.stack_bytes;
}

uint64_t *segment_chunk_tag(const struct segment *seg, uint32_t chunk)
{
    return (uint64_t *)(seg->base + seg->tags_off) + chunk;
}

uint8_t *segment_chunk(const struct segment *seg, uint32_t chunk)
{
    return seg->base + seg->chunks_off + (uint64_t)chunk * ARENA_CHUNK_BYTES;
}

struct part_head *segment_part(const struct segment *seg, uint32_t peer)
{
    return (struct part_head *)region_of(seg, peer, REGION_HEAD);
}

struct aio_counters *segment_counters(const struct segment *seg, uint32_t peer)
{
    return (struct aio_counters *)region_of(seg, peer, REGION_COUNTERS);
}

void segment_instruments(const struct segment *seg, uint32_t peer, struct aio_instruments *ret)
{
    *ret = (struct aio_instruments){
        .counters = segment_counters(seg, peer),
        .coroutines = (struct co_entry *)region_of(seg, peer, REGION_COROUTINES),
        .events = (struct recorder_event *)region_of(seg, peer, REGION_EVENTS),
        .n_recorded = (uint64_t *)region_of(seg, peer, REGION_RECORDED),
        .running = &segment_part(seg, peer)->running,
        .n_coroutines = seg->geometry.n_coroutines,
        .n_events = seg->geometry.n_events,
    };
}

struct crash_record *segment_crash(const struct segment *seg, uint32_t peer)
{
    return (struct crash_record *)region_of(seg, peer, REGION_CRASH);
}

struct pair_stats *segment_pair(const struct segment *seg, uint32_t peer, uint32_t other)
{
    return (struct pair_stats *)region_of(seg, peer, REGION_PAIRS) + other;
}

uint32_t segment_ring_slots(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    return ring_slots(&seg->geometry, from, to, lane);
}

struct ring_slot *segment_ring(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    const struct segment_geometry *g = &seg->geometry;
    uint64_t in_pair = lane == LANE_NORMAL ? 0 : ring_slots(g, from, to, LANE_NORMAL);

    if (to == segment_gateway(seg))
        return (struct ring_slot *)region_of(seg, from, REGION_RINGS_TO_GATEWAY) + in_pair;
    return (struct ring_slot *)region_of(seg, from, REGION_RINGS_TO_SHARDS) +
           among_others(from, to) * rings_slots(g, from, to) + in_pair;
}

uint64_t *segment_tail(const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    struct ring_mark *tails = (struct ring_mark *)region_of(seg, from, REGION_TAILS);

    return &tails[to * N_LANES + lane].position;
}

uint64_t *segment_head(const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    struct ring_mark *heads = (struct ring_mark *)region_of(seg, to, REGION_HEADS);

    return &heads[from * N_LANES + lane].position;
}

uint32_t segment_call_slots(const struct segment *seg, uint32_t caller, uint32_t callee)
{
    return call_slots(&seg->geometry, caller, callee);
}

struct call_slot *segment_call(
    const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot)
{
    return (struct call_slot *)region_of(seg, caller, REGION_CALLS) +
           (uint64_t)among_others(caller, callee) * call_slots(&seg->geometry, caller, callee) +
           slot;
}

struct serve_slot *segment_serve(
    const struct segment *seg, uint32_t callee, uint32_t caller, uint32_t slot)
{
    if (caller == segment_gateway(seg))
        return (struct serve_slot *)region_of(seg, callee, REGION_SERVES_GATEWAY) + slot;
    return (struct serve_slot *)region_of(seg, callee, REGION_SERVES_SHARDS) +
           (uint64_t)among_others(callee, caller) * call_slots(&seg->geometry, caller, callee) +
           slot;
}

/* Of n normal slots, those set apart for each class but depth 0, which has the others. */
static uint32_t nested_slots(uint32_t n)
{
    return n / 8;
}

uint32_t segment_slot_depth(
    const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot)
{
    uint32_t n_normal = lane_slots(&seg->geometry, caller, callee, LANE_NORMAL);

    if (caller == segment_gateway(seg))
        return 0;
    if (slot >= n_normal)
        return (slot - n_normal) / (SEGMENT_URGENT_SLOTS / SEGMENT_SLOT_CLASSES);
    uint32_t n_nested = nested_slots(n_normal);
    uint32_t first_nested = n_normal - (SEGMENT_SLOT_CLASSES - 1) * n_nested;

    return slot < first_nested ? 0 : 1 + (slot - first_nested) / n_nested;
}

struct lock_record *segment_locks(const struct segment *seg, uint32_t shard)
{
    return (struct lock_record *)region_of(seg, shard, REGION_LOCKS);
}

uint64_t segment_part_off(const struct segment *seg, uint32_t peer)
{
    return peer == seg->n_peers ? seg->bytes
                                : seg->parts_off + peer * seg->shard_regions[N_REGIONS];
}

uint64_t segment_heap_off(const struct segment *seg, uint32_t peer)
{
    return (uint64_t)(region_of(seg, peer, REGION_HEAP) - seg->base);
}

uint64_t *segment_flights(const struct segment *seg, uint32_t peer)
{
    return (uint64_t *)region_of(seg, peer, REGION_FLIGHTS);
}

uint8_t *segment_heap_at(const struct segment *seg, uint32_t peer, uint64_t off, uint64_t len)
{
    uint64_t first = segment_heap_off(seg, peer);

    if (off < first || off - first > seg->geometry.heap_bytes ||
        len > seg->geometry.heap_bytes - (off - first))
        return NULL;
    return seg->base + off;
}
