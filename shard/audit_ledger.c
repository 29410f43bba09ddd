/* SPDX-License-Identifier: MIT */
/*
 * Local clients: of each lane, what was taken from its ring has ended or stands in the ledger. A
 * request is counted in its lane a store after it is in the ledger, and its end a store after that
 * is noted there; slots at those stores, and such as change while they are counted, count as
 * either.
 */
#include "shard/audit_inside.h"

static uint32_t n_lanes(const struct audit *a, uint32_t shard)
{
    return view_column_n_inner(&a->lane_requests, shard);
}

/* A lane's word, and a slot's. */
#define LANE_OF(a, member, shard, client) AUDIT_LOAD(a, member, shard, 0, client, 0)
#define SLOT_OF(a, member, shard, slot)   AUDIT_LOAD(a, member, shard, 0, slot, 0)

static void count_slot(struct audit *a, uint32_t shard, uint32_t slot)
{
    uint64_t word = SLOT_OF(a, ledger, shard, slot), state = word & 0xff;
    uint64_t client = SLOT_OF(a, ledger_client, shard, slot);
    uint64_t number = SLOT_OF(a, ledger_number, shard, slot);

    if (state == LEDGER_FREE || client >= n_lanes(a, shard))
        return;
    bool is_sure = state != LEDGER_ENDED && SLOT_OF(a, ledger, shard, slot) == word &&
                   number < LANE_OF(a, lane_requests, shard, (uint32_t)client);

    if (SLOT_OF(a, ledger_generation, shard, slot) !=
        LANE_OF(a, lane_generation, shard, (uint32_t)client))
        return;
    a->lanes[client].n_held += is_sure;
    a->lanes[client].n_maybe += !is_sure;
}

/* The tails first, then the ledger, then the tails again: each lane's account is a range. */
static void count_lanes(struct audit *a, uint32_t shard)
{
    uint32_t n = n_lanes(a, shard);

    for (uint32_t client = 0; client < n; client++)
        a->lanes[client] = (struct audit_lane){.requests = LANE_OF(a, lane_requests, shard, client),
            .tail = LANE_OF(a, lane_tail, shard, client)};
    for (uint32_t slot = 0; slot < view_column_n_inner(&a->ledger, shard); slot++)
        count_slot(a, shard, slot);
}

static bool lane_balances(
    const struct audit *a, uint32_t shard, uint32_t client, struct audit_finding *ret)
{
    const struct audit_lane *before = &a->lanes[client];
    uint64_t tail = LANE_OF(a, lane_tail, shard, client);
    uint64_t requests = LANE_OF(a, lane_requests, shard, client);

    *ret = (struct audit_finding){.account = AUDIT_CLIENT,
        .from = shard,
        .to = shard,
        .expected = tail + before->n_held,
        .found = requests};
    return requests >= before->tail + before->n_held &&
           before->requests <= tail + before->n_held + before->n_maybe;
}

static bool lanes_balance(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    count_lanes(a, of.peer);
    for (uint32_t client = 0; client < n_lanes(a, of.peer); client++)
        if (LANE_OF(a, lane_state, of.peer, client) != CLIENT_LANE_NONE &&
            !lane_balances(a, of.peer, client, ret))
            return false;
    return true;
}

void audit_ledger(struct audit *a, uint32_t shard)
{
    audit_look(a, (struct audit_subject){shard, shard}, lanes_balance);
    for (uint32_t client = 0; client < n_lanes(a, shard); client++) {
        bool is_open = LANE_OF(a, lane_state, shard, client) != CLIENT_LANE_NONE;
        a->result->lanes += is_open;
        a->result->lane_requests += is_open ? a->lanes[client].requests : 0;
        a->result->lane_requests_under_way +=
            is_open ? a->lanes[client].n_held + a->lanes[client].n_maybe : 0;
    }
}
