/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * message - what a slot of the mesh's rings carries
 *
 * Why:         the one record that travels: as long as a ring's payload.
 * Concurrency: written by the sender, and the receiver's once it has been pushed (runtime/ring.h)
 */
#include <stdint.h>

#include "shard/record.h"

/* X(name, text): what a ring slot carries */
#define MESSAGE_KINDS(X)                                                                      \
    X(NONE, "nothing")                                                                        \
    X(CALL, "call")                  /* to the callee: what the slot says, too */             \
    X(ARGS_TAKEN, "arguments taken") /* to the caller: their buffer may be used again */      \
    X(ANSWER, "answer") /* to the caller: how it ended; bytes at off, or in the serve slot */ \
    X(ANSWER_TAKEN, "answer taken") /* to the callee: its buffer may be used again */         \
    X(ABANDONED, "abandoned")       /* to the callee: nobody waits for the answer any more */

enum message_kind {
#define X(name, text) MESSAGE_##name,
    MESSAGE_KINDS(X)
#undef X
};

#define MESSAGE_SENT_SHIFT 20

/* A call's message says what its slot says, so that the callee reads one line: as long as its
 * number of withdrawals is the caller's, the slot is as it was when the message was sent. */
#define MESSAGE_FIELDS(X, r)                                                                    \
    X(r, uint8_t, kind, , word, "enum message_kind")                                            \
    X(r, uint8_t, end, , word, "enum call_end, of an answer")                                   \
    X(r, uint8_t, depth, , word, "of a call")                                                   \
    X(r, uint8_t, spare, , spare, "")                                                           \
    X(r, uint32_t, slot, , word, "of the call")                                                 \
    X(r, uint64_t, generation, , word, "of the slot")                                           \
    X(r, uint32_t, sent, , word, "when: CLOCK_MONOTONIC in ns / 2^20, as of the sender's turn") \
    X(r, uint32_t, withdrawals, , word, "of a call: the caller's number of them")               \
    X(r, int32_t, status, , integer, "of an answer")                                            \
    X(r, uint32_t, method, , word, "of a call: its number in the registry")                     \
    X(r, uint32_t, len, , word, "of the arguments or the answer, in bytes")                     \
    X(r, uint32_t, path, , word, "of a call: shards that serve the calls around it")            \
    X(r, uint64_t, off, , word, "where these lie in the sender's heap; 0: inline in its slot")  \
    X(r, uint64_t, deadline_ns, , time, "of a call: CLOCK_MONOTONIC; INT64_MAX: none")
SEGMENT_STRUCT(message, MESSAGE_FIELDS);
