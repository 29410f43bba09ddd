/* SPDX-License-Identifier: MIT */
/*
 * runtime/co_semaphore.c and co_queue.c: nobody has what another one has, nobody waits for what is
 * there, and who took the last may free it. Each thread is a coroutine.
 */
#include <string.h>

#include "runtime/co_semaphore.h"
#include "tests/explore/explorer.h"
#include "tests/explore/parts.h"
#include "tests/explore/scenarios.h"

static struct {
    AioContext ctx;
    CoSemaphore semaphore;
    uint32_t what; /* a plain word: who is at it without the semaphore's only unit races */
} s;

static void begin_with(uint64_t available)
{
    memset(&s, 0, sizeof s);
    parts_reset();
    co_semaphore_init(&s.semaphore, available);
}

static void begin_with_one(void)
{
    begin_with(1);
}

static void begin_with_none(void)
{
    begin_with(0);
}

static void end(void)
{
    explorer_check(co_semaphore_available(&s.semaphore) == 1);
    explorer_check(co_queue_empty(&s.semaphore.waiters));
}

static void use_it(void)
{
    explorer_check(s.what++ == 0);
    s.what--;
    co_semaphore_release(&s.semaphore, 1);
}

static void acquire_and_release(void)
{
    parts_begin_coroutine(&s.ctx);
    explorer_check(co_semaphore_acquire(&s.semaphore, 1) == 0);
    use_it();
}

static void try_and_release(void)
{
    parts_begin_coroutine(&s.ctx);
    if (co_semaphore_try_acquire(&s.semaphore, 1))
        use_it();
}

static void try_for_two(void)
{
    parts_begin_coroutine(&s.ctx);
    explorer_check(!co_semaphore_try_acquire(&s.semaphore, 2));
    explorer_post(&s.ctx);
}

static void release_what_was_done(void)
{
    parts_begin_coroutine(&s.ctx);
    s.what = 1;
    co_semaphore_release(&s.semaphore, 1);
}

/* Once the one that tries, whom it knows of, has gone. */
static void acquire_and_end(void)
{
    parts_begin_coroutine(&s.ctx);
    explorer_wait(&s.ctx);
    explorer_check(co_semaphore_acquire(&s.semaphore, 1) == 0);
    explorer_check(s.what == 1);
    co_semaphore_deinit(&s.semaphore);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 3, .stale_loads = 2 \
    }

const struct scenario co_semaphore_scenarios[] = {
    {"one_at_a_time_has_the_only_one_and_each_gets_it", begin_with_one, end, DAILY, LONG,
        {{"first", acquire_and_release}, {"second", acquire_and_release},
            {"third", try_and_release}}},
    {"who_took_the_last_may_end_it", begin_with_none, NULL, {.preemptions = 3, .stale_loads = 1},
        LONG,
        {{"giver", release_what_was_done}, {"tries", try_for_two}, {"taker", acquire_and_end}}},
    {NULL},
};
