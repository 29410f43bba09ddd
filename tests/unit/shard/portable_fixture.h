/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * portable_fixture - what tests of portable coroutines share: a rig of three shards, and a board on
 * which they tell the test things
 *
 * Ends are processes; where ThreadSanitizer can't follow, threads, and nobody dies.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_portable.h"
#include "runtime/coroutine_sanitize.h"
#include "shard/portable.h"
#include "tests/unit/shard/mesh_rig.h"

#ifdef CO_WITH_TSAN
#define IN_PROCESSES false
#else
#define IN_PROCESSES true
#endif

#if defined(CO_WITH_ASAN) || defined(CO_WITH_TSAN)
#define SANITIZED true
#else
#define SANITIZED false
#endif

enum {
    WORD_DONE,
    WORD_HOPS,
    WORD_STATUS,
    WORD_WHERE,
    WORD_CO,
    WORD_READY,
    WORD_BAD,
    WORD_GO,
    WORD_RUNS,
    WORD_END
};

/* The test's own table of methods. */
static const struct service *const service;

static struct rig rig;
static struct rig_board *board; /* the same address in all ends */

static inline int setup(void **state)
{
    (void)state;
    rig_open(&rig, 3, service);
    board = rig.board;
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static inline void begin(uint32_t peer, rig_body_fn *body)
{
    if (IN_PROCESSES)
        rig_fork(&rig, peer, body);
    else
        rig_thread(&rig, peer, body);
}

static inline void note(unsigned word, uint64_t value)
{
    atomic_store(&board->words[word], value);
}

static inline uint64_t noted(unsigned word)
{
    return atomic_load(&board->words[word]);
}

static inline void bad(const char *what)
{
    fprintf(stderr, "%s\n", what);
    atomic_fetch_add(&board->words[WORD_BAD], 1);
}

/* In a coroutine or another end, where no assertion of cmocka may jump. */
#define CHECK(condition) ((condition) ? (void)0 : bad(#condition))

static inline uint32_t n_in_use(void)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < rig.seg.geometry.n_portable; slot++)
        n += arena_co_at(&rig.seg, slot) != 0;
    return n;
}

/* The answer to the last notice of a move may still be on its way. */
static inline void wait_until_nothing_is_under_way(void)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20000000000);

    while (rig_slots_in_use(&rig) > 0 || n_in_use() > 0) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}
