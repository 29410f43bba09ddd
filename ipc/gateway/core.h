/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * core - what the gateway's parts share: one struct, in the loop of one process
 *
 * Why:         a message may touch sessions, requests, fates and the mesh; none of them is a
 *              global.
 * Use:         dispatch_message() is the only way in for a client's bytes
 * Concurrency: owner loop
 * Lifetime:    gateway_main()'s, from the fork to the process's end
 */
#include <stdbool.h>

#include "ipc/gateway/attach.h"
#include "ipc/gateway/fates.h"
#include "ipc/gateway/orders.h"
#include "ipc/gateway/port.h"
#include "ipc/gateway/requests.h"
#include "ipc/gateway/session.h"
#include "ipc/gateway/watches.h"
#include "ipc/client/token.h"
#include "proto/arena.h"
#include "proto/sherd.pb-c.h"
#include "shard/client_end.h"
#include "shard/member.h"

struct gateway {
    const struct child_env *env;
    AioContext *ctx;
    struct member *member;
    struct port *port;
    struct fates fates;
    struct request *heirs; /* adopted from a predecessor, until there are sessions */
    struct sessions sessions;
    struct requests requests;
    struct attach *attach; /* NULL: no local clients */
    struct orders orders;
    struct watches watches;
    uint64_t n_told_of; /* clients and sessions that had ended when shards were last told */
    struct token token;
    struct token operator_token; /* empty: over TCP nobody is one */
    struct arena arena;          /* the message that is being handled */
    uint32_t round_robin;
    uint64_t n_unsaid; /* complaints about clients since the last that was logged */
    int64_t next_complaint_ns;
    uint64_t blame_seen;    /* crashes that were charged to somebody, as of the last look */
    bool penalty_due;       /* its timer has come */
    AioTimer penalty_timer; /* when something of what follows from them is to be done */
    bool draining;
    AioTimer drain_timer; /* armed when nothing is under way: clients fetch the last ends */
    int64_t drain_until_ns;
};

/* Handles one message; the exchange ends at once, or later where it is a `next` that waits. */
void dispatch_message(struct gateway *gateway, struct exchange *exchange);

/* submit.c: takes the submissions of a message. */
void dispatch_submissions(struct gateway *gateway, struct session *session,
    struct exchange *exchange, Sherd__Wire__Submission *const *submissions, size_t n);

/* describe.c: answers to status, watch and methods. */
void describe_status(struct gateway *gateway, struct exchange *exchange);
void describe_methods(struct gateway *gateway, struct exchange *exchange);

/*
 * penalty.c: what crashes mean for sessions (shard/blame.h). Nothing of a user who has to wait is
 * started; a session with too many crashes is told how its requests ended, then closed, and refused
 * from then on. penalty_turn() after each turn; penalty_meet() where one has got a connection.
 */
#define PENALTY_TEXT "session %u is ended: requests of it were on the CPU in three crashes"
void penalty_start(struct gateway *gateway);
void penalty_turn(struct gateway *gateway);
void penalty_meet(struct gateway *gateway, struct session *session);
void penalty_stop(struct gateway *gateway);

/* Writes what the gateway counts of clients into its part of the segment. */
void gateway_count(struct gateway *gateway);
