/* SPDX-License-Identifier: MIT */
/*
 * Where each region lies, regions.c says; here are making, opening, and the accessors.
 */
#include "shard/segment.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/build_id.h"
#include "shard/geometry.h"
#include "shard/regions.h"

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
static_assert(sizeof(struct part_hot) == LINE, "a line each");
static_assert(sizeof(struct pair_stats) % LINE == 0, "whole lines");
static_assert(sizeof(struct call_slot) == 256, "part of the ABI");
static_assert(sizeof(struct serve_slot) == 256, "part of the ABI");
static_assert(sizeof(struct lock_record) == LINE, "a line each");
static_assert(sizeof(struct client_row) == 3 * LINE, "part of the ABI");
static_assert(sizeof(struct session_row) == LINE, "a line each");
static_assert(sizeof(struct fate) == 5 * LINE, "part of the ABI");
static_assert(offsetof(struct fate, answer) == LINE, "one without an answer is a line");
static_assert(sizeof(struct client_user) == 32, "part of the ABI");
static_assert(sizeof(struct crash_note) % LINE == 0, "whole lines");
static_assert(sizeof(struct culprit) == 32, "part of the ABI");
static_assert(sizeof(((struct client_row *)0)->opened) * 8 >= SEGMENT_MAX_SHARDS, "a bit a shard");
static_assert(sizeof(struct client_lane) == LINE, "a line each");
static_assert(sizeof(struct ledger_slot) == 3 * LINE, "part of the ABI");
static_assert(offsetof(struct ledger_slot, entry) == LINE, "an entry is a line");
static_assert(offsetof(struct ledger_slot, completion) == 2 * LINE, "a completion is a line");
static_assert(sizeof(struct listener_row) == 256, "part of the ABI");
static_assert(sizeof(struct service_count) == 128, "part of the ABI");
static_assert(sizeof(struct service_region_head) == 128, "part of the ABI");
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

const char *verdict_text(uint32_t kind)
{
    static const char *const texts[] = {
#define X(name, text) [VERDICT_##name] = text,
        VERDICTS(X)
#undef X
    };
    return kind < sizeof texts / sizeof *texts ? texts[kind] : "unknown";
}

const char *client_state_text(uint32_t state)
{
    static const char *const texts[] = {
#define X(name, text) [CLIENT_##name] = text,
        CLIENT_STATES(X)
#undef X
    };
    return state < sizeof texts / sizeof *texts ? texts[state] : "unknown";
}

const char *cut_reason_text(uint32_t reason)
{
    static const char *const texts[] = {
#define X(name, text) [CUT_##name] = text,
        CUT_REASONS(X)
#undef X
    };
    return reason < N_CUT_REASONS ? texts[reason] : "unknown";
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

/* ---- making and opening ---- */

static uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* What the whole before the control is, but for what tells one instance from another. */
static void fill_super(const struct segment *seg, struct segment_super *super)
{
    super->format = SEGMENT_FORMAT;
    super->abi = SEGMENT_ABI;
    super->layout_off = SEGMENT_PAGE;
    super->layout_bytes = seg->control_off - SEGMENT_PAGE;
    super->total_bytes = seg->bytes;
    super->control_off = seg->control_off;
    super->commons_off = seg->commons_off;
    super->parts_off = seg->parts_off;
    super->geometry = seg->geometry;
    regions_describe(seg, (uint8_t *)super + SEGMENT_PAGE);
}

int segment_init(struct segment *seg, void *base, uint64_t bytes,
    const struct segment_geometry *geometry, const char *instance)
{
    struct segment_super *super = base;

    if (!segment_geometry_is_sane(geometry) || strlen(instance) >= sizeof(super->instance))
        return -EINVAL;
    *seg = (struct segment){.base = base, .writable = true};
    regions_lay_out(seg, geometry);
    if (seg->bytes > bytes)
        return -EINVAL;
    fill_super(seg, super);
    build_id_read(super->build_id);
    memcpy(super->instance, instance, strlen(instance) + 1);
    super->created_ns = realtime_ns();
    super->mapped_at = (uint64_t)(uintptr_t)base;
    super->image_base = build_id_image_base();
    if (readlink("/proc/self/exe", super->executable, sizeof(super->executable)) ==
        (ssize_t)sizeof(super->executable))
        memset(super->executable, 0, sizeof(super->executable));
    /* Last, so that a file without it is one that was never finished. */
    memcpy(super->magic, SEGMENT_MAGIC, sizeof(super->magic));
    return 0;
}

static const char *misfit(const struct segment_super *super)
{
    if (memcmp(super->magic, SEGMENT_MAGIC, sizeof(super->magic)) != 0)
        return "it is no Sherd segment, or was never finished";
    if (super->format != SEGMENT_FORMAT)
        return "it was made by another version of Sherd (format of the description)";
    if (super->abi != SEGMENT_ABI)
        return "it was made by another version of Sherd (segment ABI)";
    if (!segment_geometry_is_sane(&super->geometry))
        return "its geometry makes no sense";
    return NULL;
}

/* Whether the description is, byte for byte, what this build would write. */
static int compare_description(const struct segment *seg, const char **ret_why)
{
    struct segment_super *own = calloc(1, seg->control_off);
    int r = 0;

    if (!own) {
        *ret_why = "there is no memory";
        return -ENOMEM;
    }
    fill_super(seg, own);
    if (memcmp((uint8_t *)own + SEGMENT_PAGE, seg->base + SEGMENT_PAGE, own->layout_bytes) != 0) {
        *ret_why = "it was made by another build of Sherd (layout)";
        r = -EPROTO;
    }
    free(own);
    return r;
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
    regions_lay_out(seg, &super.geometry);
    if (seg->bytes != super.total_bytes || seg->bytes > bytes ||
        seg->control_off != super.control_off || seg->commons_off != super.commons_off ||
        seg->parts_off != super.parts_off) {
        *ret_why = "its layout differs from this build's, or it was cut short";
        return -EPROTO;
    }
    return compare_description(seg, ret_why);
}

int segment_map(
    const char *path, uint64_t least, void **ret_base, uint64_t *ret_bytes, const char **ret_why)
{
    struct stat st;
    void *base;
    int r, fd;

    *ret_why = "it can't be opened";
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = fstat(fd, &st) < 0 ? -errno : 0;
    if (r == 0 && st.st_size < (off_t)least) {
        *ret_why = "it is too short";
        r = -EPROTO;
    }
    base = r == 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (r == 0 && base == MAP_FAILED)
        r = -errno;
    close(fd);
    if (r < 0)
        return r;
    *ret_base = base;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int segment_open(struct segment *seg, const char *path, const char **ret_why)
{
    void *base;
    uint64_t bytes;
    int r = segment_map(path, SEGMENT_PAGE, &base, &bytes, ret_why);

    if (r < 0)
        return r;
    r = segment_attach(seg, base, bytes, ret_why);
    if (r < 0) {
        munmap(base, bytes);
        return r;
    }
    seg->mapped_bytes = bytes;
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

    return seg->base + seg->parts_off + peer * seg->shard_bytes + offsets[region];
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

/* A region that is in no part. */
static uint8_t *shared_region(const struct segment *seg, enum region region)
{
    return seg->base + seg->shard_regions[region];
}

struct supervisor_head *segment_supervisor(const struct segment *seg)
{
    return (struct supervisor_head *)shared_region(seg, REGION_SUPERVISOR);
}

struct peer_control *segment_control(const struct segment *seg, uint32_t peer)
{
    return (struct peer_control *)shared_region(seg, REGION_PEERS) + peer;
}

struct method_name *segment_methods(const struct segment *seg)
{
    return (struct method_name *)shared_region(seg, REGION_METHODS);
}

struct commons_bell *segment_bell(const struct segment *seg, uint32_t peer)
{
    return (struct commons_bell *)shared_region(seg, REGION_BELLS) + peer;
}

struct commons_bitmap *segment_bitmap(const struct segment *seg, uint32_t peer)
{
    return &segment_bell(seg, peer)->bitmap;
}

struct arena_slot *segment_arena(const struct segment *seg, uint32_t slot)
{
    return (struct arena_slot *)shared_region(seg, REGION_ARENA) + slot;
}

uint8_t *segment_stack(const struct segment *seg, uint32_t slot)
{
    return shared_region(seg, REGION_STACKS) + (uint64_t)slot * seg->geometry.stack_bytes;
}

uint64_t *segment_chunk_tag(const struct segment *seg, uint32_t chunk)
{
    return (uint64_t *)shared_region(seg, REGION_TAGS) + chunk;
}

uint8_t *segment_chunk(const struct segment *seg, uint32_t chunk)
{
    return shared_region(seg, REGION_CHUNKS) + (uint64_t)chunk * ARENA_CHUNK_BYTES;
}

struct part_head *segment_part(const struct segment *seg, uint32_t peer)
{
    return (struct part_head *)region_of(seg, peer, REGION_HEAD);
}

struct aio_counters *segment_counters(const struct segment *seg, uint32_t peer)
{
    return (struct aio_counters *)region_of(seg, peer, REGION_COUNTERS);
}

struct part_hot *segment_hot(const struct segment *seg, uint32_t peer)
{
    return (struct part_hot *)region_of(seg, peer, REGION_HOT);
}

uint64_t *segment_withdrawals(const struct segment *seg, uint32_t caller, uint32_t callee)
{
    return (uint64_t *)region_of(seg, caller, REGION_WITHDRAWALS) + callee;
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

const char *segment_owner_text(const struct segment *seg, uint64_t address, char *buf)
{
    uint64_t off = address - (uint64_t)(uintptr_t)seg->base;
    uint32_t peer = 0;

    if (off >= seg->bytes)
        return NULL;
    if (off < seg->control_off)
        return "the superblock";
    if (off < seg->commons_off)
        return "the supervisor's words";
    if (off < seg->parts_off)
        return "the commons";
    while (peer + 1 < seg->n_peers && off >= segment_part_off(seg, peer + 1))
        peer++;
    if (peer == seg->geometry.n_shards)
        return "the part of the gateway";
    snprintf(buf, SEGMENT_OWNER_TEXT, "the part of shard %u", peer);
    return buf;
}

struct verdict_record *segment_verdict(const struct segment *seg, uint32_t peer, uint64_t nth)
{
    return (struct verdict_record *)region_of(seg, peer, REGION_VERDICTS) + nth % SEGMENT_VERDICTS;
}

struct pair_stats *segment_pair(const struct segment *seg, uint32_t peer, uint32_t other)
{
    return (struct pair_stats *)region_of(seg, peer, REGION_PAIRS) + other;
}

uint32_t segment_ring_slots(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    return regions_ring_slots(&seg->geometry, from, to, lane);
}

struct ring_slot *segment_ring(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    static const enum region to_shards[] = {REGION_RINGS_TO_SHARDS, REGION_URGENT_TO_SHARDS};
    static const enum region to_gateway[] = {REGION_RINGS_TO_GATEWAY, REGION_URGENT_TO_GATEWAY};

    if (to == segment_gateway(seg))
        return (struct ring_slot *)region_of(seg, from, to_gateway[lane]);
    return (struct ring_slot *)region_of(seg, from, to_shards[lane]) +
           (uint64_t)among_others(from, to) * regions_ring_slots(&seg->geometry, from, to, lane);
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
    return regions_call_slots(&seg->geometry, caller, callee);
}

struct call_slot *segment_call(
    const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot)
{
    return (struct call_slot *)region_of(seg, caller, REGION_CALLS) +
           (uint64_t)among_others(caller, callee) *
               regions_call_slots(&seg->geometry, caller, callee) +
           slot;
}

struct serve_slot *segment_serve(
    const struct segment *seg, uint32_t callee, uint32_t caller, uint32_t slot)
{
    if (caller == segment_gateway(seg))
        return (struct serve_slot *)region_of(seg, callee, REGION_SERVES_GATEWAY) + slot;
    return (struct serve_slot *)region_of(seg, callee, REGION_SERVES_SHARDS) +
           (uint64_t)among_others(callee, caller) *
               regions_call_slots(&seg->geometry, caller, callee) +
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
    uint32_t n_normal = regions_lane_slots(&seg->geometry, caller, callee, LANE_NORMAL);

    if (caller == segment_gateway(seg))
        return 0;
    if (slot >= n_normal)
        return (slot - n_normal) / (SEGMENT_URGENT_SLOTS / SEGMENT_SLOT_CLASSES);
    uint32_t n_nested = nested_slots(n_normal);
    uint32_t first_nested = n_normal - (SEGMENT_SLOT_CLASSES - 1) * n_nested;

    return slot < first_nested ? 0 : 1 + (slot - first_nested) / n_nested;
}

struct listener_row *segment_listeners(const struct segment *seg)
{
    return (struct listener_row *)shared_region(seg, REGION_LISTENERS);
}

struct service_count *segment_service_counts(const struct segment *seg, uint32_t shard)
{
    return (struct service_count *)region_of(seg, shard, REGION_SERVICE_COUNTERS);
}

struct service_region_head *segment_service_regions(const struct segment *seg, uint32_t shard)
{
    return (struct service_region_head *)region_of(seg, shard, REGION_SERVICE_REGIONS);
}

uint8_t *segment_service_memory(const struct segment *seg, uint32_t shard)
{
    return region_of(seg, shard, REGION_SERVICE_MEMORY);
}

struct lock_record *segment_locks(const struct segment *seg, uint32_t shard)
{
    return (struct lock_record *)region_of(seg, shard, REGION_LOCKS);
}

static uint8_t *gateway_region(const struct segment *seg, enum region region)
{
    return region_of(seg, segment_gateway(seg), region);
}

struct client_row *segment_client(const struct segment *seg, uint32_t client)
{
    return (struct client_row *)gateway_region(seg, REGION_CLIENTS) + client;
}

struct client_user *segment_client_users(const struct segment *seg)
{
    return (struct client_user *)shared_region(seg, REGION_CLIENT_USERS);
}

struct culprit *segment_culprits(const struct segment *seg)
{
    return (struct culprit *)shared_region(seg, REGION_CULPRITS);
}

struct session_row *segment_session(const struct segment *seg, uint32_t row)
{
    return (struct session_row *)gateway_region(seg, REGION_SESSIONS) + row;
}

struct fate *segment_fate(const struct segment *seg, uint32_t fate)
{
    return (struct fate *)gateway_region(seg, REGION_FATES) + fate;
}

struct client_lane *segment_client_lane(const struct segment *seg, uint32_t shard, uint32_t client)
{
    return (struct client_lane *)region_of(seg, shard, REGION_CLIENT_LANES) + client;
}

struct ledger_slot *segment_ledger(const struct segment *seg, uint32_t shard, uint32_t slot)
{
    return (struct ledger_slot *)region_of(seg, shard, REGION_LEDGER) + slot;
}

struct crash_note *segment_crash_notes(const struct segment *seg, uint32_t shard)
{
    return (struct crash_note *)region_of(seg, shard, REGION_CRASH_NOTES);
}

uint64_t segment_part_off(const struct segment *seg, uint32_t peer)
{
    return peer == seg->n_peers ? seg->bytes : seg->parts_off + peer * seg->shard_bytes;
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
