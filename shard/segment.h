/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * segment - the one shared mapping of an instance, laid out by writer
 *
 * Why:         whoever reads it, live or after a crash, can tell who wrote each byte; and a process
 *              that dies leaves nothing half-written in another's part.
 * Use:         supervisor: segment_geometry_plan(), segment_init() on a file of that size, fork
 *              tool: segment_open() on the same file, read-only
 * Concurrency: each part has one writer, named below; the commons alone is written by all.
 *              Accessors compute addresses from the private copy of the geometry and read nothing
 *              shared.
 * Lifetime:    the mapping is inherited by fork at one address in all processes.
 * Not here:    where the file lives and how long (shard/segment_file.h), what the words mean (mesh,
 *              call)
 *
 *   +------------------+  0
 *   | superblock       |  the supervisor, before the first fork; constant after
 *   +------------------+  super.control_off
 *   | control          |  the supervisor: its head, then one peer_control a peer
 *   +------------------+  super.commons_off
 *   | commons          |  all: a line a peer, and one for the supervisor: doorbell, bitmap of senders;
 *   |                  |  the arena: words, chunks and stacks of portable coroutines
 *   +------------------+  super.parts_off
 *   | part of shard 0  |  shard 0: head, counters, pairs, heads, tails, recorder, registry of
 *   |  ...             |  coroutines, crash record, rings it sends on, call slots (as caller),
 *   | part of shard n-1|  serve slots (as callee), in-flight table of its heap, locks whose
 *   |                  |  home it is, heap
 *   | part of gateway  |  the gateway, which is peer n_shards
 *   +------------------+  super.total_bytes
 *
 * All parts are whole pages. Zero bytes are the empty state of everything after the superblock.
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime/doorbell.h"
#include "runtime/instruments_inside.h"
#include "runtime/ring.h"
#include "shard/crash_record.h"

#define SEGMENT_MAGIC        "SHERDSEG"
#define SEGMENT_ABI          6u
#define SEGMENT_PAGE         4096u
#define SEGMENT_MAX_SHARDS   128u
#define SEGMENT_MAX_PEERS    (SEGMENT_MAX_SHARDS + 1)
#define SEGMENT_BITMAP_WORDS 4u /* 256 bits, one a sender */
#define SEGMENT_INLINE_BYTES 192u
#define SEGMENT_PAYLOAD_MAX  (1024u * 1024)
#define SEGMENT_REGIONS_MAX  32u
#define SEGMENT_MAX_DEPTH    4u   /* calls within calls; the fifth is refused with -ELOOP */
#define SEGMENT_LOCKS        128u /* that one home can have held, or marked, at a time */

/* The mesh's own calls, which never wait for anything, have slots of their own beside those of each
 * depth: so they get through where every other slot is held by one that waits for them. */
#define SEGMENT_DEPTH_BUILTIN SEGMENT_MAX_DEPTH
#define SEGMENT_SLOT_CLASSES  (SEGMENT_MAX_DEPTH + 1)
#define SEGMENT_MIN_SLOTS     8u
#define SEGMENT_URGENT_SLOTS  (2 * SEGMENT_SLOT_CLASSES) /* of each pair, beside the normal ones */

/* Each ordered pair of peers has a ring for each lane; the urgent one is emptied first. */
enum mesh_lane {
    LANE_NORMAL,
    LANE_URGENT, /* control calls: they are not stuck behind bulk work */
    N_LANES
};

/* X(lane, text) */
#define MESH_LANES(X)   \
    X(NORMAL, "normal") \
    X(URGENT, "urgent")

const char *mesh_lane_text(uint32_t lane);

/* What decides the layout. */
struct segment_geometry {
    uint32_t n_shards;
    uint32_t slots_shard;   /* normal call slots a shard has for each other shard; a power of two,
                               at least SEGMENT_MIN_SLOTS */
    uint32_t slots_gateway; /* normal call slots the gateway has for each shard */
    uint32_t n_events;      /* recorder of each peer; a power of two */
    uint32_t n_coroutines;  /* registry of each peer */
    uint32_t n_portable;    /* portable coroutines of the instance */
    uint32_t stack_bytes;   /* of each of those, with its guard; a power of two */
    uint32_t spare;
    uint64_t heap_bytes; /* shared buffers of each peer; whole pages */
};

struct segment_super {
    char magic[8];
    uint32_t abi;
    uint32_t super_bytes; /* sizeof(struct segment_super) */
    uint8_t build_id[32];
    char instance[64];   /* NUL-terminated */
    uint64_t created_ns; /* CLOCK_REALTIME */
    uint64_t total_bytes;
    uint64_t control_off;
    uint64_t commons_off;
    uint64_t parts_off;
    struct segment_geometry geometry;
    /* Sizes of the records below, so that a reader built otherwise refuses by name. */
    uint32_t control_bytes;
    uint32_t part_head_bytes;
    uint32_t counters_bytes;
    uint32_t call_slot_bytes;
    uint32_t serve_slot_bytes;
    uint32_t pair_bytes;
};

/* ---- control: written by the supervisor ---- */

/* X(name, text) */
#define PEER_STATES(X)                                                                       \
    X(STARTING, "starting") /* forked, not ready */                                          \
    X(UP, "up")                                                                              \
    X(DRAINING, "draining")     /* takes nothing new from clients */                         \
    X(DYING, "dying")           /* dead, the replacement is on its way */                    \
    X(FAILED, "failed")         /* given up, until an operator orders a restart */           \
    X(RESTARTING, "restarting") /* finishes what it has, by order; new calls wait in line */ \
    X(DEGRADED, "degraded")     /* the supervisor alone: up, but without those that are given up */

enum peer_state {
#define X(name, text) PEER_##name,
    PEER_STATES(X)
#undef X
};

const char *peer_state_text(uint32_t state);

/* What the supervisor asks of a process. */
enum peer_order {
    ORDER_RUN,
    ORDER_DRAIN,  /* gateway: refuse what is new, finish the rest, then say so */
    ORDER_LEAVE,  /* nothing is in flight: stop services and exit 0 */
    ORDER_RETURN, /* a shard: exit 0 as soon as it serves nothing and waits for nothing */
};

struct peer_control {
    uint32_t incarnation; /* 1 for the first; raised when a death was reaped and its redo record
                             finished */
    uint32_t state;       /* enum peer_state */
    uint32_t order;       /* enum peer_order */
    int32_t pid;
    int32_t core; /* -1: not pinned */
    uint32_t deaths;
    uint32_t crashes;           /* of these, those that count as crashes */
    uint32_t quiet_incarnation; /* up to this one the kernel writes no more: proven (quiet.c) */
    uint64_t forked_ns;         /* CLOCK_MONOTONIC */
    uint64_t died_ns;
    uint32_t restarts; /* times it left by an operator's order; no deaths */
    /* The last crash, stored before the incarnation is raised: what was on the CPU. It was a call
     * of crashed_peer served by crashed_home, another shard where the coroutine had moved. */
    uint32_t crashed_incarnation; /* that crashed; 0: none yet */
    uint32_t crashed_home;
    uint32_t crashed_peer;
    uint32_t crashed_slot;
    uint32_t spare1;
    uint64_t crashed_generation; /* 0: no call was */
    uint8_t spare[48];
};

#define SEGMENT_ORDER_NOTES 4u

/* What became of an operator's order (shard/order.h); the newest ones, each in place
 * number % SEGMENT_ORDER_NOTES. */
struct order_note {
    uint64_t word;     /* the order, as it came */
    uint32_t state;    /* enum order_state; stored last */
    uint32_t peer;     /* where the order is now; n_peers: everywhere */
    uint64_t n_cut;    /* calls still in flight when a limit was reached */
    uint64_t n_orders; /* of all orders, the number of this one */
};

struct supervisor_head {
    int32_t pid;
    uint32_t state;           /* enum peer_state */
    uint64_t pid_start_ticks; /* field 22 of /proc/PID/stat: tells a reused pid */
    uint64_t started_ns;      /* CLOCK_MONOTONIC */
    uint64_t ready_ns;        /* 0: not yet */
    uint32_t redo_finished;   /* redo records finished for the dead */
    uint32_t knocks;          /* lost wake-ups made good: 0 unless the commons was damaged */
    uint32_t log_level;       /* enum log_level, for all processes */
    uint8_t spare[84];
    struct order_note orders[SEGMENT_ORDER_NOTES];
};

/* ---- commons: written by all ---- */

/* Who has sent, of those not yet looked at: a bit a peer. */
struct commons_bitmap {
    uint64_t senders[SEGMENT_BITMAP_WORDS];
};

/* What a sender touches to make a peer look, and what that peer reads to know that nobody has: one
 * line. */
struct commons_bell {
    struct doorbell_words words;
    struct commons_bitmap bitmap;
    uint8_t pad[24];
};

/* One portable coroutine. word is changed by compare-and-swap alone (arena.c); the rest is for tools,
 * and written by the shard that runs it. */
struct arena_slot {
    uint64_t word;       /* generation << 24 | woken << 23 | state << 16 | owner << 8 | by */
    uint64_t created_ns; /* CLOCK_MONOTONIC */
    uint64_t entry;      /* address of its first function */
    uint64_t name;       /* address of a constant string of the image */
    uint64_t wait_site;  /* likewise, while it does not run */
    uint64_t position;   /* stack pointer where it left off, while it is on its way or waits for a
                            wake */
    uint64_t n_moves;
    uint64_t spare;
};

#define ARENA_CHUNK_BYTES 4096u
#define ARENA_CHUNKS_EACH 2u /* chunks of shard_alloc() for each portable coroutine, on average */

/* ---- a peer's part: written by that peer (and, once it is dead, by the supervisor) ---- */

/* The transition under way, noted before its first store and cleared after its last. */
enum redo_kind {
    REDO_NONE,
    REDO_SUBMIT, /* slot goes to waiting: calls_submitted = value */
    REDO_END,    /* slot goes to free: ends[end] = value */
};

struct redo_record {
    uint64_t kind; /* stored last (release), cleared last (release) */
    uint32_t pair; /* the other peer */
    uint32_t slot;
    uint64_t word;  /* of the slot, after */
    uint64_t value; /* of the counter, after */
    uint32_t end;   /* enum call_end */
    uint8_t spare[28];
};

struct part_head {
    uint32_t incarnation; /* whose these words are; stored when it is ready for work */
    uint32_t drained;     /* 1: order ORDER_DRAIN is carried out */
    uint64_t ready_ns;    /* CLOCK_MONOTONIC */
    uint64_t heartbeat;   /* grows with each turn of the loop */
    uint64_t heap_used_bytes;
    uint64_t heap_high_bytes;
    uint64_t heap_waits;         /* times somebody waited for a shared buffer */
    uint64_t sessions;           /* gateway: clients with a session now */
    uint64_t requests_in_flight; /* gateway: requests of clients accepted and not ended */
    uint64_t requests_accepted;  /* gateway: since it was created, over its incarnations */
    uint64_t requests_ended;
    uint64_t heap_quarantined_bytes; /* that a dead process's I/O may yet touch */
    uint64_t payload_copied_bytes;   /* of calls and answers that are not small: copied here */
    uint64_t payload_in_place_bytes; /* the same, filled or read where they lie */
    uint64_t running; /* running_word() of the call whose coroutine is on the CPU; 0: none is */
    uint32_t order;   /* enum peer_order that it follows now */
    uint8_t pad0[12];
    struct redo_record redo; /* a cache line of its own */
    char engine[16];         /* NUL-terminated names, for status */
    char engine_flags[160];
    uint8_t pad1[16];
};

/* X(name, number on the wire, text): how a request ends, exactly once */
#define CALL_ENDS(X)                 \
    X(DONE, 1, "done")               \
    X(FAILED, 2, "failed")           \
    X(CANCELLED, 3, "cancelled")     \
    X(EXPIRED, 4, "expired")         \
    X(NOT_STARTED, 5, "not started") \
    X(IN_DOUBT, 6, "in doubt")

enum call_end {
    CALL_END_NONE = 0,
#define X(name, number, text) CALL_END_##name = number,
    CALL_ENDS(X)
#undef X
        N_CALL_ENDS
};

const char *call_end_text(uint32_t end);

/* What this peer counts about each other peer. */
struct pair_stats {
    uint64_t pushed[N_LANES];     /* messages put into the rings to it */
    uint64_t rings_sent;          /* doorbell rings that cost a system call */
    uint64_t rings_saved;         /* flushes that found it awake */
    uint64_t calls_submitted;     /* calls published to it: = sum of ends + slots not free */
    uint64_t ends[N_CALL_ENDS];   /* by enum call_end; [0] counts calls abandoned and given back */
    uint64_t slot_waits;          /* calls that waited for a slot */
    uint64_t popped[N_LANES];     /* messages taken from its rings */
    uint64_t high_water[N_LANES]; /* most messages found in its rings at once */
    uint64_t dropped;             /* of these, those that were stale, double or malformed */
    uint64_t calls_started;       /* methods begun for it */
    uint64_t spare[5];
};

struct ring_mark {
    uint64_t position;
    uint8_t pad[56];
};

/* Caller's side of a call. word = generation << 8 | state; the generation grows with each use. */
enum call_state {
    CALL_FREE,
    CALL_WAITING,   /* published, or about to be */
    CALL_ABANDONED, /* nobody waits any more; comes back with the answer or the callee's death */
    CALL_READING,   /* answered, and the answer is being read in the callee's heap */
};

struct call_slot {
    uint64_t word;
    uint64_t position;    /* in the ring to the callee, of its message */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; INT64_MAX: none */
    uint64_t args_off;    /* in the caller's heap; 0: inline_args */
    uint32_t args_len;
    uint32_t method;
    uint32_t depth; /* 0: called by nobody served; SEGMENT_DEPTH_BUILTIN */
    uint32_t flags; /* enum call_flags */
    uint32_t path;  /* shards that serve the calls within which this one is made: their numbers
                       plus one, a byte each, the outermost lowest */
    uint32_t spare0;
    uint64_t spare;
    uint8_t inline_args[SEGMENT_INLINE_BYTES];
};

enum call_flags { CALL_IDEMPOTENT = 1u << 0 };

/* Callee's side. started = generation << 24 | incarnation of the callee. co, written before it: the
 * portable coroutine that serves the call (arena.h); 0: none. */
struct serve_slot {
    uint64_t started;
    uint64_t co;
    uint64_t answer_generation; /* whose answer_off is not given back; 0: none */
    uint64_t answer_off;        /* in the callee's heap */
    uint32_t answer_len;
    uint32_t spare0;
    uint64_t spare[3];
    uint8_t inline_answer[SEGMENT_INLINE_BYTES];
};

/*
 * A lock whose home is this shard (shard/lock.h), while it is held or marked. The word says all;
 * its last store is the whole transition, for the holder that it does not name is written first.
 */
struct lock_record {
    uint64_t word; /* enum lock_bits */
    uint64_t id;
    struct lock_holder {
        uint32_t peer;
        uint32_t incarnation;
        uint64_t token;
    } holders[2];
    uint64_t spare[2];
};

enum lock_bits {
    LOCK_USED = 1u << 0,       /* else the record is free */
    LOCK_HELD = 1u << 1,       /* by holders[0] or [1] */
    LOCK_SECOND = 1u << 2,     /* it is [1] */
    LOCK_OWNER_DIED = 1u << 3, /* and nobody has said since that what it guards is whole */
};

/* What a ring slot carries. */
enum message_kind {
    MESSAGE_NONE,
    MESSAGE_CALL,         /* to the callee: look into the caller's slot */
    MESSAGE_ARGS_TAKEN,   /* to the caller: the arguments' buffer was copied, use it again */
    MESSAGE_ANSWER,       /* to the caller: how it ended; bytes at off, or in the serve slot */
    MESSAGE_ANSWER_TAKEN, /* to the callee: the answer's buffer was copied, use it again */
    MESSAGE_ABANDONED,    /* to the callee: nobody waits for the answer any more */
};

struct message {
    uint32_t kind;
    uint32_t slot;
    uint64_t generation;
    uint32_t incarnation; /* sender's */
    int32_t status;
    uint32_t end;
    uint32_t len;
    uint64_t off; /* 0: inline */
    uint64_t spare[2];
};

/*
 * The in-flight table: a word for each page of the part's heap, at which a buffer begins that I/O
 * may touch without its owner's leave: incarnation << 32 | peer << 16 | pages, 0 for none. The I/O
 * is that incarnation's of that peer; the word is stored before the I/O begins and cleared after
 * its end.
 */
static inline uint64_t flight_word(uint32_t incarnation, uint32_t peer, uint32_t n_pages)
{
    return (uint64_t)incarnation << 32 | (uint64_t)peer << 16 | n_pages;
}

static inline uint32_t flight_incarnation(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint32_t flight_peer(uint64_t word)
{
    return (uint32_t)(word >> 16) & 0xffff;
}

static inline uint32_t flight_pages(uint64_t word)
{
    return (uint32_t)word & 0xffff;
}

/* part_head.running: home(8) | caller(8) | slot(16) | the low 32 bits of the generation. A shard
 * does not call itself over the rings, so it is never 0. The generation's other bits are those of
 * the home's started word, which stays until this call has ended. */
static inline uint64_t running_word(
    uint32_t home, uint32_t caller, uint32_t slot, uint64_t generation)
{
    return (uint64_t)(home & 0xff) << 56 | (uint64_t)(caller & 0xff) << 48 |
           (uint64_t)(slot & 0xffff) << 32 | (generation & UINT32_MAX);
}

#define CALL_GENERATION_BITS  40
#define CALL_GENERATION_MASK  ((UINT64_C(1) << CALL_GENERATION_BITS) - 1)
#define CALL_INCARNATION_MASK UINT32_C(0xffffff)

/* ---- the mapping ---- */

/* Private to a process; inherited by fork. */
struct segment {
    uint8_t *base;
    uint64_t bytes;
    bool writable;
    struct segment_geometry geometry; /* private copy, checked once */
    uint32_t n_peers;                 /* shards and the gateway */
    uint64_t control_off, commons_off, parts_off;
    uint64_t arena_off, tags_off, chunks_off, stacks_off; /* in the commons */
    uint64_t
        shard_regions[SEGMENT_REGIONS_MAX]; /* offsets in a shard's part; the last is its size */
    uint64_t gateway_regions[SEGMENT_REGIONS_MAX];
    uint64_t mapped_bytes; /* to unmap; 0: not ours */
};

/* Chooses slots, recorder and heap for n_shards so that the whole fits max_bytes (0: the default,
 * 16 MiB for 2 shards and more for more). 0; -EINVAL: n_shards out of 1..128; -ENOSPC: max_bytes
 * too small, and the least that works is in *ret_bytes. */
int segment_geometry_plan(
    uint32_t n_shards, uint64_t max_bytes, struct segment_geometry *ret, uint64_t *ret_bytes);

/* Lays out a fresh mapping (zero bytes, of the planned size) and fills in the superblock. 0 or
 * -EINVAL. */
int segment_init(struct segment *seg, void *base, uint64_t bytes,
    const struct segment_geometry *geometry, const char *instance);

/* Checks the superblock of a mapping of `bytes` bytes and fills *seg. ret_why: a constant that says
 * what does not fit. 0 or -EPROTO. The mapping stays the caller's. */
int segment_attach(struct segment *seg, void *base, uint64_t bytes, const char **ret_why);

/* Maps the file read-only and attaches. 0 or -errno; segment_close() unmaps. Context: a tool. */
int segment_open(struct segment *seg, const char *path, const char **ret_why);
void segment_close(struct segment *seg);

/* ---- where things are: peer < n_peers, the gateway is peer n_shards ---- */

static inline uint32_t segment_gateway(const struct segment *seg)
{
    return seg->geometry.n_shards;
}

const struct segment_super *segment_super(const struct segment *seg);
struct supervisor_head *segment_supervisor(const struct segment *seg);
struct peer_control *segment_control(const struct segment *seg, uint32_t peer);
/* peer may be n_peers: the supervisor's own bell. */
struct commons_bell *segment_bell(const struct segment *seg, uint32_t peer);
struct commons_bitmap *segment_bitmap(const struct segment *seg, uint32_t peer);

/* Portable coroutines: the record of one, its guard with the stack above it, the tag of a chunk
 * (which coroutine it belongs to; 0: none), a chunk. */
static inline uint32_t segment_n_chunks(const struct segment *seg)
{
    return seg->geometry.n_portable * ARENA_CHUNKS_EACH;
}
struct arena_slot *segment_arena(const struct segment *seg, uint32_t slot);
uint8_t *segment_stack(const struct segment *seg, uint32_t slot);
uint64_t *segment_chunk_tag(const struct segment *seg, uint32_t chunk);
uint8_t *segment_chunk(const struct segment *seg, uint32_t chunk);

struct part_head *segment_part(const struct segment *seg, uint32_t peer);
struct aio_counters *segment_counters(const struct segment *seg, uint32_t peer);
void segment_instruments(const struct segment *seg, uint32_t peer, struct aio_instruments *ret);
struct pair_stats *segment_pair(const struct segment *seg, uint32_t peer, uint32_t other);

/* The ring from → to of a lane: slots and tail in from's part, head in to's. 0 slots where from ==
 * to. */
uint32_t segment_ring_slots(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane);
struct ring_slot *segment_ring(
    const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane);
uint64_t *segment_tail(const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane);
uint64_t *segment_head(const struct segment *seg, uint32_t from, uint32_t to, enum mesh_lane lane);

/* Calls of caller to callee: how many slots of both lanes, the caller's side, the callee's side. */
uint32_t segment_call_slots(const struct segment *seg, uint32_t caller, uint32_t callee);
struct call_slot *segment_call(
    const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot);
struct serve_slot *segment_serve(
    const struct segment *seg, uint32_t callee, uint32_t caller, uint32_t slot);

/* Of the n slots that a pair has, the urgent ones come last. Each message about a call travels in
 * its slot's lane. */
static inline enum mesh_lane segment_slot_lane(uint32_t n, uint32_t slot)
{
    return slot + SEGMENT_URGENT_SLOTS < n ? LANE_NORMAL : LANE_URGENT;
}

/* How deep a call the slot is for, SEGMENT_DEPTH_BUILTIN included. The gateway calls from depth 0
 * alone, so all its slots are for that. */
uint32_t segment_slot_depth(
    const struct segment *seg, uint32_t caller, uint32_t callee, uint32_t slot);

/* The locks whose home shard is, SEGMENT_LOCKS of them. */
struct lock_record *segment_locks(const struct segment *seg, uint32_t shard);

/* Where peer's part begins, and, for peer n_peers, where the last one ends. */
uint64_t segment_part_off(const struct segment *seg, uint32_t peer);

/* What the last crash of peer, or a stall, left of it (crash_record.h). */
struct crash_record *segment_crash(const struct segment *seg, uint32_t peer);

/* A peer's heap: [off, off + heap_bytes). */
uint64_t segment_heap_off(const struct segment *seg, uint32_t peer);

/* Its in-flight table: a word for each page of the heap. */
uint64_t *segment_flights(const struct segment *seg, uint32_t peer);

/* The address of [off, off + len) if that lies within peer's heap, else NULL: for offsets that
 * another process wrote. */
uint8_t *segment_heap_at(const struct segment *seg, uint32_t peer, uint64_t off, uint64_t len);
