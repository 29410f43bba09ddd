/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * lock_fixture - shards that do what the test says on the board: each has a few coroutines with a
 * word for its order and a word for what came of it
 *
 * Use:         open_shards(&rig); do_now(&rig, a, LOCK, 1, HOME); …; rig_close(&rig)
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_portable.h"
#include "runtime/co_sleep.h"
#include "shard/lock_inside.h"
#include "shard/serve.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_SHARDS    4
#define N_HANDS     4 /* coroutines a shard that take orders */
#define WORD_READY  (N_SHARDS * N_HANDS * 2)
#define WORD_INSIDE (WORD_READY + N_SHARDS)
#define WORD_ROUNDS (WORD_INSIDE + 1)
#define WORD_WRONG  (WORD_INSIDE + 2)
#define WORD_ENOUGH (WORD_INSIDE + 3)
#define WORD_FREED  (WORD_INSIDE + 5)

enum order { LOCK = 1, TRY, UNLOCK, CONSISTENT };

/* ---- shards that follow orders ---- */

struct hand {
    struct rig_end *end;
    uint32_t number;
    bool over;
};

static inline _Atomic uint64_t *order_word(struct rig *rig, uint32_t shard, uint32_t hand)
{
    return &rig->board->words[(shard * N_HANDS + hand) * 2];
}

static inline struct shard_mutex mutex_of(uint64_t order)
{
    return (struct shard_mutex){.id = 100 + (order >> 8 & 0xff), .home = order >> 16 & 0xff};
}

static inline int coroutine_fn follow(struct rig_end *end, uint64_t order)
{
    struct shard_mutex mutex = mutex_of(order);
    int64_t wait_ms = order >> 24 & 0xff;
    int64_t deadline_ns = wait_ms ? aio_clock_ns() + wait_ms * 1000000 : INT64_MAX;

    switch ((enum order)(order & 0xff)) {
    case LOCK:
        return shard_mutex_lock(end->mesh, &mutex, deadline_ns);
    case TRY:
        return shard_mutex_trylock(end->mesh, &mutex, deadline_ns);
    case UNLOCK:
        return shard_mutex_unlock(end->mesh, &mutex);
    case CONSISTENT:
        return shard_mutex_consistent(end->mesh, &mutex);
    }
    return -ENOSYS;
}

static inline void coroutine_fn hand_entry(void *opaque)
{
    struct hand *hand = opaque;
    struct rig *rig = hand->end->rig;
    _Atomic uint64_t *word = order_word(rig, hand->end->peer, hand->number);
    uint64_t seen = atomic_load(word);

    atomic_fetch_add(&rig->board->words[WORD_READY + hand->end->peer], 1);
    while (!atomic_load(&rig->board->leave)) {
        uint64_t order = atomic_load(word);
        if (order == seen) {
            co_sleep_ns(500000);
            continue;
        }
        seen = order;
        int r = follow(hand->end, order);
        atomic_store(word + 1, order >> 32 << 32 | (uint32_t)-r);
    }
    lock_drop_all(hand->end->mesh, coroutine_self());
    hand->over = true;
}

static inline bool hands_are_over(void *opaque)
{
    const struct hand *hands = opaque;
    uint32_t n = 0;

    for (uint32_t i = 0; i < N_HANDS; i++)
        n += hands[i].over;
    return n == N_HANDS;
}

static inline void obedient_body(struct rig_end *end)
{
    struct hand hands[N_HANDS];

    for (uint32_t i = 0; i < N_HANDS; i++) {
        hands[i] = (struct hand){.end = end, .number = i};
        aio_co_enter(end->ctx, coroutine_create(hand_entry, &hands[i]));
    }
    rig_poll_until(end, hands_are_over, hands);
}

/* ---- ordering ---- */

static inline void start_shard(struct rig *rig, uint32_t shard)
{
    uint64_t ready = atomic_load(&rig->board->words[WORD_READY + shard]);

    rig_fork(rig, shard, obedient_body);
    rig_wait_word(rig, WORD_READY + shard, ready + N_HANDS);
}

struct who {
    uint32_t shard;
    uint32_t hand;
};

static inline void order(
    struct rig *rig, struct who who, enum order what, uint32_t lock, uint32_t home, uint32_t ms)
{
    _Atomic uint64_t *word = order_word(rig, who.shard, who.hand);
    uint64_t number = (atomic_load(word) >> 32) + 1;

    atomic_store(word, number << 32 | (uint64_t)ms << 24 | home << 16 | lock << 8 | what);
}

static inline int outcome(struct rig *rig, struct who who)
{
    unsigned word = (who.shard * N_HANDS + who.hand) * 2;

    rig_wait_word(rig, word + 1, atomic_load(&rig->board->words[word]) >> 32 << 32);
    return -(int)(uint32_t)atomic_load(&rig->board->words[word + 1]);
}

static inline bool has_outcome(struct rig *rig, struct who who)
{
    unsigned word = (who.shard * N_HANDS + who.hand) * 2;

    return atomic_load(&rig->board->words[word]) >> 32 ==
           atomic_load(&rig->board->words[word + 1]) >> 32;
}

static inline int do_now(
    struct rig *rig, struct who who, enum order what, uint32_t lock, uint32_t home)
{
    order(rig, who, what, lock, home, 0);
    return outcome(rig, who);
}

/* Has someone of another shard ask for the lock, and waits until it stands in line. */
static inline void stand_in_line(
    struct rig *rig, struct who who, uint32_t lock, uint32_t home, uint32_t ms)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;
    uint64_t *started = &segment_pair(&rig->seg, home, who.shard)->calls_started;
    uint64_t before = atomic_load_acquire(started);

    order(rig, who, LOCK, lock, home, ms);
    while (atomic_load_acquire(started) == before && !has_outcome(rig, who)) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

/* The test's own table of methods. */
static const struct service lock_service;

static inline void open_shards(struct rig *rig)
{
    rig_open(rig, N_SHARDS, &lock_service);
    for (uint32_t shard = 0; shard < N_SHARDS; shard++)
        start_shard(rig, shard);
}

static const struct who __attribute__((unused)) a = {0, 0}, b = {1, 0}, b2 = {1, 1}, c = {2, 0},
                                                at_home = {3, 0};
#define HOME 3
