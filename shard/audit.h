/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * audit - recomputes the accounts of a segment from its slots
 *
 * Why:         that no call is lost, doubled or left hanging is an equation: what was submitted has
 *              ended or is under way. Whoever doubts it counts again, live or after a crash.
 * Use:         struct audit_result result;
 *              audit_run(&segment, on_finding, NULL, &result);
 * Concurrency: any process that has the segment mapped, read-only; stores nothing
 * Not here:    printing (tools/audit.c)
 *
 * Where nothing runs, and after a crash, each account is exact. While it is being written, what can
 * be said of an account is a range: figures are read before and after the slots, and slots that
 * changed in between count as either. An account is found wrong where two ranges do not meet, and
 * do not meet again when looked at a second and a third time; so a wrong account that is busy may
 * go unnoticed as long as it is.
 */
#include "shard/segment.h"

/* X(name, what is expected, what is compared with it) */
#define AUDIT_ACCOUNTS(X)                                                           \
    X(CALLS, "calls that ended or hold a slot", "calls submitted")                  \
    X(STARTED, "calls submitted", "methods begun, of which there may be fewer")     \
    X(RING, "slots of the ring", "messages in it, of which there may be fewer")     \
    X(BUFFER, "bytes of the heap", "end of a call's buffer, which lies outside it") \
    X(SHARED_BUFFER, "1 call to a buffer", "calls that have the same buffer")       \
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

/* What was counted, over all pairs. While it changes these figures are of no one moment. */
struct audit_result {
    uint64_t submitted;
    uint64_t ended[N_CALL_ENDS];
    uint64_t under_way;
    uint64_t requests_accepted, requests_ended, requests_in_flight;
    uint64_t n_findings;
};

typedef void audit_finding_fn(void *opaque, const struct audit_finding *finding);

/* The two texts of an account, as in the table. */
const char *audit_expected_text(enum audit_account account);
const char *audit_found_text(enum audit_account account);

/* on_finding is called for each account that is wrong. 0 or -ENOMEM. */
int audit_run(const struct segment *seg, audit_finding_fn *on_finding, void *opaque,
    struct audit_result *ret_result);
