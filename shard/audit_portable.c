/* SPDX-License-Identifier: MIT */
/*
 * A portable coroutine that a shard has in its hands stands in that shard's registry, one that is
 * at rest or on its way in none: so arena and registries tell the same from two sides. Between the
 * word and the registry each step takes a moment; a shard that has been between two callbacks since
 * it was first looked at is in none.
 *
 * Memory bears the name of its coroutine. One whose coroutine has ended is free, whatever it bears
 * (shard_alloc.c), but nobody can have had a generation that is still to come.
 */
#include <string.h>

#include "shard/arena.h"
#include "shard/audit_inside.h"

struct arena_said {
    uint64_t generation;
    uint32_t state, owner;
};

static struct arena_said read_slot(const struct audit *a, uint32_t slot)
{
    uint64_t word = AUDIT_LOAD(a, arena, 0, 0, slot, 0);

    return (struct arena_said){.generation = word >> 24,
        .state = (uint32_t)(word >> 16) & 0x7f,
        .owner = (uint32_t)(word >> 8) & 0xff};
}

static uint32_t n_slots(const struct audit *a)
{
    return view_column_n_inner(&a->arena, 0);
}

/* ---- who is where ---- */

static bool owners_are_shards(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    (void)of;
    for (uint32_t slot = 0; slot < n_slots(a); slot++) {
        struct arena_said said = read_slot(a, slot);
        *ret = (struct audit_finding){.account = AUDIT_PORTABLE_OWNER,
            .from = a->gateway,
            .to = a->gateway,
            .expected = a->gateway,
            .found = said.state > ARENA_QUEUED ? said.state : said.owner};
        if (said.state > ARENA_QUEUED || (said.state != ARENA_FREE && said.owner >= a->gateway))
            return false;
    }
    return true;
}

/* Marks those in the arena that stand in peer's registry. */
static void list_registered(struct audit *a, uint32_t peer)
{
    memset(a->listed, 0, n_slots(a) * sizeof(a->listed[0]));
    for (uint32_t i = 0; i < view_column_n_inner(&a->co_id, peer); i++) {
        uint64_t at = AUDIT_LOAD(a, co_position_at, peer, 0, i, 0) - a->stacks_at;
        bool is_listed = AUDIT_LOAD(a, co_id, peer, 0, i, 0) != 0;

        if (is_listed && a->stack_bytes && at < a->stacks_bytes && at / a->stack_bytes < n_slots(a))
            a->listed[at / a->stack_bytes] = true;
    }
}

static bool registry_agrees(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    struct audit_rest rest = audit_rest_begin(a, of.peer);
    bool agrees = true;

    *ret = (struct audit_finding){.account = AUDIT_PORTABLE, .from = of.peer, .to = of.peer};
    list_registered(a, of.peer);
    for (uint32_t slot = 0; slot < n_slots(a); slot++) {
        struct arena_said said = read_slot(a, slot);
        bool runs = said.state == ARENA_RUNNING && said.owner == of.peer;

        ret->expected += runs;
        ret->found += a->listed[slot];
        agrees = agrees && runs == a->listed[slot];
    }
    return agrees || AUDIT_OF(a, co_unlisted, of.peer) || !audit_rest_lasted(a, of.peer, &rest);
}

/* ---- memory ---- */

static bool chunks_have_owners(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    (void)of;
    for (uint32_t chunk = 0; chunk < view_column_n_inner(&a->tag, 0); chunk++) {
        uint64_t tag = AUDIT_LOAD(a, tag, 0, 0, chunk, 0);
        uint32_t slot = arena_slot_of(tag);
        uint64_t newest = slot < n_slots(a) ? read_slot(a, slot).generation : 0;

        *ret = (struct audit_finding){.account = AUDIT_CHUNK,
            .from = a->gateway,
            .to = a->gateway,
            .expected = newest,
            .found = arena_generation_of(tag)};
        if (tag && (slot >= n_slots(a) || arena_generation_of(tag) > newest) &&
            AUDIT_LOAD(a, tag, 0, 0, chunk, 0) == tag)
            return false;
    }
    return true;
}

static void count(struct audit *a)
{
    for (uint32_t slot = 0; slot < n_slots(a); slot++)
        a->result->portable += read_slot(a, slot).state != ARENA_FREE;
    for (uint32_t chunk = 0; chunk < view_column_n_inner(&a->tag, 0); chunk++) {
        uint64_t tag = AUDIT_LOAD(a, tag, 0, 0, chunk, 0);
        uint32_t slot = arena_slot_of(tag);
        struct arena_said said = slot < n_slots(a) ? read_slot(a, slot) : (struct arena_said){0};

        a->result->chunks +=
            said.state != ARENA_FREE && said.generation == arena_generation_of(tag);
    }
}

void audit_portables(struct audit *a)
{
    audit_look(a, (struct audit_subject){0, 0}, owners_are_shards);
    for (uint32_t peer = 0; peer < a->gateway; peer++)
        audit_look(a, (struct audit_subject){peer, peer}, registry_agrees);
    audit_look(a, (struct audit_subject){0, 0}, chunks_have_owners);
    count(a);
}
