/* SPDX-License-Identifier: MIT */
/* Bottom halves across shards: of threads first, then of processes that are killed. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/builtin.h"
#include "shard/mesh_inside.h"
#include "shard/remote_bh.h"
#include "tests/unit/shard/mesh_rig.h"

enum word { WORD_RUNS, WORD_SUM, WORD_PEER, WORD_BEGUN, WORD_RELEASED };

static struct rig_board *board; /* one test at a time; inherited by fork */

/* ---- what is run ---- */

static void add_to_sum(struct mesh *mesh, const void *args, size_t len)
{
    uint64_t n;

    assert_int_equal(len, sizeof(n));
    memcpy(&n, args, sizeof(n));
    atomic_fetch_add(&board->words[WORD_SUM], n);
    atomic_store(&board->words[WORD_PEER], mesh->self);
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
}

static void wait_to_be_killed(struct mesh *mesh, const void *args, size_t len)
{
    (void)mesh;
    (void)args;
    (void)len;
    atomic_fetch_add(&board->words[WORD_BEGUN], 1);
    for (;;)
        pause();
}

/* ---- scheduling ---- */

struct told {
    uint64_t n;
    enum call_end end;
    int status;
};

static void on_told(void *opaque, enum call_end end, int status)
{
    struct told *told = opaque;

    told->n++;
    told->end = end;
    told->status = status;
}

static bool is_told(void *opaque)
{
    return ((struct told *)opaque)->n > 0;
}

static int add(struct rig_end *end, uint32_t target, uint64_t n, struct told *told)
{
    return shard_bh_schedule(end->mesh, &(struct shard_bh){.target = target,
                                            .fn = add_to_sum,
                                            .args = &n,
                                            .args_len = sizeof(n),
                                            .done = told ? on_told : NULL,
                                            .opaque = told});
}

/* ---- between threads ---- */

static void run_pair(rig_body_fn *body)
{
    struct rig rig;

    rig_open(&rig, 2, &rig_nothing);
    board = rig.board;
    rig_thread(&rig, 1, rig_serve);
    rig_thread(&rig, 0, body);
    rig_join(&rig, 0);
    atomic_store(&rig.board->leave, 1);
    rig_join(&rig, 1);
    assert_true(rig_balances(&rig));
    assert_int_equal(rig_slots_in_use(&rig), 0);
    rig_close(&rig);
}

static void once_body(struct rig_end *end)
{
    struct told there = {0}, here = {0};

    assert_int_equal(add(end, 1, 40, &there), 0);
    assert_int_equal(there.n, 0);
    rig_poll_until(end, is_told, &there);
    assert_int_equal(there.end, CALL_END_DONE);
    assert_int_equal(atomic_load(&board->words[WORD_PEER]), 1);
    assert_int_equal(add(end, 0, 2, &here), 0);
    assert_false(mesh_is_idle(end->mesh));
    rig_poll_until(end, is_told, &here);
    assert_true(mesh_is_idle(end->mesh));
    assert_int_equal(atomic_load(&board->words[WORD_PEER]), 0);
    assert_int_equal(atomic_load(&board->words[WORD_SUM]), 42);
    assert_int_equal(there.n + here.n, 2);
}

static void it_runs_once_in_the_shard_it_is_for_with_its_arguments(void **state)
{
    (void)state;
    run_pair(once_body);
}

#define MANY 2500

static bool all_have_run(void *opaque)
{
    (void)opaque;
    return atomic_load(&board->words[WORD_RUNS]) == MANY;
}

static bool is_idle(void *opaque)
{
    return mesh_is_idle(opaque);
}

static void many_body(struct rig_end *end)
{
    for (uint64_t n = 0; n < MANY; n++)
        assert_int_equal(add(end, 1, n, NULL), 0);
    rig_poll_until(end, all_have_run, NULL);
    rig_poll_until(end, is_idle, end->mesh);
    assert_int_equal(atomic_load(&board->words[WORD_SUM]), (uint64_t)MANY * (MANY - 1) / 2);
}

static void more_than_there_are_slots_for_all_run(void **state)
{
    (void)state;
    run_pair(many_body);
}

static void on_foreign_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct told *told = *(struct told **)(call + 1);

    on_told(told, answer->end, answer->status);
}

static void refused_body(struct rig_end *end)
{
    uint8_t bytes[SHARD_BH_ARGS_MAX + 1] = {0};
    struct shard_bh bh = {.target = 1, .fn = add_to_sum, .args = bytes, .args_len = sizeof(bytes)};
    uint64_t address = (uintptr_t)&strerror; /* libc's */
    struct told told = {0};
    struct {
        struct mesh_call call;
        struct told *told;
    } foreign = {.call = {.target = 1,
                     .method = BUILTIN_BH,
                     .args = &address,
                     .args_len = sizeof(address),
                     .deadline_ns = INT64_MAX,
                     .depth = SEGMENT_DEPTH_BUILTIN,
                     .done = on_foreign_done},
        .told = &told};

    assert_int_equal(shard_bh_schedule(end->mesh, &bh), -EMSGSIZE);
    bh.args_len = 0;
    bh.target = 2;
    assert_int_equal(shard_bh_schedule(end->mesh, &bh), -ENODEV);
    bh.target = 1;
    bh.lane = N_LANES;
    assert_int_equal(shard_bh_schedule(end->mesh, &bh), -EINVAL);
    bh.lane = LANE_URGENT;
    bh.fn = (shard_bh_fn *)(uintptr_t)address;
    assert_int_equal(shard_bh_schedule(end->mesh, &bh), -EINVAL);
    bh.fn = (shard_bh_fn *)(uintptr_t)&told;
    assert_int_equal(shard_bh_schedule(end->mesh, &bh), -EINVAL);
    assert_int_equal(mesh_call_start(end->mesh, &foreign.call), 0);
    rig_poll_until(end, is_told, &told);
    assert_int_equal(told.end, CALL_END_FAILED);
    assert_int_equal(told.status, -EPROTO);
}

static void only_code_of_the_image_is_run_whoever_asks(void **state)
{
    (void)state;
    run_pair(refused_body);
}

/* ---- when the target dies ---- */

static void two_bodies(struct rig_end *end)
{
    struct told begun = {0}, waiting = {0};

    assert_int_equal(
        shard_bh_schedule(end->mesh,
            &(struct shard_bh){
                .target = 1, .fn = wait_to_be_killed, .done = on_told, .opaque = &begun}),
        0);
    assert_int_equal(add(end, 1, 7, &waiting), 0);
    rig_poll_until(end, is_told, &begun);
    assert_int_equal(begun.end, CALL_END_IN_DOUBT);
    rig_poll_until(end, is_told, &waiting);
    atomic_store(&board->words[WORD_RELEASED], (uint64_t)waiting.end);
    rig_serve(end);
    assert_int_equal(begun.n + waiting.n, 2);
}

static void one_that_was_begun_is_in_doubt_and_one_that_was_not_runs_in_the_replacement(
    void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &rig_nothing);
    board = rig.board;
    rig_fork(&rig, 1, rig_serve);
    rig_thread(&rig, 0, two_bodies);
    rig_wait_word(&rig, WORD_BEGUN, 1);
    assert_int_equal(atomic_load(&board->words[WORD_RUNS]), 0);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_RELEASED, CALL_END_DONE);
    assert_int_equal(atomic_load(&board->words[WORD_RELEASED]), CALL_END_DONE);
    assert_int_equal(atomic_load(&board->words[WORD_RUNS]), 1);
    assert_int_equal(atomic_load(&board->words[WORD_BEGUN]), 1);
    atomic_store(&rig.board->leave, 1);
    rig_join(&rig, 0);
    rig_join(&rig, 1);
    assert_true(rig_balances(&rig));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_runs_once_in_the_shard_it_is_for_with_its_arguments),
        cmocka_unit_test(more_than_there_are_slots_for_all_run),
        cmocka_unit_test(only_code_of_the_image_is_run_whoever_asks),
        cmocka_unit_test(
            one_that_was_begun_is_in_doubt_and_one_that_was_not_runs_in_the_replacement),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
