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
 *              call), reading a segment of another version (shard/segment_view.h)
 *
 *   +------------------+  0
 *   | superblock       |  the supervisor, before the first fork; constant after
 *   +------------------+  super.layout_off
 *   | description      |  the supervisor, before the first fork; constant after: layout.h
 *   +------------------+  super.control_off
 *   | control          |  the supervisor: its head, one peer_control a peer, names of methods,
 *   |                  |  whose requests crashed shards
 *   +------------------+  super.commons_off
 *   | commons          |  all: a line a peer, and the supervisor's: doorbell, bitmap of senders;
 *   |                  |  the arena: words, chunks and stacks of portable coroutines
 *   +------------------+  super.parts_off
 *   | part of shard 0  |  shard 0: head, counters, pairs, heads, tails, recorder, registry of
 *   |  ...             |  coroutines, crash record, rings it sends on, call slots (as caller),
 *   | part of shard n-1|  serve slots (as callee), in-flight table of its heap, locks whose
 *   |                  |  home it is, lanes of clients and the ledger of their requests,
 *   |                  |  services' counters and regions, heap
 *   | part of gateway  |  the gateway, which is peer n_shards; clients, sessions
 *   +------------------+  super.total_bytes
 *
 * All parts are whole pages. Zero bytes are the empty state of everything after the superblock.
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime/doorbell.h"
#include "runtime/instruments_inside.h"
#include "runtime/ring.h"
#include "shard/call_records.h"
#include "shard/client_records.h"
#include "shard/crash_record.h"
#include "shard/message.h"
#include "shard/origin.h"
#include "shard/record.h"
#include "shard/service_records.h"

#define SEGMENT_MAGIC        "SHERDSEG"
#define SEGMENT_FORMAT       1u /* other formats of the description cannot be read at all */
#define SEGMENT_ABI          26u
#define SEGMENT_PAGE         4096u
#define SEGMENT_MAX_SHARDS   128u
#define SEGMENT_MAX_PEERS    (SEGMENT_MAX_SHARDS + 1)
#define SEGMENT_BITMAP_WORDS 4u /* 256 bits, one a sender */
#define SEGMENT_PAYLOAD_MAX  (1024u * 1024)
#define SEGMENT_REGIONS_MAX  48u
#define SEGMENT_LOCKS        128u /* that one home can have held, or marked, at a time */

#define SEGMENT_MIN_SLOTS    8u
#define SEGMENT_URGENT_SLOTS (2 * SEGMENT_SLOT_CLASSES) /* of each pair, beside the normal ones */

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
#define GEOMETRY_FIELDS(X, r)                                                                  \
    X(r, uint32_t, n_shards, , gauge, "shards")                                                \
    X(r, uint32_t, slots_shard, , gauge,                                                       \
        "normal call slots a shard has for each other shard; a power of two, at least "        \
        "SEGMENT_MIN_SLOTS")                                                                   \
    X(r, uint32_t, slots_gateway, , gauge, "normal call slots the gateway has for each shard") \
    X(r, uint32_t, n_events, , gauge, "recorder of each peer; a power of two")                 \
    X(r, uint32_t, n_coroutines, , gauge, "registry of each peer")                             \
    X(r, uint32_t, n_portable, , gauge, "portable coroutines of the instance")                 \
    X(r, uint32_t, stack_bytes, , gauge, "of each of those, with its guard; a power of two")   \
    X(r, uint32_t, n_clients, , gauge, "clients of the data plane; numbered below it")         \
    X(r, uint32_t, n_ledger, , gauge, "ledger of each shard: their requests under way in it")  \
    X(r, uint32_t, n_fates, , gauge, "requests of the control plane that are remembered")      \
    X(r, uint64_t, heap_bytes, , gauge, "shared buffers of each peer; whole pages")            \
    X(r, uint64_t, service_bytes, , gauge, "services' regions of each shard; whole pages")
SEGMENT_STRUCT(segment_geometry, GEOMETRY_FIELDS);

/* What has to be the same in every process of an instance (image.h). */
#define IMAGE_FIELDS(X, r)                                                                      \
    X(r, uint64_t, executable, , word, "the address of the executable")                         \
    X(r, uint64_t, code, , word, "the address of the code")                                     \
    X(r, uint64_t, data, , word, "the address of the data")                                     \
    X(r, uint64_t, c_library, , word, "the address of the C library")                           \
    X(r, uint64_t, vdso, , word, "the address of the kernel's vDSO")                            \
    X(r, uint64_t, services, , word, "which services are loaded, and where")                    \
    X(r, uint64_t, thread_local_errno, , word, "the address of the main thread's variables")    \
    X(r, uint64_t, thread_pointer, , word, "the main thread's pointer")                         \
    X(r, uint64_t, stack_guard, , word, "the stack protector's value")                          \
    X(r, uint64_t, pointer_guard, , word, "the value that the C library mangles pointers with") \
    X(r, uint64_t, segment, , word, "the address of the segment")                               \
    X(r, uint64_t, page_bytes, , word, "the size of a page")
SEGMENT_STRUCT(segment_image, IMAGE_FIELDS);

/* The first five stand where they are in every version, so that a tool finds the description. */
#define SUPER_FIELDS(X, r)                                                            \
    X(r, char, magic, [8], bytes, "SEGMENT_MAGIC")                                    \
    X(r, uint32_t, format, , word, "SEGMENT_FORMAT: how the description is written")  \
    X(r, uint32_t, abi, , word, "SEGMENT_ABI: what the words mean")                   \
    X(r, uint64_t, layout_off, , word, "where the description is (layout.h)")         \
    X(r, uint64_t, layout_bytes, , word, "its size")                                  \
    X(r, uint8_t, build_id, [32], bytes, "of the executable that made it")            \
    X(r, char, instance, [64], text, "the instance's name")                           \
    X(r, uint64_t, created_ns, , time, "CLOCK_REALTIME")                              \
    X(r, uint64_t, mapped_at, , word, "its address in the instance's processes")      \
    X(r, uint64_t, image_base, , word, "where the executable lies in them")           \
    X(r, char, executable, [256], text, "its path; empty where longer")               \
    X(r, uint64_t, total_bytes, , word, "size of the segment")                        \
    X(r, uint64_t, control_off, , word, "where the supervisor's words begin")         \
    X(r, uint64_t, commons_off, , word, "where that begins which all may write")      \
    X(r, uint64_t, parts_off, , word, "where the part of shard 0 begins")             \
    X(r, struct segment_geometry, geometry, , record, "what the layout follows from") \
    X(r, struct segment_image, image, , record, "what each of its processes checks")
SEGMENT_STRUCT(segment_super, SUPER_FIELDS);

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

/* crashed_…: the last crash, stored before the incarnation is raised: what was on the CPU. It was a
 * call of crashed_peer served by crashed_home, another shard where the coroutine had moved. */
#define PEER_CONTROL_FIELDS(X, r)                                                          \
    X(r, uint32_t, incarnation, , word,                                                    \
        "1 for the first; raised when a death was reaped and its redo record finished")    \
    X(r, uint32_t, state, , word, "enum peer_state")                                       \
    X(r, uint32_t, order, , word, "enum peer_order")                                       \
    X(r, int32_t, pid, , integer, "0: none")                                               \
    X(r, int32_t, core, , integer, "-1: not pinned")                                       \
    X(r, uint32_t, deaths, , counter, "processes of this peer that died")                  \
    X(r, uint32_t, crashes, , counter, "of these, those that count as crashes")            \
    X(r, uint32_t, quiet_incarnation, , word,                                              \
        "up to this one the kernel writes no more: proven (quiet.c)")                      \
    X(r, uint64_t, forked_ns, , time, "CLOCK_MONOTONIC")                                   \
    X(r, uint64_t, died_ns, , time, "CLOCK_MONOTONIC, of the last death")                  \
    X(r, uint32_t, restarts, , counter, "times it left by an operator's order; no deaths") \
    X(r, uint32_t, crashed_incarnation, , word, "that crashed; 0: none yet")               \
    X(r, uint32_t, crashed_home, , word, "whose call it served")                           \
    X(r, uint32_t, crashed_peer, , word, "who had called")                                 \
    X(r, uint32_t, crashed_slot, , word, "of the call")                                    \
    X(r, uint32_t, stall, , word, "enum stall_state: what its loop is seen at")            \
    X(r, uint64_t, crashed_generation, , word, "of the slot; 0: no call was on the CPU")   \
    X(r, uint64_t, stall_since_ns, , time, "CLOCK_MONOTONIC")                              \
    X(r, uint32_t, stalls, , counter, "callbacks that ran too long and were recorded")     \
    X(r, uint8_t, spare, [36], spare, "")
SEGMENT_STRUCT(peer_control, PEER_CONTROL_FIELDS);

#define SEGMENT_ORDER_NOTES 4u

/* What became of an operator's order (shard/order.h); the newest ones, each in place
 * number % SEGMENT_ORDER_NOTES. */
#define ORDER_NOTE_FIELDS(X, r)                                                     \
    X(r, uint64_t, word, , word, "the order, as it came")                           \
    X(r, uint32_t, state, , word, "enum order_state; stored last")                  \
    X(r, uint32_t, peer, , word, "where the order is now; n_peers: everywhere")     \
    X(r, uint64_t, n_cut, , word, "calls still in flight when a limit was reached") \
    X(r, uint64_t, n_orders, , word, "of all orders, the number of this one")
SEGMENT_STRUCT(order_note, ORDER_NOTE_FIELDS);

#define SUPERVISOR_HEAD_FIELDS(X, r)                                                               \
    X(r, int32_t, pid, , integer, "the supervisor's")                                              \
    X(r, uint32_t, state, , word, "enum peer_state")                                               \
    X(r, uint64_t, pid_start_ticks, , word, "field 22 of /proc/PID/stat: tells a reused pid")      \
    X(r, uint64_t, started_ns, , time, "CLOCK_MONOTONIC")                                          \
    X(r, uint64_t, ready_ns, , time, "CLOCK_MONOTONIC; 0: not yet")                                \
    X(r, uint32_t, redo_finished, , counter, "redo records finished for the dead")                 \
    X(r, uint32_t, knocks, , counter, "lost wake-ups made good: 0 unless the commons was damaged") \
    X(r, uint32_t, log_level, , word, "enum log_level, for all processes")                         \
    X(r, uint32_t, wake_latency_low, , word, "1: /dev/cpu_dma_latency is held")                    \
    X(r, uint64_t, spin_ns, , time, "how long a shard looks for work before it sleeps, at most")   \
    X(r, uint64_t, n_blamed, , counter, "crashes for which somebody was charged; stored last")     \
    X(r, uint8_t, spare, [64], spare, "")                                                          \
    X(r, struct order_note, orders, [SEGMENT_ORDER_NOTES], record, "operators' orders")
SEGMENT_STRUCT(supervisor_head, SUPERVISOR_HEAD_FIELDS);

#define SEGMENT_METHODS 256u /* whose names the segment tells */

/* Names of methods, for tools (shard/method_table.h): constant once the first process is forked. */
#define METHOD_NAME_FIELDS(X, r)                                      \
    X(r, uint32_t, number, , word, "of the method, as calls have it") \
    X(r, uint32_t, flags, , word, "enum service_flags")               \
    X(r, char, name, [72], text, "service.method; empty: there are no more")
SEGMENT_STRUCT(method_name, METHOD_NAME_FIELDS);

#define SEGMENT_LISTENERS 16u /* of all services */

/* Where services take connections (shard/service_plan.h): constant once the first process is
 * forked. */
#define LISTENER_ROW_FIELDS(X, r)                                                    \
    X(r, char, name, [72], text, "service.listener; empty: there are no more")       \
    X(r, char, address, [128], text, "as it is reached")                             \
    X(r, uint32_t, n_sockets, , gauge, "one that all shards share, or one for each") \
    X(r, uint32_t, connections_max, , gauge, "that each shard has open at a time")   \
    X(r, uint8_t, spare, [48], spare, "")
SEGMENT_STRUCT(listener_row, LISTENER_ROW_FIELDS);

/* ---- commons: written by all ---- */

/* Who has sent, of those not yet looked at: a bit a peer. */
#define COMMONS_BITMAP_FIELDS(X, r) \
    X(r, uint64_t, senders, [SEGMENT_BITMAP_WORDS], word, "a bit a peer with something queued")
SEGMENT_STRUCT(commons_bitmap, COMMONS_BITMAP_FIELDS);

/* What a sender touches to make a peer look, and what that peer reads to know that nobody has: one
 * line. */
#define COMMONS_BELL_FIELDS(X, r)                                            \
    X(r, struct doorbell_words, words, , record, "the protocol's two words") \
    X(r, struct commons_bitmap, bitmap, , record, "who has sent")            \
    X(r, uint8_t, pad, [24], spare, "")
SEGMENT_STRUCT(commons_bell, COMMONS_BELL_FIELDS);

/* One portable coroutine. word is changed by compare-and-swap alone (arena.c); the rest is for
 * tools, and written by the shard that runs it. */
#define ARENA_SLOT_FIELDS(X, r)                                                                    \
    X(r, uint64_t, word, , word, "generation << 24 | woken << 23 | state << 16 | owner << 8 | by") \
    X(r, uint64_t, created_ns, , time, "CLOCK_MONOTONIC")                                          \
    X(r, uint64_t, entry, , word, "address of its first function")                                 \
    X(r, uint64_t, name, , word, "address of a constant string of the image")                      \
    X(r, uint64_t, wait_site, , word, "likewise, while it does not run")                           \
    X(r, uint64_t, position, , word,                                                               \
        "stack pointer where it left off, on its way or while it waits for a wake")                \
    X(r, uint64_t, n_moves, , counter, "times it moved")                                           \
    X(r, uint64_t, spare, , spare, "")
SEGMENT_STRUCT(arena_slot, ARENA_SLOT_FIELDS);

#define ARENA_CHUNK_BYTES 4096u
#define ARENA_CHUNKS_EACH 2u /* chunks of shard_alloc() for each portable coroutine, on average */

/* ---- a peer's part: written by that peer (and, once it is dead, by the supervisor) ---- */

#define PART_HEAD_FIELDS(X, r)                                                                     \
    X(r, uint32_t, incarnation, , word, "whose these words are; stored when it is ready for work") \
    X(r, uint32_t, drained, , word, "1: order ORDER_DRAIN is carried out")                         \
    X(r, uint64_t, ready_ns, , time, "CLOCK_MONOTONIC")                                            \
    X(r, uint64_t, heartbeat, , counter, "turns of the loop")                                      \
    X(r, uint64_t, heap_used_bytes, , gauge, "shared buffers in use")                              \
    X(r, uint64_t, heap_high_bytes, , gauge, "most of them in use at once")                        \
    X(r, uint64_t, heap_waits, , counter, "times somebody waited for a shared buffer")             \
    X(r, uint64_t, sessions, , gauge, "gateway: clients with a session now")                       \
    X(r, uint64_t, requests_in_flight, , gauge, "requests of clients accepted and not ended")      \
    X(r, uint64_t, requests_accepted, , counter,                                                   \
        "requests of clients since it was created, over its incarnations")                         \
    X(r, uint64_t, requests_ended, , counter, "those that ended")                                  \
    X(r, uint64_t, heap_quarantined_bytes, , gauge, "that a dead process's I/O may yet touch")     \
    X(r, uint64_t, payload_copied_bytes, , counter,                                                \
        "of calls and answers that are not small: copied here")                                    \
    X(r, uint64_t, payload_in_place_bytes, , counter, "the same, filled or read where they lie")   \
    X(r, uint64_t, running, , word,                                                                \
        "running_word() of the call whose coroutine is on the CPU; 0: none is")                    \
    X(r, uint32_t, order, , word, "enum peer_order that it follows now")                           \
    X(r, int32_t, pid, , integer, "its own; a child may live of which the supervisor noted none")  \
    X(r, uint64_t, served_ns, , time, "CLOCK_MONOTONIC, of its first method's end; 0: none yet")   \
    X(r, struct redo_record, redo, , record, "the transition under way; a cache line of its own")  \
    X(r, char, engine, [16], text, "disk engine, for status")                                      \
    X(r, char, engine_flags, [160], text, "how it is set up")                                      \
    X(r, uint64_t, n_poisoned, , counter,                                                          \
        "calls of its own that it gave up: on the CPU in three crashes")                           \
    X(r, uint64_t, n_verdicts, , counter,                                                          \
        "that it has noted, the newest SEGMENT_VERDICTS of them")                                  \
    X(r, uint64_t, clients_cut, , counter, "lanes of clients that this shard has cut off")         \
    X(r, uint64_t, asked, , word,                                                                  \
        "gateway: order_word() of what a client that may has asked for last; 0: nothing")          \
    X(r, uint64_t, clients_watched, , gauge, "of whose end services here are told, by service")    \
    X(r, uint64_t, clients_over, , counter, "gateway: clients and sessions that have ended")       \
    X(r, uint8_t, spare, [32], spare, "")
SEGMENT_STRUCT(part_head, PART_HEAD_FIELDS);

/* What this peer counts about each other peer. */
#define PAIR_STATS_FIELDS(X, r)                                                               \
    X(r, uint64_t, pushed, [N_LANES], counter, "messages put into the rings to it, by lane")  \
    X(r, uint64_t, rings_sent, , counter, "doorbell rings that cost a system call")           \
    X(r, uint64_t, rings_saved, , counter, "flushes that found it awake")                     \
    X(r, uint64_t, calls_submitted, , counter,                                                \
        "calls published to it: the sum of ends and of slots that are not free")              \
    X(r, uint64_t, ends, [N_CALL_ENDS], counter,                                              \
        "by enum call_end; the first counts calls abandoned and given back")                  \
    X(r, uint64_t, slot_waits, , counter, "calls that waited for a slot")                     \
    X(r, uint64_t, popped, [N_LANES], counter, "messages taken from its rings, by lane")      \
    X(r, uint64_t, high_water, [N_LANES], gauge,                                              \
        "most messages found in its rings at once, by lane")                                  \
    X(r, uint64_t, dropped, , counter, "of those taken, the stale, double or malformed")      \
    X(r, uint64_t, calls_started, , counter, "methods begun for it")                          \
    X(r, uint64_t, run_again, , counter, "calls run again after a death of it")               \
    X(r, uint64_t, judged_incarnation, , word, "up to before this one its deaths are judged") \
    X(r, uint64_t, judged_ns, , time, "CLOCK_MONOTONIC, of the last judgement")               \
    X(r, uint64_t, spare, [2], spare, "")
SEGMENT_STRUCT(pair_stats, PAIR_STATS_FIELDS);

/* Whose rings this peer looks into in each turn, told or not: those set no bit in its bitmap. A
 * line that its senders read at each flush, and that changes seldom. */
#define PART_HOT_FIELDS(X, r)                             \
    X(r, uint64_t, senders, [SEGMENT_BITMAP_WORDS], word, \
        "a bit a peer that need not set its bit")         \
    X(r, uint64_t, spare, [4], spare, "")
SEGMENT_STRUCT(part_hot, PART_HOT_FIELDS);

#define RING_MARK_FIELDS(X, r)                                          \
    X(r, uint64_t, position, , counter, "messages published, or freed") \
    X(r, uint8_t, pad, [56], spare, "")
SEGMENT_STRUCT(ring_mark, RING_MARK_FIELDS);

/*
 * A lock whose home is this shard (shard/lock.h), while it is held or marked. The word says all;
 * its last store is the whole transition, for the holder that it does not name is written first.
 */
#define LOCK_HOLDER_FIELDS(X, r)                        \
    X(r, uint32_t, peer, , word, "who holds it")        \
    X(r, uint32_t, incarnation, , word, "of that peer") \
    X(r, uint64_t, token, , word, "which of its coroutines")
SEGMENT_STRUCT(lock_holder, LOCK_HOLDER_FIELDS);

#define LOCK_RECORD_FIELDS(X, r)                                                     \
    X(r, uint64_t, word, , word, "enum lock_bits")                                   \
    X(r, uint64_t, id, , word, "of the lock")                                        \
    X(r, struct lock_holder, holders, [2], record, "the word says which one counts") \
    X(r, uint64_t, spare, [2], spare, "")
SEGMENT_STRUCT(lock_record, LOCK_RECORD_FIELDS);

enum lock_bits {
    LOCK_USED = 1u << 0,       /* else the record is free */
    LOCK_HELD = 1u << 1,       /* by holders[0] or [1] */
    LOCK_SECOND = 1u << 2,     /* it is [1] */
    LOCK_OWNER_DIED = 1u << 3, /* and nobody has said since that what it guards is whole */
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

/* ---- the mapping ---- */

/* Private to a process; inherited by fork. */
struct segment {
    uint8_t *base;
    uint64_t bytes;
    bool writable;
    struct segment_geometry geometry; /* private copy, checked once */
    uint32_t n_peers;                 /* shards and the gateway */
    uint64_t control_off, commons_off, parts_off;
    /* By enum region: offsets in a part, or in the segment for what is in no part. */
    uint64_t shard_regions[SEGMENT_REGIONS_MAX];
    uint64_t gateway_regions[SEGMENT_REGIONS_MAX];
    uint64_t shard_bytes, gateway_bytes; /* of their parts */
    uint64_t mapped_bytes;               /* to unmap; 0: not ours */
};

/* Lays out a fresh mapping (zero bytes, of the planned size) and fills in the superblock. 0 or
 * -EINVAL. */
int segment_init(struct segment *seg, void *base, uint64_t bytes,
    const struct segment_geometry *geometry, const char *instance);

/* Checks the superblock of a mapping of `bytes` bytes and fills *seg. ret_why: a constant that says
 * what does not fit. 0 or -EPROTO. The mapping stays the caller's. */
int segment_attach(struct segment *seg, void *base, uint64_t bytes, const char **ret_why);

/* Maps a whole file of `least` bytes at the least, read-only. 0, -EPROTO where it has fewer, or
 * -errno. The mapping is the caller's. */
int segment_map(
    const char *path, uint64_t least, void **ret_base, uint64_t *ret_bytes, const char **ret_why);

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
/* SEGMENT_METHODS of them. */
struct method_name *segment_methods(const struct segment *seg);
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
struct part_hot *segment_hot(const struct segment *seg, uint32_t peer);
/* How many calls to callee the caller took back before they had begun, or while a callee that may
 * come back has not seen them. A number that stays in the callee's cache. */
uint64_t *segment_withdrawals(const struct segment *seg, uint32_t caller, uint32_t callee);
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

/* The lane of a client in a shard: geometry.n_clients of them, by number. */
struct client_lane *segment_client_lane(const struct segment *seg, uint32_t shard, uint32_t client);

/* geometry.n_ledger of them. */
struct ledger_slot *segment_ledger(const struct segment *seg, uint32_t shard, uint32_t slot);

/* A client, by number. */
struct client_row *segment_client(const struct segment *seg, uint32_t client);

/* Whose requests crashed shards: SEGMENT_CULPRITS, and SEGMENT_CLIENT_USERS. */
struct culprit *segment_culprits(const struct segment *seg);
struct client_user *segment_client_users(const struct segment *seg);

/* SEGMENT_CRASH_NOTES of them. */
struct crash_note *segment_crash_notes(const struct segment *seg, uint32_t shard);

/* SEGMENT_LISTENERS, SEGMENT_SERVICE_COUNTERS and SEGMENT_SERVICE_REGIONS of them. */
struct listener_row *segment_listeners(const struct segment *seg);
struct service_count *segment_service_counts(const struct segment *seg, uint32_t shard);
struct service_region_head *segment_service_regions(const struct segment *seg, uint32_t shard);

/* Where the services' regions of shard lie: geometry.service_bytes of them. */
uint8_t *segment_service_memory(const struct segment *seg, uint32_t shard);

/* Sessions of the control plane, segment_sessions_of() of them; geometry.n_fates. */
struct session_row *segment_session(const struct segment *seg, uint32_t row);
struct fate *segment_fate(const struct segment *seg, uint32_t fate);

/* Where peer's part begins, and, for peer n_peers, where the last one ends. */
uint64_t segment_part_off(const struct segment *seg, uint32_t peer);

/* What the last crash of peer, or a stall, left of it (crash_record.h). */
struct crash_record *segment_crash(const struct segment *seg, uint32_t peer);

/* The place of that peer's n-th verdict, which it shares with every SEGMENT_VERDICTS-th. */
struct verdict_record *segment_verdict(const struct segment *seg, uint32_t peer, uint64_t nth);

/* Whose memory that is, for people: "the part of shard 1", "the commons"; NULL: no segment's. buf
 * has SEGMENT_OWNER_TEXT bytes. */
#define SEGMENT_OWNER_TEXT 32
const char *segment_owner_text(const struct segment *seg, uint64_t address, char *buf);

/* A peer's heap: [off, off + heap_bytes). */
uint64_t segment_heap_off(const struct segment *seg, uint32_t peer);

/* Its in-flight table: a word for each page of the heap. */
uint64_t *segment_flights(const struct segment *seg, uint32_t peer);

/* The address of [off, off + len) if that lies within peer's heap, else NULL: for offsets that
 * another process wrote. */
uint8_t *segment_heap_at(const struct segment *seg, uint32_t peer, uint64_t off, uint64_t len);
