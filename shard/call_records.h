/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call_records - what the segment has of calls between its processes: both sides of one, how it
 *                ends, and what a death has made of it
 *
 * Why:         a call outlives both processes that it is between: whoever is left, or comes after
 *              them, tells from here alone whether it ran.
 * Use:         segment_call(), segment_serve() and segment_verdict() (segment.h) find them
 * Concurrency: call slots, redo records and verdicts are written by the caller, serve slots by the
 *              callee; each once its writer is dead by the supervisor
 * Not here:    what is done with them (caller.c, serve.c, judge.c)
 */
#include <stdint.h>

#include "shard/record.h"

#define SEGMENT_INLINE_BYTES 192u /* arguments and answers up to that lie in the slots */
#define SEGMENT_MAX_DEPTH    4u   /* calls within calls; the fifth is refused with -ELOOP */
#define SEGMENT_VERDICTS     64u  /* the newest of each peer: who was told what after a death */

/* The mesh's own calls, which never wait for anything, have slots of their own beside those of each
 * depth: so they get through where every other slot is held by one that waits for them. */
#define SEGMENT_DEPTH_BUILTIN SEGMENT_MAX_DEPTH
#define SEGMENT_SLOT_CLASSES  (SEGMENT_MAX_DEPTH + 1)

#define CALL_GENERATION_BITS  40
#define CALL_GENERATION_MASK  ((UINT64_C(1) << CALL_GENERATION_BITS) - 1)
#define CALL_INCARNATION_MASK UINT32_C(0xffffff)

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

/* Caller's side of a call. The generation grows with each use. */
enum call_state {
    CALL_FREE,
    CALL_WAITING,   /* published, or about to be */
    CALL_ABANDONED, /* nobody waits any more; comes back with the answer or the callee's death */
    CALL_READING,   /* answered, and the answer is being read in the callee's heap */
};

#define CALL_SLOT_FIELDS(X, r)                                                                 \
    X(r, uint64_t, word, , word, "generation << 8 | enum call_state")                          \
    X(r, uint64_t, position, , word, "of its message in the ring to the callee")               \
    X(r, uint64_t, deadline_ns, , time, "CLOCK_MONOTONIC; INT64_MAX: none")                    \
    X(r, uint64_t, args_off, , word, "in the caller's heap; 0: inline_args")                   \
    X(r, uint32_t, args_len, , word, "bytes")                                                  \
    X(r, uint32_t, method, , word, "its number in the registry")                               \
    X(r, uint32_t, depth, , word, "0: called by nobody served; SEGMENT_DEPTH_BUILTIN")         \
    X(r, uint32_t, flags, , word, "enum call_flags")                                           \
    X(r, uint32_t, path, , word,                                                               \
        "shards that serve the calls around this one: number + 1, a byte each, the outermost " \
        "lowest; the highest is who made that")                                                \
    X(r, uint32_t, origin_at, , word, "where the caller has the origin: its index there")      \
    X(r, uint64_t, origin, , word, "whose request it is, or is made for: origin.h; 0: none")   \
    X(r, uint8_t, inline_args, [SEGMENT_INLINE_BYTES], bytes, "arguments that are small")
SEGMENT_STRUCT(call_slot, CALL_SLOT_FIELDS);

enum call_flags { CALL_IDEMPOTENT = 1u << 0 };

/* Callee's side. */
#define SERVE_SLOT_FIELDS(X, r)                                                              \
    X(r, uint64_t, started, , word, "generation << 24 | incarnation of the callee")          \
    X(r, uint64_t, co, , word,                                                               \
        "written before it: the portable coroutine that serves the call (arena.h); 0: none") \
    X(r, uint64_t, answer_generation, , word, "whose answer_off is not given back; 0: none") \
    X(r, uint64_t, answer_off, , word, "in the callee's heap")                               \
    X(r, uint32_t, answer_len, , word, "bytes")                                              \
    X(r, uint32_t, spare0, , spare, "")                                                      \
    X(r, uint64_t, spare, [3], spare, "")                                                    \
    X(r, uint8_t, inline_answer, [SEGMENT_INLINE_BYTES], bytes, "an answer that is small")
SEGMENT_STRUCT(serve_slot, SERVE_SLOT_FIELDS);

/* part_head.running: home(8) | caller(8) | slot(16) | the low 32 bits of the generation. A shard
 * does not call itself over the rings: where it is its own caller the slot is one of its ledger,
 * and generations begin at 1, so it is never 0. The generation's other bits are those of the home's
 * started word, which stays until this call has ended. */
static inline uint64_t running_word(
    uint32_t home, uint32_t caller, uint32_t slot, uint64_t generation)
{
    return (uint64_t)(home & 0xff) << 56 | (uint64_t)(caller & 0xff) << 48 |
           (uint64_t)(slot & 0xffff) << 32 | (generation & UINT32_MAX);
}

/* The transition under way, noted before its first store and cleared after its last. */
enum redo_kind {
    REDO_NONE,
    REDO_SUBMIT, /* slot goes to waiting: calls_submitted = value */
    REDO_END,    /* slot goes to free: ends[end] = value */
};

#define REDO_RECORD_FIELDS(X, r)                                                                  \
    X(r, uint64_t, kind, , word, "enum redo_kind; stored last (release), cleared last (release)") \
    X(r, uint32_t, pair, , word, "the other peer")                                                \
    X(r, uint32_t, slot, , word, "of the call")                                                   \
    X(r, uint64_t, word, , word, "of the slot, after")                                            \
    X(r, uint64_t, value, , word, "of the counter, after")                                        \
    X(r, uint32_t, end, , word, "enum call_end")                                                  \
    X(r, uint8_t, spare, [28], spare, "")
SEGMENT_STRUCT(redo_record, REDO_RECORD_FIELDS);

/* X(name, text): what became of a call of one's own whose shard died */
#define VERDICTS(X)                                 \
    X(RUN_AGAIN, "run again")                       \
    X(IN_DOUBT, "in doubt")                         \
    X(NOT_STARTED, "not started")                   \
    X(FAILED, "failed")         /* given up */      \
    X(POISONED, "poisoned")     /* a dead letter */ \
    X(GIVEN_BACK, "given back") /* nobody waited for it any more */

enum verdict_kind {
#define X(name, text) VERDICT_##name,
    VERDICTS(X)
#undef X
};

const char *verdict_text(uint32_t kind);

/* Noted by the caller, for reports alone. */
#define VERDICT_RECORD_FIELDS(X, r)                                                   \
    X(r, uint32_t, kind, , word, "enum verdict_kind")                                 \
    X(r, uint32_t, dead, , word, "the peer that died")                                \
    X(r, uint32_t, incarnation, , word, "its next one, whose being there was judged") \
    X(r, uint32_t, callee, , word, "whose call slot it is: as a rule the dead")       \
    X(r, uint32_t, slot, , word, "of the call")                                       \
    X(r, uint32_t, method, , word, "its number in the registry")                      \
    X(r, uint64_t, generation, , word, "of the slot")                                 \
    X(r, uint64_t, origin, , word, "as in the call slot")                             \
    X(r, uint64_t, at_ns, , time, "CLOCK_MONOTONIC")                                  \
    X(r, uint8_t, spare, [16], spare, "")
SEGMENT_STRUCT(verdict_record, VERDICT_RECORD_FIELDS);
