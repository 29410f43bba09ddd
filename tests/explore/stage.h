/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stage - a small instance for the scenarios of the mesh: its segment, the ends of its shards, and
 * what its supervisor does when one has died
 *
 * Why:         a death means the same in every scenario, and the order of the supervisor's stores
 *              is what is explored.
 * Use:         begin():    stage_begin(&s.stage, &plan); stage_open() for each shard, then
 *                          stage_settle() for each
 *              a shard:    stage_serve(&s.stage, &s.ends[0]) after what it has to do
 *              its heir:   if (explorer_wait_for_crash_of(0)) { stage_bury(…); stage_replace(…); … }
 *              who is last: stage_is_over()
 *              end():      stage_check(&s.stage)
 * Concurrency: an end is one scenario thread's at a time; the rest is the supervisor's, which is
 *              the thread of the heir until that begins.
 * Lifetime:    one run; there is one stage at a time, for its memory is one
 * Not here:    loops and coroutines (parts_mesh.h), claims about calls (scenario_*.c)
 */
#include "tests/explore/parts_mesh.h"

#define STAGE_SHARDS 3
#define STAGE_CALLS  2 /* under way of a pair and depth, at most */

struct stage_plan {
    uint32_t n_shards;
    uint32_t n_portable;
    const struct service_method *methods;
    uint32_t n_methods;
    bool one_slot_each; /* for each pair, lane and depth */
    /* Whether one calls the other at that depth, in the normal lane. */
    bool (*uses)(uint32_t caller, uint32_t callee, uint32_t depth);
};

struct stage_end {
    struct parts_mesh_loop loop;
    struct mesh *mesh;
};

struct stage {
    struct segment seg;
    struct stage_plan plan;
    uint32_t over;
    uint32_t quiet[STAGE_SHARDS]; /* has nothing under way any more */
    /* What is done wrong. */
    bool tells_first;
    bool sets_no_bit;
    bool empty_bitmap;
    bool same_incarnation;
    bool keeps_hot;
};

void stage_begin(struct stage *stage, const struct stage_plan *plan);
void stage_open(struct stage *stage, struct stage_end *end, uint32_t peer);

/* The first turn of a loop that is not the replacement of another, and finds nothing. */
void stage_settle(struct stage_end *end);

static inline void stage_flush(struct stage_end *end)
{
    end->loop.source->flush(end->loop.source->opaque);
}

/* Turns until it is over. */
void stage_serve(struct stage *stage, struct stage_end *end);
/* The same; then goes on until no end has a call under way any more: for calls that the mesh makes
 * by itself. Whoever is given up is said to be quiet by its supervisor. */
void stage_serve_to_the_last(struct stage *stage, struct stage_end *end);
void stage_is_quiet(struct stage *stage, uint32_t peer);
/* All may leave. From here on the running thread does not crash. */
void stage_is_over(struct stage *stage);

/* What the supervisor does: once one has died, and before its replacement goes on. */
void stage_bury(struct stage *stage, uint32_t dead, enum peer_state state);
void stage_replace(struct stage *stage, struct stage_end *heir, uint32_t dead);

/* Whether a call of caller to callee has not come back. */
bool stage_has_calls(const struct stage *stage, uint32_t caller, uint32_t callee);
/* Nothing is under way, and of each pair as many calls have ended as were begun; no portable
 * coroutine is left. */
void stage_check(const struct stage *stage);
