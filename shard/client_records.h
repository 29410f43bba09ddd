/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * client_records - what the segment has of clients: who they are, and their requests under way
 *
 * Why:         a replacement of the gateway or of a shard goes on with what stands here, and tools
 *              show it.
 * Use:         segment_client(), segment_client_lane(), segment_ledger(), segment_session() and
 *              segment_fate() (segment.h) find them
 * Concurrency: lanes and ledger are written by the shard whose part they are in, culprits and users
 *              by the supervisor, all else by the gateway
 * Not here:    what is done with them (ipc/plane/, ipc/gateway/)
 */
#include <stdint.h>

#include "shard/crash_record.h"
#include "shard/record.h"

/* ---- requests of local clients (ipc/plane/) ---- */

/* X(name, text): what a client's lane in a shard is at */
#define LANE_STATES(X)                                       \
    X(NONE, "none") /* the shard has nothing of it */        \
    X(OPEN, "open")                                          \
    X(ENDING, "ending") /* what it has under way is ended */ \
    X(CUT, "cut off")   /* likewise, because of what it did */

enum client_lane_state {
#define X(name, text) CLIENT_LANE_##name,
    LANE_STATES(X)
#undef X
};

/* X(name, text): why a client was cut off */
#define CUT_REASONS(X)                                              \
    X(NONE, "not at all")                                           \
    X(FLAGS, "an entry with unknown flags or route")                \
    X(ARGS, "arguments outside its memory")                         \
    X(ROOM, "room for an answer outside its memory")                \
    X(TURN, "an entry with a turn that makes no sense")             \
    X(OVERRUN, "more requests in flight than its ring has entries") \
    X(POISON, "its requests were on the CPU in three crashes")      \
    X(MESSAGE, "a message that is none of the handshake's")         \
    X(MEMORY, "a shard could not use its memory or its doorbell")   \
    X(SHARD, "a shard that it used is given up")

enum cut_reason {
#define X(name, text) CUT_##name,
    CUT_REASONS(X)
#undef X
        N_CUT_REASONS
};

const char *cut_reason_text(uint32_t reason);

/*
 * The lane of client n in this shard: its place in the table is the client's number. head and tail
 * are the truth; what stands in the client's memory is a copy, and never read back.
 */
#define CLIENT_LANE_FIELDS(X, r)                                                                 \
    X(r, uint64_t, generation, , word, "of the client; what follows is that one's. Stored last") \
    X(r, uint32_t, state, , word, "enum client_lane_state")                                      \
    X(r, uint32_t, reason, , word, "enum cut_reason, where it is cut off")                       \
    X(r, uint64_t, head, , counter, "entries taken from its ring")                               \
    X(r, uint64_t, urgent_head, , counter, "likewise from its urgent ring")                      \
    X(r, uint64_t, requests, , counter, "of these, requests: ended, or in the ledger")           \
    X(r, uint64_t, tail, , counter, "completions: their positions up to here are given out")     \
    X(r, uint64_t, refused, , counter, "of these, those refused because the shard was behind")   \
    X(r, uint64_t, rings, , counter, "times it was rung")
SEGMENT_STRUCT(client_lane, CLIENT_LANE_FIELDS);

enum ledger_state {
    LEDGER_FREE,
    LEDGER_TAKEN,   /* its entry stands here; not begun */
    LEDGER_STARTED, /* by `incarnation` */
    LEDGER_ENDED,   /* its completion stands here, for position `tail` */
};

enum ledger_flags {
    LEDGER_CANCELLED = 1u << 0,
    LEDGER_TOUCHES_CLIENT = 1u << 1,
    LEDGER_URGENT = 1u << 2, /* `position` is one of the urgent ring */
};

/*
 * A request of a client, from when it was taken from its ring until its completion is in the
 * other. word is stored last. entry and completion are struct plane_submission and struct
 * plane_completion (proto/data_plane.h).
 */
#define LEDGER_SLOT_FIELDS(X, r)                                                            \
    X(r, uint64_t, word, , word, "generation << 8 | enum ledger_state")                     \
    X(r, uint32_t, client, , word, "whose; its number")                                     \
    X(r, uint32_t, incarnation, , word, "of this shard, that began it")                     \
    X(r, uint64_t, client_generation, , word, "of the client")                              \
    X(r, uint64_t, position, , word, "of its entry in the ring")                            \
    X(r, uint64_t, number, , word, "requests of the lane before it")                        \
    X(r, uint64_t, tail, , word, "position of its completion, once it has ended")           \
    X(r, uint64_t, taken_ns, , time, "CLOCK_MONOTONIC of the turn in which it was taken")   \
    X(r, uint32_t, flags, , word, "enum ledger_flags")                                      \
    X(r, uint32_t, spare, , spare, "")                                                      \
    X(r, uint8_t, entry, [64], bytes, "the copy of its entry: what is checked, and served") \
    X(r, uint8_t, completion, [64], bytes, "how it ended")
SEGMENT_STRUCT(ledger_slot, LEDGER_SLOT_FIELDS);

#define SEGMENT_CRASH_NOTES 4u /* of a shard: the latest */
#define SEGMENT_NOTED       3u /* crashes of each */

/*
 * A request of a local client that was on the CPU in crashes of its shard: each heir is to know
 * what those before it have seen. n is stored last.
 */
#define CRASH_NOTE_FIELDS(X, r)                                         \
    X(r, uint32_t, slot, , word, "of the ledger")                       \
    X(r, uint32_t, n, , counter, "crashes; 0: the row is free")         \
    X(r, uint64_t, generation, , word, "of the slot")                   \
    X(r, uint32_t, incarnations, [SEGMENT_NOTED], word, "that crashed") \
    X(r, uint8_t, spare, [36], spare, "")                               \
    X(r, struct crash_record, records, [SEGMENT_NOTED], record, "as each left")
SEGMENT_STRUCT(crash_note, CRASH_NOTE_FIELDS);

/* ---- the clients themselves: the gateway's part ---- */

/* X(name, text) */
#define CLIENT_STATES(X)                                          \
    X(FREE, "free")                                               \
    X(ATTACHING, "attaching") /* what is its own is being made */ \
    X(ATTACHED, "attached")                                       \
    X(ENDING, "ending") /* its connection is over; shards let go of it */

enum client_state {
#define X(name, text) CLIENT_##name,
    CLIENT_STATES(X)
#undef X
};

const char *client_state_text(uint32_t state);

/*
 * Client n is row n. The word is stored last by whoever fills in the row, and what stands there
 * counts as long as it stays the same. Once it is ENDING nothing more is opened; the row is free
 * again when each shard of `opened` says in its lane (segment_client_lane()) that it has nothing of
 * this generation: the same generation or a later one, and NONE.
 */
#define CLIENT_ROW_FIELDS(X, r)                                                              \
    X(r, uint64_t, word, , word, "generation << 8 | enum client_state")                      \
    X(r, uint32_t, uid, , word, "whose process it is: SO_PEERCRED")                          \
    X(r, int32_t, pid, , integer, "likewise")                                                \
    X(r, uint32_t, n_entries, , gauge, "of each of its rings")                               \
    X(r, uint32_t, max_in_flight, , gauge, "requests it may have in flight in a shard")      \
    X(r, uint64_t, data_bytes, , gauge, "of its data area")                                  \
    X(r, uint64_t, total_bytes, , gauge, "of its memory")                                    \
    X(r, uint64_t, max_bytes, , gauge, "of arguments and rooms in flight in a shard")        \
    X(r, uint64_t, max_rate, , gauge, "requests a second in a shard; 0: no limit")           \
    X(r, uint64_t, attached_ns, , time, "CLOCK_MONOTONIC")                                   \
    X(r, uint64_t, opened, [2], word, "a bit a shard: handed to it, or about to be")         \
    X(r, uint32_t, reason, , word, "enum cut_reason")                                        \
    X(r, uint32_t, cut_by, , word, "the shard that asked for it; n_shards: the gateway")     \
    X(r, uint64_t, serial, , word, "of its last request that was answered")                  \
    X(r, uint64_t, opens, , counter, "requests for a shard's doorbell that were granted")    \
    X(r, char, name, [64], text, "as it calls itself; bytes that do not print are replaced") \
    X(r, uint64_t, closed, [2], word, "likewise: over with, as the shard was given up")      \
    X(r, uint64_t, spare, , spare, "")
SEGMENT_STRUCT(client_row, CLIENT_ROW_FIELDS);

static inline uint64_t client_word(uint64_t generation, enum client_state state)
{
    return generation << 8 | (uint64_t)state;
}

static inline uint64_t client_generation(uint64_t word)
{
    return word >> 8;
}

static inline enum client_state client_state(uint64_t word)
{
    return (enum client_state)(word & 0xff);
}

/* ---- whose requests were on the CPU in crashes: the supervisor's (shard/blame.h) ---- */

#define SEGMENT_CULPRITS     128u /* clients and sessions; the latest */
#define SEGMENT_CLIENT_USERS 256u /* whose they are; those who wait longest */

/* Who comes by tcp: all have shown the same token, and nothing else is known of them for sure. */
#define CLIENT_USER_REMOTE UINT32_MAX

/* A client or a session of which a request was on the CPU in a crash. */
#define CULPRIT_FIELDS(X, r)                                                          \
    X(r, uint64_t, who, , word, "culprit_of() a call's origin; 0: the row is free")   \
    X(r, uint64_t, last_ns, , time, "CLOCK_MONOTONIC, of its last crash")             \
    X(r, uint32_t, crashes, , counter, "in which a request of it was on the CPU")     \
    X(r, uint32_t, home, , word, "shard whose ring the last came by; or the gateway") \
    X(r, uint32_t, shard, , word, "that crashed last")                                \
    X(r, uint32_t, uid, , word, "whose it is; CLIENT_USER_REMOTE: who came by tcp")
SEGMENT_STRUCT(culprit, CULPRIT_FIELDS);

/* A user of whom a client's request was on the CPU in a crash. */
#define CLIENT_USER_FIELDS(X, r)                                                         \
    X(r, uint32_t, used, , word, "1; 0: the row is free")                                \
    X(r, uint32_t, uid, , word, "who; CLIENT_USER_REMOTE: who came by tcp")              \
    X(r, uint32_t, crashes, , counter, "in which its clients' requests were on the CPU") \
    X(r, uint32_t, wait_ms, , gauge, "so long after the last nothing of it is begun")    \
    X(r, uint64_t, until_ns, , time, "CLOCK_MONOTONIC: when it is again")                \
    X(r, uint64_t, spare, , spare, "")
SEGMENT_STRUCT(client_user, CLIENT_USER_FIELDS);

/* ---- sessions of the control plane: the gateway's part ---- */

#define SEGMENT_SESSIONS_MAX 1024u
#define SEGMENT_FATES_EACH   8u /* at the least, for each session */
#define FATE_ANSWER_BYTES    256u

/* What a session needs to go on after its gateway's death; number is stored last. */
#define SESSION_ROW_FIELDS(X, r)                                                     \
    X(r, uint32_t, number, , word, "of the session, for people; 0: the row is free") \
    X(r, uint32_t, uid, , word, "whose it is: the peer's; or CLIENT_USER_REMOTE")    \
    X(r, uint8_t, token, [16], bytes, "its secret")                                  \
    X(r, uint64_t, floor, , word, "ids up to it that have no fate here are too old") \
    X(r, uint64_t, acked, , word, "ends up to this position have arrived")           \
    X(r, uint64_t, created_ns, , time, "CLOCK_MONOTONIC")                            \
    X(r, uint64_t, spare, [2], spare, "")
SEGMENT_STRUCT(session_row, SESSION_ROW_FIELDS);

enum fate_state {
    FATE_FREE,
    FATE_ACCEPTED, /* in line with the gateway, or a call of its own (call_slot.origin) */
    FATE_ENDED,    /* what follows from `end` on says how */
};

/* What became of a request; mark is stored last. */
#define FATE_FIELDS(X, r)                                                                       \
    X(r, uint64_t, mark, , word, "number of its session << 8 | enum fate_state")                \
    X(r, uint64_t, id, , word, "of the request, as its client says")                            \
    X(r, uint64_t, position, , word, "of its end, among those of the session; 0: none yet")     \
    X(r, uint64_t, ended_ns, , time, "CLOCK_MONOTONIC")                                         \
    X(r, uint32_t, end, , word, "enum call_end")                                                \
    X(r, int32_t, error, , integer, "0 or -errno")                                              \
    X(r, uint32_t, shard, , word, "who ran it; UINT32_MAX: nobody")                             \
    X(r, uint32_t, len, , gauge, "bytes of its answer; above FATE_ANSWER_BYTES it is not here") \
    X(r, uint32_t, method, , word, "its number in the registry")                                \
    X(r, uint32_t, row, , word, "of its session")                                               \
    X(r, uint64_t, spare, , spare, "")                                                          \
    X(r, uint8_t, answer, [FATE_ANSWER_BYTES], bytes, "the answer, or a text for people")
SEGMENT_STRUCT(fate, FATE_FIELDS);

static inline uint64_t fate_mark(uint32_t session, enum fate_state state)
{
    return (uint64_t)session << 8 | (uint64_t)state;
}

static inline uint32_t fate_session(uint64_t mark)
{
    return (uint32_t)(mark >> 8);
}

static inline enum fate_state fate_state(uint64_t mark)
{
    return (enum fate_state)(mark & 0xff);
}

/* How many sessions there can be, where there are n_fates. */
static inline uint32_t segment_sessions_of(uint32_t n_fates)
{
    uint32_t n = n_fates / SEGMENT_FATES_EACH;

    return n < SEGMENT_SESSIONS_MAX ? n : SEGMENT_SESSIONS_MAX;
}
