/* SPDX-License-Identifier: MIT */
/*
 * shard/lock.c, lock_home.c: a lock between shards is held by one coroutine at a time and comes to
 * all who wait, whoever dies: the holder, its home, one who waits. A holder's death is told to the
 * next one, once.
 *
 * What the lock guards is a plain variable, so that two holders at once, or one that does not know
 * all that the one before did, are a race.
 */
#include <errno.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/lock.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage.h"

/* The home is one of those that lock, or it is not: the other two are as far from it. */
enum { HOME, ONE, OTHER, N };

static const struct shard_mutex mutex = {.id = 7, .home = HOME};

/* A coroutine that locks once. */
struct locker {
    struct stage_end *end;
    uint32_t shard;
    int result;
    uint32_t has_ended;
};

static struct {
    struct stage stage;
    struct stage_end ends[N];
    struct stage_end heirs[N];
    struct locker lockers[N];
    uint32_t n_shards;
    uint32_t lock_from; /* the first shard that locks */
    uint32_t guarded;   /* odd: somebody is at it */
    uint32_t n_marked;  /* were told that a holder had died */
    uint32_t n_broken;  /* found that it had */
    bool forgets_to_mend;
} s;

/* ---- coroutines ---- */

static void note_end(uint32_t shard)
{
    atomic_store_release(&s.lockers[shard].has_ended, 1);
    atomic_full_fence();
    for (uint32_t i = s.lock_from; i < s.n_shards; i++)
        if (!atomic_load_acquire(&s.lockers[i].has_ended))
            return;
    stage_is_over(&s.stage);
}

static void mend(struct mesh *mesh)
{
    s.n_marked++;
    if (s.guarded % 2) {
        s.n_broken++;
        s.guarded++;
    }
    if (!s.forgets_to_mend)
        explorer_check(shard_mutex_consistent(mesh, &mutex) == 0);
}

static void coroutine_fn run_locker(void *opaque)
{
    struct locker *locker = opaque;
    struct mesh *mesh = locker->end->mesh;
    int r = shard_mutex_lock(mesh, &mutex, INT64_MAX);

    locker->result = r;
    if (r == -EOWNERDEAD)
        mend(mesh);
    if (r == 0 || r == -EOWNERDEAD) {
        explorer_check(s.guarded % 2 == 0);
        s.guarded++;
        explorer_step();
        s.guarded++;
        explorer_check(shard_mutex_unlock(mesh, &mutex) == 0);
    }
    note_end(locker->shard);
}

static void lock_in(struct stage_end *end, uint32_t shard)
{
    s.lockers[shard].end = end;
    s.lockers[shard].shard = shard;
    coroutine_enter(coroutine_create_full(run_locker, &s.lockers[shard], "locker", 0));
    stage_serve_to_the_last(&s.stage, end);
}

static void lock_once(uint32_t shard)
{
    lock_in(&s.ends[shard], shard);
}

static void lock_at_home(void)
{
    lock_once(HOME);
}

static void lock_from_one(void)
{
    lock_once(ONE);
}

static void lock_from_other(void)
{
    lock_once(OTHER);
}

static void keep_lock(void)
{
    stage_serve_to_the_last(&s.stage, &s.ends[HOME]);
}

/* ---- deaths ---- */

static void replace_home(void)
{
    if (!explorer_wait_for_crash_of(HOME))
        return;
    stage_bury(&s.stage, HOME, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[HOME], HOME);
    if (s.lock_from == HOME)
        note_end(HOME);
    stage_serve_to_the_last(&s.stage, &s.heirs[HOME]);
}

/* Its heir locks as well, and so is the next one. */
static void replace_one(void)
{
    if (!explorer_wait_for_crash_of(ONE))
        return;
    stage_bury(&s.stage, ONE, PEER_DYING);
    stage_replace(&s.stage, &s.heirs[ONE], ONE);
    lock_in(&s.heirs[ONE], ONE);
}

static void give_home_up(void)
{
    if (!explorer_wait_for_crash_of(HOME))
        return;
    stage_bury(&s.stage, HOME, PEER_FAILED);
    note_end(HOME);
    stage_is_quiet(&s.stage, HOME);
}

/* ---- begin, end ---- */

static bool uses(uint32_t caller, uint32_t callee, uint32_t depth)
{
    return depth == SEGMENT_DEPTH_BUILTIN && (caller == HOME || callee == HOME);
}

static void begin_with(uint32_t n_shards, uint32_t lock_from)
{
    const struct stage_plan plan = {.n_shards = n_shards, .uses = uses};

    memset(&s, 0, sizeof(s));
    s.n_shards = n_shards;
    s.lock_from = lock_from;
    stage_begin(&s.stage, &plan);
    for (uint32_t i = 0; i < n_shards; i++)
        stage_open(&s.stage, &s.ends[i], i);
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < n_shards; i++)
            stage_settle(&s.ends[i]);
}

static void begin_two(void)
{
    begin_with(2, HOME);
}

static void begin_three(void)
{
    begin_with(3, ONE);
}

static void begin_never_mending(void)
{
    begin_two();
    s.forgets_to_mend = true;
}

/* Held by nobody, and marked only where a holder died and nobody has come since. */
static bool is_marked(void)
{
    const struct lock_record *record = segment_locks(&s.stage.seg, HOME);

    for (uint32_t i = 0; i < SEGMENT_LOCKS; i++) {
        explorer_check(!(record[i].word & LOCK_HELD));
        if (record[i].word & LOCK_OWNER_DIED)
            return true;
    }
    return false;
}

static void end_unmarked(void)
{
    stage_check(&s.stage);
    explorer_check(!is_marked() && s.n_marked == 0);
    for (uint32_t i = s.lock_from; i < s.n_shards; i++)
        explorer_check(s.lockers[i].result == 0);
    explorer_check(s.guarded == 2 * (s.n_shards - s.lock_from));
}

/* One holder died at most: the next one was told, and nobody else, or the mark is there still. */
static void end_marked_once(void)
{
    stage_check(&s.stage);
    explorer_check(s.n_marked + is_marked() <= 1);
    explorer_check(s.guarded % 2 == 0 || is_marked());
    explorer_check(s.n_broken <= s.n_marked);
}

static void end_given_up(void)
{
    stage_check(&s.stage);
    explorer_check(s.lockers[ONE].result == 0 || s.lockers[ONE].result == -EHOSTDOWN);
}

#define DAILY                              \
    {                                      \
        .preemptions = 1, .stale_loads = 1 \
    }
#define LONG             \
    {                    \
        .preemptions = 2 \
    }
#define DAILY_DEAD                     \
    {                                  \
        .stale_loads = 1, .crashes = 1 \
    }
#define LONG_DEAD                      \
    {                                  \
        .preemptions = 1, .crashes = 1 \
    }

const struct scenario lock_scenarios[] = {
    {"a_lock_is_held_by_one_at_a_time", begin_two, end_unmarked, DAILY, LONG,
        {{"home", lock_at_home}, {"one", lock_from_one}}},
    {"a_lock_passes_on_between_two_that_are_not_its_home", begin_three, end_unmarked,
        {.preemptions = 0}, DAILY,
        {{"home", keep_lock}, {"one", lock_from_one}, {"other", lock_from_other}}},
    {"a_holder_that_dies_leaves_its_mark_to_the_next_one", begin_two, end_marked_once, DAILY_DEAD,
        LONG_DEAD,
        {{"home", lock_at_home}, {"one", lock_from_one, .may_crash = true}, {"heir", replace_one}}},
    {"a_home_that_dies_is_asked_again", begin_two, end_marked_once, DAILY_DEAD, LONG_DEAD,
        {{"home", lock_at_home, .may_crash = true}, {"one", lock_from_one},
            {"heir", replace_home}}},
    {"a_home_that_is_given_up_lets_nobody_wait", begin_two, end_given_up, DAILY_DEAD, LONG_DEAD,
        {{"home", lock_at_home, .may_crash = true}, {"one", lock_from_one},
            {"supervisor", give_home_up}}},
    {"two_that_wait_survive_the_home", begin_three, end_unmarked, DAILY_DEAD, DAILY_DEAD,
        {{"home", keep_lock, .may_crash = true, .crashes_in = "set_word"}, {"one", lock_from_one},
            {"other", lock_from_other}, {"heir", replace_home}},
        .only_long = true},

    {"wrong: who is told of a dead holder does not mend what that left", begin_never_mending,
        end_marked_once, DAILY_DEAD, LONG_DEAD,
        {{"home", lock_at_home}, {"one", lock_from_one, .may_crash = true}, {"heir", replace_one}}},
    {NULL},
};
