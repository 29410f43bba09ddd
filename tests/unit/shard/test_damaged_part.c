/* SPDX-License-Identifier: MIT */
/*
 * One that dies has damaged its own part before, by a stray pointer. What its peers have asked of
 * its replacement ends, and what the replacement asks of them. Peer 0 calls, peer 1 serves.
 */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/ring.h"
#include "shard/arena.h"
#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

enum { WORD_STARTED, WORD_DONE, WORD_ENDED };

#define N_CALLS 3

static struct rig rig;

static int setup(void **state)
{
    (void)state;
    rig_open(&rig, 2, &rig_nothing);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    if (answer->end == CALL_END_DONE)
        atomic_fetch_add(&rig.board->words[WORD_DONE], 1);
    atomic_fetch_add(&rig.board->words[WORD_ENDED], 1);
}

static void calling_body(struct rig_end *end)
{
    struct mesh_call *calls = calloc(N_CALLS, sizeof(*calls));

    for (uint32_t i = 0; i < N_CALLS; i++) {
        calls[i] = (struct mesh_call){.target = 1, .deadline_ns = INT64_MAX, .done = on_done};
        assert_int_equal(mesh_call_start(end->mesh, &calls[i]), 0);
    }
    aio_poll(end->ctx, false);
    atomic_store(&rig.board->words[WORD_STARTED], 1);
    rig_serve(end);
}

/* The callee, whose part is damaged, has died with the calls before it: they are published, and it
 * has begun none. */
static void leave_calls_to_the_dead(void)
{
    rig_fork(&rig, 0, calling_body);
    rig_wait_word(&rig, WORD_STARTED, 1);
}

static void replace_callee(void)
{
    mesh_mend_started(&rig.seg, 1);
    rig_bury(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_ENDED, N_CALLS);
    assert_int_equal(atomic_load(&rig.board->words[WORD_DONE]), N_CALLS);
}

static void calls_that_one_to_come_is_said_to_have_begun_are_run(void **state)
{
    (void)state;
    leave_calls_to_the_dead();
    for (uint32_t slot = 0; slot < segment_call_slots(&rig.seg, 0, 1); slot++) {
        uint64_t word = segment_call(&rig.seg, 0, 1, slot)->word;
        segment_serve(&rig.seg, 1, 0, slot)->started = started_word(word_generation(word), 99);
    }
    replace_callee();
}

static void calls_that_are_said_to_be_past_are_run(void **state)
{
    (void)state;
    leave_calls_to_the_dead();
    for (uint32_t slot = 0; slot < segment_call_slots(&rig.seg, 0, 1); slot++) {
        uint64_t word = segment_call(&rig.seg, 0, 1, slot)->word;
        segment_serve(&rig.seg, 1, 0, slot)->started = started_word(word_generation(word) + 1, 1);
    }
    replace_callee();
}

static void calls_whose_messages_are_said_to_be_read_are_run(void **state)
{
    (void)state;
    leave_calls_to_the_dead();
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        *segment_head(&rig.seg, 0, 1, lane) = *segment_tail(&rig.seg, 0, 1, lane);
    replace_callee();
}

static void calls_are_run_whatever_the_head_says(void **state)
{
    (void)state;
    leave_calls_to_the_dead();
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        *segment_head(&rig.seg, 0, 1, lane) = UINT64_C(1) << 63;
    replace_callee();
}

/* ---- the caller's ---- */

static void begin_caller_and_callee(void)
{
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, calling_body);
    rig_wait_word(&rig, WORD_DONE, N_CALLS);
}

static void replace_caller(void)
{
    rig_bury(&rig, 0, false);
    rig_fork(&rig, 0, calling_body);
    rig_wait_word(&rig, WORD_DONE, 2 * N_CALLS);
}

static void kill_caller(void)
{
    kill(rig.ends[0].pid, SIGKILL);
    rig_join(&rig, 0);
}

static void calls_of_one_whose_slots_were_set_back_are_run(void **state)
{
    (void)state;
    begin_caller_and_callee();
    kill_caller();
    for (uint32_t slot = 0; slot < segment_call_slots(&rig.seg, 0, 1); slot++)
        segment_call(&rig.seg, 0, 1, slot)->word = call_word(0, CALL_FREE);
    replace_caller();
}

static void calls_of_one_whose_ring_is_garbage_are_run(void **state)
{
    (void)state;
    begin_caller_and_callee();
    kill_caller();
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++) {
        *segment_tail(&rig.seg, 0, 1, lane) = 12345;
        for (uint32_t slot = 0; slot < segment_ring_slots(&rig.seg, 0, 1, lane); slot++)
            segment_ring(&rig.seg, 0, 1, lane)[slot].seq = slot * UINT64_C(0x9e3779b97f4a7c15);
    }
    replace_caller();
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(calls_that_one_to_come_is_said_to_have_begun_are_run),
        CASE(calls_that_are_said_to_be_past_are_run),
        CASE(calls_whose_messages_are_said_to_be_read_are_run),
        CASE(calls_are_run_whatever_the_head_says),
        CASE(calls_of_one_whose_slots_were_set_back_are_run),
        CASE(calls_of_one_whose_ring_is_garbage_are_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
