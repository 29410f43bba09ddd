/* SPDX-License-Identifier: MIT */
/*
 * runtime/co_rwlock.c: a writer is alone, and each gets it. Each thread
 * is a coroutine.
 */
#include <string.h>

#include "runtime/co_rwlock.h"
#include "tests/explore/explorer.h"
#include "tests/explore/parts.h"
#include "tests/explore/scenarios.h"

static struct {
    AioContext ctx;
    CoRwlock lock;
    uint32_t what; /* a plain word: who writes it beside others races */
    uint32_t seen[EXPLORER_MAX_THREADS];
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
    parts_reset();
    co_rwlock_init(&s.lock);
}

static void end(void)
{
    explorer_check(s.lock.word == 0 && !s.lock.writer);
    explorer_check(co_queue_empty(&s.lock.waiters));
}

static void write_it(void)
{
    explorer_check(co_rwlock_wrlock(&s.lock) == 0);
    s.what++;
    co_rwlock_unlock(&s.lock);
}

static void read_it(void)
{
    explorer_check(co_rwlock_rdlock(&s.lock) == 0);
    s.seen[explorer_self()] = s.what;
    co_rwlock_unlock(&s.lock);
}

static void write_once(void)
{
    parts_begin_coroutine(&s.ctx);
    write_it();
}

static void read_once(void)
{
    parts_begin_coroutine(&s.ctx);
    read_it();
}

static void read_and_upgrade(void)
{
    parts_begin_coroutine(&s.ctx);
    explorer_check(co_rwlock_rdlock(&s.lock) == 0);
    explorer_check(co_rwlock_upgrade(&s.lock) == 0);
    s.what++;
    co_rwlock_unlock(&s.lock);
}

static void write_and_downgrade(void)
{
    parts_begin_coroutine(&s.ctx);
    explorer_check(co_rwlock_wrlock(&s.lock) == 0);
    s.what++;
    co_rwlock_downgrade(&s.lock);
    s.seen[explorer_self()] = s.what;
    co_rwlock_unlock(&s.lock);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 3, .stale_loads = 2 \
    }

const struct scenario co_rwlock_scenarios[] = {
    {"a_writer_is_alone_and_readers_see_what_it_wrote", begin, end, DAILY, LONG,
        {{"writer", write_once}, {"second", write_once}, {"reader", read_once}}},
    {"who_changes_over_keeps_others_out_of_it", begin, end, DAILY, LONG,
        {{"upgrades", read_and_upgrade}, {"downgrades", write_and_downgrade},
            {"reader", read_once}}},
    {NULL},
};
