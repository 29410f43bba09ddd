/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/pace.h"
#include "shard/serve.h"
#include "tests/unit/shard/mesh_rig.h"

#define MS INT64_C(1000000)

enum method { SLOW, QUICK, N_METHODS };

static int setup(void **state)
{
    static struct pace pace;

    *state = &pace;
    return pace_init(&pace, N_METHODS);
}

static int teardown(void **state)
{
    pace_deinit(*state);
    return 0;
}

static int64_t in_ms(int64_t ms)
{
    return aio_clock_ns() + ms * MS;
}

/* One call was found too late. */
static void fall_behind(struct pace *pace)
{
    assert_true(pace_is_late(pace, QUICK, aio_clock_ns()));
}

/* As if SLOW had held the loop so long, often. */
static void run_slow(struct pace *pace, int64_t ms)
{
    for (int i = 0; i < 100; i++)
        pace_end(pace, SLOW, aio_clock_ns() - ms * MS, INT64_MAX);
}

static void one_without_a_deadline_is_never_late(void **state)
{
    fall_behind(*state);
    run_slow(*state, 100);
    assert_false(pace_is_late(*state, SLOW, INT64_MAX));
}

static void one_whose_deadline_has_passed_is_late(void **state)
{
    assert_true(pace_is_late(*state, SLOW, aio_clock_ns() - 1));
    assert_false(pace_is_late(*state, SLOW, in_ms(1000)));
}

static void while_nobody_was_late_nothing_is_measured_and_each_has_its_chance(void **state)
{
    assert_int_equal(pace_begin(*state), 0);
    pace_end(*state, SLOW, 0, 1);
    run_slow(*state, 1000);
    assert_false(pace_is_late(*state, SLOW, in_ms(100)));
}

static void in_a_shard_that_is_behind_one_that_would_end_too_late_is_late(void **state)
{
    fall_behind(*state);
    assert_int_not_equal(pace_begin(*state), 0);
    run_slow(*state, 100);
    assert_true(pace_is_late(*state, SLOW, in_ms(80)));
    assert_false(pace_is_late(*state, SLOW, in_ms(1000)));
    assert_false(pace_is_late(*state, QUICK, in_ms(150)));
}

static void each_that_was_begun_in_vain_makes_the_next_have_more_time_left(void **state)
{
    struct pace *pace = *state;

    fall_behind(pace);
    run_slow(pace, 10);
    assert_false(pace_is_late(pace, SLOW, in_ms(50)));
    for (int i = 0; i < 10; i++)
        pace_end(pace, SLOW, aio_clock_ns() - 10 * MS, aio_clock_ns() - 1);
    assert_true(pace_is_late(pace, SLOW, in_ms(50)));
    for (int i = 0; i < 1000; i++)
        pace_end(pace, SLOW, aio_clock_ns() - 10 * MS, in_ms(1000));
    assert_false(pace_is_late(pace, SLOW, in_ms(50)));
}

static void one_that_was_slow_once_is_tried_again(void **state)
{
    int n = 0;

    fall_behind(*state);
    run_slow(*state, 1000);
    while (pace_is_late(*state, SLOW, in_ms(500)))
        assert_true(++n < 100);
    assert_true(n > 0);
}

static void who_is_no_longer_behind_gives_each_its_chance_again(void **state)
{
    struct pace *pace = *state;

    fall_behind(pace);
    run_slow(pace, 1000);
    pace->late_ns -= PACE_BEHIND_NS;
    assert_false(pace_is_late(pace, SLOW, in_ms(100)));
    assert_int_equal(pace_begin(pace), 0);
}

static void methods_that_are_none_are_left_alone(void **state)
{
    fall_behind(*state);
    pace_end(*state, N_METHODS, aio_clock_ns() - MS, INT64_MAX);
    assert_false(pace_is_late(*state, N_METHODS, in_ms(1)));
}

/* ---- in the mesh ---- */

#define N_CALLS 8u

static unsigned n_runs, n_ended, n_expired;

static int coroutine_fn run_hog(struct service_call *call)
{
    int64_t until_ns = aio_clock_ns() + 30 * MS;

    (void)call;
    n_runs++;
    while (aio_clock_ns() < until_ns)
        ;
    return 0;
}

static const struct service_method methods[] = {{"hog", run_hog, SERVICE_IDEMPOTENT, "computes"}};
static const struct service hogs = {
    .abi = SERVICE_ABI, .name = "test", .help = "for tests", .methods = methods, .n_methods = 1};

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    n_ended++;
    n_expired += answer->end == CALL_END_EXPIRED;
}

static void turn(struct rig_end *end)
{
    aio_context_set_current(end->ctx);
    while (aio_poll(end->ctx, false))
        ;
    aio_context_set_current(NULL);
}

static void open_two(struct rig *rig, struct rig_end ends[2])
{
    n_runs = n_ended = n_expired = 0;
    rig_open(rig, 2, &hogs);
    for (uint32_t peer = 0; peer < 2; peer++) {
        rig_begin(rig, peer, &ends[peer]);
        turn(&ends[peer]);
    }
}

static void close_two(struct rig *rig, struct rig_end ends[2])
{
    for (uint32_t peer = 0; peer < 2; peer++)
        rig_finish(&ends[peer]);
    rig_close(rig);
}

/* All of them come in one batch, and have 20 ms. */
static void calls_that_became_late_while_others_of_their_batch_ran_are_not_begun(void **state)
{
    struct rig rig;
    struct rig_end ends[2];
    struct mesh_call calls[N_CALLS];

    (void)state;
    open_two(&rig, ends);
    for (uint32_t i = 0; i < N_CALLS; i++) {
        calls[i] = (struct mesh_call){.target = 1, .deadline_ns = in_ms(20), .done = on_done};
        assert_int_equal(mesh_call_start(ends[0].mesh, &calls[i]), 0);
    }
    while (n_ended < N_CALLS) {
        turn(&ends[0]);
        turn(&ends[1]);
    }
    assert_in_range(n_runs, 0, 1); /* 0: this test stood still for 20 ms */
    assert_true(n_expired >= N_CALLS - 1);
    close_two(&rig, ends);
}

/* Its method is known to take an hour, and there is a minute. */
static void a_call_that_would_end_too_late_is_not_begun(void **state)
{
    const int64_t hour_ns = 3600 * 1000 * MS;
    struct rig rig;
    struct rig_end ends[2];
    struct mesh_call call;

    (void)state;
    open_two(&rig, ends);
    serve_pace(ends[1].mesh)->held_ns[0] = hour_ns;
    serve_pace(ends[1].mesh)->late_ns = aio_clock_ns() + hour_ns; /* behind, and so it stays */
    call = (struct mesh_call){.target = 1, .deadline_ns = in_ms(60 * 1000), .done = on_done};
    assert_int_equal(mesh_call_start(ends[0].mesh, &call), 0);
    while (n_ended == 0) {
        turn(&ends[0]);
        turn(&ends[1]);
    }
    assert_int_equal(n_runs, 0);
    assert_int_equal(n_expired, 1);
    close_two(&rig, ends);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(one_without_a_deadline_is_never_late),
        CASE(one_whose_deadline_has_passed_is_late),
        CASE(while_nobody_was_late_nothing_is_measured_and_each_has_its_chance),
        CASE(in_a_shard_that_is_behind_one_that_would_end_too_late_is_late),
        CASE(each_that_was_begun_in_vain_makes_the_next_have_more_time_left),
        CASE(one_that_was_slow_once_is_tried_again),
        CASE(who_is_no_longer_behind_gives_each_its_chance_again),
        CASE(methods_that_are_none_are_left_alone),
        cmocka_unit_test(calls_that_became_late_while_others_of_their_batch_ran_are_not_begun),
        cmocka_unit_test(a_call_that_would_end_too_late_is_not_begun),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
