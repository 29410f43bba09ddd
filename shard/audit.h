/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * audit - recomputes the accounts of a segment from its slots
 *
 * Why:         that no call is lost, doubled or left hanging is an equation: what was submitted has
 *              ended or is under way. Whoever doubts it counts again, live or after a crash.
 * Use:         struct audit *audit;
 *              if (audit_new(&view, &audit, &why) == 0) …
 *              struct audit_result result;
 *              audit_run(audit, on_finding, NULL, &result); …    as often as one likes
 *              audit_free(audit);
 * Concurrency: any process that has the segment mapped, read-only; stores nothing
 * Lifetime:    the view outlives it
 * Not here:    printing (tools/audit.c)
 *
 * It reads by name, so the segment may be another build's; what words mean has to be the same,
 * which the ABI's number says.
 *
 * Where nothing runs, and after a crash, each account is exact. While it is being written, what can
 * be said of an account is a range: figures are read before and after the slots, and slots that
 * changed in between count as either. An account is found wrong where two ranges do not meet, and
 * do not meet again when looked at a second and a third time; so a wrong account that is busy may
 * go unnoticed as long as it is.
 */
#include "shard/segment.h"
#include "shard/segment_view.h"

/* X(name, what is expected, what is compared with it) */
#define AUDIT_ACCOUNTS(X)                                                                          \
    X(CALLS, "calls that ended or hold a slot", "calls submitted")                                 \
    X(STARTED, "calls submitted", "methods begun, of which there may be fewer")                    \
    X(RING, "slots of the ring", "messages in it, of which there may be fewer")                    \
    X(BUFFER, "bytes of the heap", "end of a call's buffer, which lies outside it")                \
    X(SHARED_BUFFER, "1 call to a buffer", "calls that have the same buffer")                      \
    X(HEAP, "pages of the heap that a call or I/O has", "pages in use")                            \
    X(FLIGHT, "pages of the heap", "end of a buffer that I/O may touch: beyond it, or the next's") \
    X(FLIGHT_OWNER, "newest incarnation of a process with I/O under way", "the one that is noted") \
    X(QUARANTINE, "pages that dead processes' I/O may touch", "pages in quarantine")               \
    X(PORTABLE, "portable coroutines that the arena has it run", "those in its registry")          \
    X(PORTABLE_OWNER, "shards", "number of the shard that a portable coroutine is in")             \
    X(CHUNK, "newest generation of a portable coroutine's slot", "the one that its memory bears")  \
    X(LOCK, "1 record of a lock", "records of the same lock")                                      \
    X(LOCK_HOLDER, "incarnation of the holder's shard", "of the holder, whose death is judged")    \
    X(CLIENT, "requests of a local client that ended or are in the ledger", "taken from its ring") \
    X(REQUESTS, "requests of clients that ended or are under way", "requests of clients accepted")

enum audit_account {
#define X(name, expected, found) AUDIT_##name,
    AUDIT_ACCOUNTS(X)
#undef X
};

struct audit_finding {
    enum audit_account account;
    uint32_t from, to; /* peers; to == from where the account is one peer's own */
    uint64_t expected, found;
};

/* X(name, help): what is counted beside calls, over all processes */
#define AUDIT_COUNTS(X)                                                        \
    X(requests_accepted, "requests of clients accepted")                       \
    X(requests_ended, "requests of clients that ended")                        \
    X(requests_in_flight, "requests of clients under way")                     \
    X(lanes, "local clients, once for each shard that they use")               \
    X(lane_requests, "requests of these, taken from their rings")              \
    X(lane_requests_under_way, "of these, those under way")                    \
    X(portable, "portable coroutines")                                         \
    X(chunks, "pages of memory that portable coroutines have")                 \
    X(locks, "locks between shards that are held, or marked")                  \
    X(flights, "buffers that I/O may be touching")                             \
    X(quarantined_pages, "pages of these that a dead process's I/O may touch") \
    X(heap_pages, "pages of shared buffers that a call or I/O has")

/* What was counted, over all pairs. While it changes these figures are of no one moment. */
struct audit_result {
    uint64_t submitted;
    uint64_t ended[N_CALL_ENDS];
    uint64_t under_way;
#define X(name, help) uint64_t name;
    AUDIT_COUNTS(X)
#undef X
    uint64_t n_findings;
};

typedef void audit_finding_fn(void *opaque, const struct audit_finding *finding);

/* The two texts of an account, as in the table. */
const char *audit_expected_text(enum audit_account account);
const char *audit_found_text(enum audit_account account);

struct audit;

/* ret_why: a constant that says why a segment can't be audited. 0; -EPROTO: that; -ENOMEM. */
int audit_new(const struct segment_view *view, struct audit **ret_audit, const char **ret_why);
void audit_free(struct audit *audit);

/* on_finding is called for each account that is wrong. */
void audit_run(struct audit *audit, audit_finding_fn *on_finding, void *opaque,
    struct audit_result *ret_result);
