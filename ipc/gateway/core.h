/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * core - what the gateway's parts share: one struct, in the loop of one process
 *
 * Use:         dispatch_message() is the only way in for a client's bytes
 * Concurrency: owner loop
 * Lifetime:    gateway_main()'s, from the fork to the process's end
 */
#include <stdbool.h>

#include "ipc/gateway/attach.h"
#include "ipc/gateway/fates.h"
#include "ipc/gateway/port.h"
#include "ipc/gateway/requests.h"
#include "ipc/gateway/session.h"
#include "ipc/client/token.h"
#include "proto/arena.h"
#include "proto/sherd.pb-c.h"
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
    struct token token;
    struct arena arena; /* the message that is being handled */
    uint32_t round_robin;
    uint64_t n_unsaid; /* complaints about clients since the last that was logged */
    int64_t next_complaint_ns;
    bool draining;
    AioTimer drain_timer; /* armed when nothing is under way: clients fetch the last ends */
    int64_t drain_until_ns;
};

/* Handles one message; the exchange ends at once, or later where it is a `next` that waits. */
void dispatch_message(struct gateway *gateway, struct exchange *exchange);

/* submit.c: takes the submissions of a message. */
void dispatch_submissions(struct gateway *gateway, struct session *session,
    struct exchange *exchange, Sherd__Wire__Submission *const *submissions, size_t n);

/* describe.c: answers to status and methods. */
void describe_status(struct gateway *gateway, struct exchange *exchange);
void describe_methods(struct gateway *gateway, struct exchange *exchange);

/* Writes what the gateway counts of clients into its part of the segment. */
void gateway_count(struct gateway *gateway);
