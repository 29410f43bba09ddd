/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stage_gateway - the gateway beside a shard and its clients, for scenarios: who attaches, who is cut
 * off, whose number and memory are used again
 *
 * Use:         begin():     gateway_stage_begin(&s.stage, &plan); plane_stage_open() of the shard;
 *                           gateway_stage_open(); gateway_stage_attach() who is there from the
 *                           start
 *              a client:    gateway_client_await(), gateway_client_attach(), gateway_client_leave()
 *              the gateway: gateway_stage_serve(); its heir: if (explorer_wait_for_crash_of(…)) {
 *                           gateway_stage_bury(); gateway_stage_open(); gateway_stage_serve(); }
 *              the shard's heir: gateway_stage_bury_shard() before plane_stage_open()
 * Concurrency: a gateway is one scenario thread's at a time, and so is a client
 * Lifetime:    one run
 * Not here:    connections, and what the supervisor keeps (parts_gateway.h)
 *
 * The gateway answers at once where the real one makes memory and waits for the supervisor
 * (attach_serve.c): in between it does nothing for that client.
 */
#include "tests/explore/parts_gateway.h"
#include "tests/explore/stage_plane.h"

struct gateway_end {
    struct attach *attach;
    struct fd_keep_heir keep;
};

void gateway_stage_begin(struct plane_stage *stage, const struct plane_stage_plan *plan);
void gateway_stage_open(struct plane_stage *stage, struct gateway_end *end);

/* In begin(): that connection's client is attached, and the shard has opened it. */
void gateway_stage_attach(struct plane_stage *stage, struct plane_end *shard,
    struct plane_client *client, uint32_t connection);

/* Turns until it is over. */
void gateway_stage_serve(struct plane_stage *stage, struct gateway_end *end);

/* What the supervisor does once the gateway, or the shard, has died. */
void gateway_stage_bury(struct plane_stage *stage);
void gateway_stage_bury_shard(struct plane_stage *stage, enum peer_state state);

/* The client's number. */
uint32_t gateway_stage_client(const struct plane_stage *stage, const struct plane_client *client);

/* ---- clients, whose number of stage_plane.h is that of their connection ---- */

/* A new one. */
void gateway_client_attach(
    struct plane_stage *stage, struct plane_client *client, uint32_t connection);

/* Sleeps until there is a completion, and takes it. False: it was told one of `what` before. */
bool gateway_client_await(
    struct plane_client *client, uint32_t what, struct plane_completion *ret_completion);

/* Its connection is closed, and its memory unmapped. */
void gateway_client_leave(struct plane_client *client);
