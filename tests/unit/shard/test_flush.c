/* SPDX-License-Identifier: MIT */
/*
 * Who is rung, when, and how often: once for each target and phase of the loop, and before any
 * sleep. One end, turned by the test itself; its targets are bitmaps and eventfds to look at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_SHARDS 3
#define MANY     50 /* fewer than there are slots */

struct alone {
    struct rig rig;
    struct rig_end end; /* shard 0 */
    struct mesh_call calls[8 * MANY];
    size_t n_calls;
    uint64_t rung[N_SHARDS]; /* as of the last look */
};

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    (void)answer;
}

static void call_many(struct alone *alone, uint32_t target)
{
    for (int i = 0; i < MANY; i++) {
        struct mesh_call *call = &alone->calls[alone->n_calls++];
        *call = (struct mesh_call){.target = target, .deadline_ns = INT64_MAX, .done = on_done};
        assert_int_equal(mesh_call_start(alone->end.mesh, call), 0);
    }
}

/* Flushes for target since the last look, and how many of them cost a system call. */
static uint64_t rings(struct alone *alone, uint32_t target)
{
    const struct pair_stats *stats = segment_pair(&alone->rig.seg, 0, target);
    uint64_t all = stats->rings_sent + stats->rings_saved;
    uint64_t since = all - alone->rung[target];

    alone->rung[target] = all;
    return since;
}

static uint64_t writes_to_eventfd(const struct alone *alone, uint32_t target)
{
    eventfd_t n;

    return eventfd_read(alone->rig.bells[target], &n) == 0 ? n : 0;
}

static bool bit_is_set(const struct alone *alone, uint32_t target)
{
    return atomic_load_acquire(&segment_bitmap(&alone->rig.seg, target)->senders[0]) & 1;
}

static void alone_open(struct alone *alone)
{
    rig_open(&alone->rig, N_SHARDS, &rig_nothing);
    alone->n_calls = 0;
    rig_begin(&alone->rig, 0, &alone->end);
    aio_context_set_current(alone->end.ctx);
    while (aio_poll(alone->end.ctx, false))
        ;
    for (uint32_t target = 0; target < N_SHARDS; target++)
        alone->rung[target] = 0;
    for (uint32_t target = 1; target < N_SHARDS; target++)
        rings(alone, target);
}

/* The calls are never answered: the mesh is left as by a process that exits. */
static void alone_close(struct alone *alone)
{
    for (size_t i = 0; i < alone->n_calls; i++)
        mesh_call_cancel(alone->end.mesh, &alone->calls[i]);
    while (aio_poll(alone->end.ctx, false))
        ;
    aio_context_set_current(NULL);
    rig_finish(&alone->end);
    rig_close(&alone->rig);
    free(alone);
}

/* ---- cases ---- */

static void many_messages_of_a_phase_ring_each_target_once(void **state)
{
    struct alone *alone = malloc(sizeof(*alone));

    (void)state;
    alone_open(alone);
    call_many(alone, 1);
    call_many(alone, 2);
    call_many(alone, 1);
    assert_int_equal(rings(alone, 1), 0);
    aio_poll(alone->end.ctx, false);
    assert_int_equal(rings(alone, 1), 1);
    assert_int_equal(rings(alone, 2), 1);
    assert_true(bit_is_set(alone, 1) && bit_is_set(alone, 2));
    aio_poll(alone->end.ctx, false);
    assert_int_equal(rings(alone, 1) + rings(alone, 2), 0);
    alone_close(alone);
}

static void a_sleeper_costs_one_system_call_and_one_that_is_awake_none(void **state)
{
    struct alone *alone = malloc(sizeof(*alone));

    (void)state;
    alone_open(alone);
    struct doorbell bell = {&segment_bell(&alone->rig.seg, 1)->words, alone->rig.bells[1]};

    assert_true(doorbell_prepare_sleep(&bell));
    call_many(alone, 1);
    call_many(alone, 2);
    aio_poll(alone->end.ctx, false);
    assert_int_equal(writes_to_eventfd(alone, 1), 1);
    assert_int_equal(writes_to_eventfd(alone, 2), 0);
    assert_int_equal(segment_pair(&alone->rig.seg, 0, 1)->rings_sent, 1);
    assert_int_equal(segment_pair(&alone->rig.seg, 0, 2)->rings_sent, 0);
    doorbell_end_sleep(&bell);
    alone_close(alone);
}

/* A bottom half and a timer of one turn are two phases. */
static void on_phase(void *opaque)
{
    call_many(opaque, 1);
}

static void each_phase_of_a_turn_rings_for_itself(void **state)
{
    struct alone *alone = malloc(sizeof(*alone));
    AioTimer timer;

    (void)state;
    alone_open(alone);
    aio_timer_init(alone->end.ctx, &timer, on_phase, alone);
    timer_mod_ns(&timer, aio_clock_ns() - 1);
    assert_int_equal(aio_bh_schedule_oneshot(alone->end.ctx, on_phase, alone), 0);
    aio_poll(alone->end.ctx, false);
    timer_del(&timer);
    assert_int_equal(alone->n_calls, 2 * MANY);
    assert_int_equal(rings(alone, 1), 2);
    alone_close(alone);
}

static void turn_within_a_phase(void *opaque)
{
    struct alone *alone = opaque;

    call_many(alone, 1);
    assert_false(bit_is_set(alone, 1));
    aio_poll(alone->end.ctx, false);
    assert_true(bit_is_set(alone, 1));
    assert_int_equal(rings(alone, 1), 1);
    call_many(alone, 1);
}

static void a_nested_turn_rings_before_it_waits(void **state)
{
    struct alone *alone = malloc(sizeof(*alone));

    (void)state;
    alone_open(alone);
    assert_int_equal(aio_bh_schedule_oneshot(alone->end.ctx, turn_within_a_phase, alone), 0);
    aio_poll(alone->end.ctx, false);
    assert_int_equal(alone->n_calls, 2 * MANY);
    assert_int_equal(rings(alone, 1), 1); /* what was pushed behind the nested turn */
    alone_close(alone);
}

/* A turn that may block flushes first: the timer that ends its sleep finds the target rung. */
static void look_at_bit(void *opaque)
{
    struct alone *alone = opaque;

    assert_true(bit_is_set(alone, 1));
    assert_int_equal(rings(alone, 1), 1);
}

static void what_was_pushed_is_rung_before_the_loop_sleeps(void **state)
{
    struct alone *alone = malloc(sizeof(*alone));
    AioTimer timer;

    (void)state;
    alone_open(alone);
    aio_timer_init(alone->end.ctx, &timer, look_at_bit, alone);
    timer_mod_ns(&timer, aio_clock_ns() + 200000000); /* not due before it sleeps */
    call_many(alone, 1);
    while (alone->rung[1] == 0)
        aio_poll(alone->end.ctx, true);
    timer_del(&timer);
    alone_close(alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_messages_of_a_phase_ring_each_target_once),
        cmocka_unit_test(a_sleeper_costs_one_system_call_and_one_that_is_awake_none),
        cmocka_unit_test(each_phase_of_a_turn_rings_for_itself),
        cmocka_unit_test(a_nested_turn_rings_before_it_waits),
        cmocka_unit_test(what_was_pushed_is_rung_before_the_loop_sleeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
