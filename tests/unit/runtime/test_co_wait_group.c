/* SPDX-License-Identifier: MIT */
/*
 * CoWaitGroup: when waiting ends, and that the group is then free.
 */
#include "tests/unit/runtime/co_actor.h"

#include <errno.h>

#include "runtime/co_wait_group.h"

static CoWaitGroup group;

static int coroutine_fn wait_for_group(struct actor *actor)
{
    return co_wait_group_wait(&group);
}

static void all_who_wait_go_on_when_the_last_is_done(void **state)
{
    struct actor a[2];

    co_wait_group_init(&group);
    actors_start(a, 2);
    actor_do(&a[0], wait_for_group);
    assert_false(a[0].is_busy); /* there is nothing to wait for */
    co_wait_group_add(&group, 2);
    actor_do(&a[0], wait_for_group);
    actor_do(&a[1], wait_for_group);
    co_wait_group_done(&group);
    settle();
    assert_true(a[0].is_busy && a[1].is_busy);
    co_wait_group_done(&group);
    settle();
    assert_false(a[0].is_busy || a[1].is_busy);
    actors_stop(a, 2);
    co_wait_group_deinit(&group);
}

static void one_that_gives_up_does_not_change_the_group(void **state)
{
    struct actor a;

    co_wait_group_init(&group);
    actor_start(&a);
    co_wait_group_add(&group, 1);
    actor_do(&a, wait_for_group);
    actor_cancel(&a);
    assert_int_equal(a.result, -ECANCELED);
    actor_do(&a, wait_for_group);
    assert_true(a.is_busy);
    co_wait_group_done(&group);
    settle();
    assert_int_equal(a.result, 0);
    actor_stop(&a);
    co_wait_group_deinit(&group);
}

/* A group on the stack of who waits, whose memory is used otherwise at once. */
struct round {
    CoWaitGroup group;
    int n_done;
};

static void *do_one(void *opaque)
{
    struct round *round = opaque;

    atomic_add_seq(&round->n_done, 1);
    co_wait_group_done(&round->group);
    return NULL;
}

static void one_done_callback(void *opaque)
{
    do_one(opaque);
}

static void coroutine_fn wait_for_rounds(void *opaque)
{
    AioContext *other = opaque;

    for (int i = 0; i < 300; i++) {
        struct round round = {.n_done = 0};

        co_wait_group_init(&round.group);
        co_wait_group_add(&round.group, 2);
        assert_int_equal(aio_bh_schedule_oneshot(other, one_done_callback, &round), 0);
        assert_int_equal(aio_bh_schedule_oneshot(ctx, one_done_callback, &round), 0);
        if (i % 2)
            co_sleep_ns(0);
        assert_int_equal(co_wait_group_wait(&round.group), 0);
        assert_int_equal(atomic_load_acquire(&round.n_done), 2);
        co_wait_group_deinit(&round.group);
        memset(&round, 0xff, sizeof round);
    }
    thread_done();
}

static void after_the_wait_nobody_touches_the_group(void **state)
{
    struct loop_thread other;

    n_ended = 0;
    loop_thread_start(&other);
    start(wait_for_rounds, other.ctx);
    assert_true(poll_until(ctx, &n_ended, 1));
    loop_thread_stop(&other);
}

static void be_done_too_often(void)
{
    co_wait_group_init(&group);
    co_wait_group_done(&group);
}

static void being_done_too_often_aborts(void **state)
{
    assert_bug(be_done_too_often, "a CoWaitGroup is done more often than was added");
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(all_who_wait_go_on_when_the_last_is_done),
        CASE(one_that_gives_up_does_not_change_the_group),
        CASE(after_the_wait_nobody_touches_the_group),
        CASE(being_done_too_often_aborts),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
