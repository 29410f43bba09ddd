/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * arena - where portable coroutines live: their words, stacks and memory, in the commons
 *
 * Why:         a coroutine that goes on in another process has its stack in memory that both map,
 *              and one word says whose it is, so that no death leaves it in two hands or in none.
 * Use:         arena_guard() before the first fork; in a shard arena_create(), run on
 *              arena_stack(), arena_end(); between them arena_suspend() and arena_wake(), or
 *              arena_move(), after which arena_enter() is the right to run it. After a death the
 *              supervisor calls arena_bury(), before it raises the incarnation.
 * Concurrency: any process; each function is one compare-and-swap at most that succeeds, and does
 *              nothing where the word is not what it must be.
 * Lifetime:    the segment's. A coroutine is known by slot and generation (arena_co); once it has
 *              ended, that names nothing any more.
 * Not here:    running it (shard/portable.h), its memory (shard/shard_alloc.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"

/* A portable coroutine: generation << 24 | slot + 1. 0: none. */
typedef uint64_t arena_co;

/* X(name, text) */
#define ARENA_STATES(X)                                       \
    X(FREE, "free")           /* its owner's, for the next */ \
    X(RUNNING, "running")     /* in its owner's hands */      \
    X(SUSPENDED, "suspended") /* waits for a wake, at rest */ \
    X(QUEUED, "queued")       /* at rest; its owner enters it */

enum arena_state {
#define X(name, text) ARENA_##name,
    ARENA_STATES(X)
#undef X
};

const char *arena_state_text(uint32_t state);

/* What a word says. */
struct arena_word {
    uint64_t generation;
    enum arena_state state;
    bool woken;     /* a wake came before it waited for one */
    uint32_t owner; /* shard */
    uint32_t by;    /* shard that made it so */
};

struct arena_word arena_read(const struct segment *seg, uint32_t slot);

static inline uint32_t arena_slot_of(arena_co co)
{
    return (uint32_t)(co & 0xffffff) - 1;
}

static inline uint64_t arena_generation_of(arena_co co)
{
    return co >> 24;
}

/* ---- in shard self ---- */

/* A new one, which self runs. free_slot is tried first where it is below n_portable; then whatever
 * is free. 0: none is. */
arena_co arena_create(const struct segment *seg, uint32_t self, uint32_t free_slot);

/* Self runs it, and it is at rest: it waits for a wake. False: one came before, which is used up
 * now, or it is not self's; it goes on running. */
bool arena_suspend(const struct segment *seg, arena_co co, uint32_t self);

/* Self runs it, and it is at rest: target's to enter. False: it is not self's. */
bool arena_move(const struct segment *seg, arena_co co, uint32_t self, uint32_t target);

enum arena_woken {
    ARENA_GONE,   /* it has ended */
    ARENA_KEPT,   /* it does not wait yet: the next arena_suspend() returns at once */
    ARENA_IS_DUE, /* *ret_owner is to enter it; who queued it tells the owner */
};

/* Wakes it where it is, or in `target` unless that is ARENA_WHERE_IT_IS. */
#define ARENA_WHERE_IT_IS UINT32_MAX
enum arena_woken arena_wake(
    const struct segment *seg, arena_co co, uint32_t self, uint32_t target, uint32_t *ret_owner);

/* The right to run one that is queued for self. False: somebody had it before, or it is gone. */
bool arena_enter(const struct segment *seg, arena_co co, uint32_t self);

/* Takes one back that self queued for target, which is given up. False: target had entered it. */
bool arena_bounce(const struct segment *seg, arena_co co, uint32_t self, uint32_t target);

/* Self ran it, and it has ended. Its slot is free, and self's. */
void arena_end(const struct segment *seg, arena_co co, uint32_t self);

/* ---- anywhere ---- */

/* Whether it has not ended, and where it is: the shard that runs it or is to enter it. Exact for
 * the shards whose deaths this process knows of. */
bool arena_co_lives(const struct segment *seg, arena_co co, uint32_t *ret_shard);

/* What slot holds, FREE apart; 0: nothing, or slot is out of range. */
arena_co arena_co_at(const struct segment *seg, uint32_t slot);

/* [*ret_low, + bytes returned): above its guard. */
uint64_t arena_stack(const struct segment *seg, arena_co co, uint8_t **ret_low);

/* ---- the supervisor; without one, who is left ---- */

/* Shard `dead` was reaped, and is given up for good where failed. Ends what it ran or had
 * suspended. What is on its way to it waits for its replacement; where there is none it is left to
 * the shard that sent it, and ended where that is given up too. Returns how many were ended. */
uint32_t arena_bury(const struct segment *seg, uint32_t dead, bool failed);

/* The same for all that have died, or left, since there is no supervisor who would have them
 * replaced or call them given up: a bit a shard. Who is left calls it, each to the same effect. */
uint32_t arena_bury_gone(const struct segment *seg, const uint64_t gone[SEGMENT_BITMAP_WORDS]);

/* Makes every stack's guard in this process; a process forked later has them too. 0 or -errno. May
 * be called again, and has to be after mprotect() of the commons. */
int arena_guard(const struct segment *seg);
