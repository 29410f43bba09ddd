/* SPDX-License-Identifier: MIT */
/*
 * Sleeping: by time, by a wake, by a cancel, on the clocks there are.
 */
#include "tests/unit/runtime/co_actor.h"

#include <errno.h>

#include "runtime/co_sleep.h"

#define MS     1000000LL
#define FAR_NS (600 * 1000 * MS)

static CoSleep sleeping;

static int coroutine_fn sleep_far(struct actor *actor)
{
    return co_sleep_ns_wakeable(&sleeping, AIO_CLOCK_MONOTONIC, FAR_NS);
}

static int coroutine_fn sleep_until_woken(struct actor *actor)
{
    return co_sleep(&sleeping);
}

static int coroutine_fn sleep_virtually(struct actor *actor)
{
    return co_sleep_ns_wakeable(&sleeping, AIO_CLOCK_VIRTUAL, (int64_t)actor->arg);
}

static int coroutine_fn sleep_unwakeable(struct actor *actor)
{
    return co_sleep_ns(FAR_NS);
}

static void a_wake_ends_a_sleep(void **state)
{
    struct actor a;

    co_sleep_init(&sleeping);
    actor_start(&a);
    actor_do(&a, sleep_far);
    assert_true(a.is_busy);
    co_sleep_wake(&sleeping);
    assert_true(a.is_busy); /* from outside it is scheduled */
    settle();
    assert_false(a.is_busy);
    assert_int_equal(a.result, 1);

    actor_do(&a, sleep_until_woken);
    co_sleep_wake(&sleeping);
    co_sleep_wake(&sleeping); /* nobody sleeps any more */
    settle();
    assert_int_equal(a.result, 1);
    actor_stop(&a);
    co_sleep_deinit(&sleeping);
}

static void time_ends_a_sleep_and_a_wake_for_nobody_is_not_kept(void **state)
{
    struct actor a = {.arg = 100};

    co_sleep_init(&sleeping);
    actor_start(&a);
    co_sleep_wake(&sleeping);
    actor_do(&a, sleep_virtually);
    aio_virtual_clock_advance_ns(ctx, 99);
    settle();
    assert_true(a.is_busy);
    aio_virtual_clock_advance_ns(ctx, 1);
    settle();
    assert_false(a.is_busy);
    assert_int_equal(a.result, 0);
    actor_stop(&a);
    co_sleep_deinit(&sleeping);
}

static void a_cancel_ends_a_sleep(void **state)
{
    ActorFunc *const calls[] = {sleep_far, sleep_until_woken, sleep_unwakeable};
    struct actor a;

    co_sleep_init(&sleeping);
    actor_start(&a);
    for (int i = 0; i < 3; i++) {
        actor_do(&a, calls[i]);
        assert_true(a.is_busy);
        actor_cancel(&a);
        assert_false(a.is_busy);
        assert_int_equal(a.result, -ECANCELED);
    }
    actor_do(&a, sleep_far);
    co_cancel(&a.token);
    co_sleep_wake(&sleeping); /* before the cancel has come to it */
    settle();
    assert_int_equal(a.result, 1);
    actor_do(&a, sleep_far);
    assert_int_equal(a.result, -ECANCELED); /* the token is still cancelled: it does not begin */
    actor_stop(&a);
    co_sleep_deinit(&sleeping);
}

/* ---- a CoSleep used again before its woken sleeper runs ---- */

static struct actor again[2];

static void wake_one_and_let_the_next_sleep(void *opaque)
{
    co_sleep_wake(&sleeping);
    again[1].call = sleep_virtually;
    again[1].is_busy = true;
    coroutine_enter(again[1].co);
}

static void what_would_have_ended_a_sleep_does_not_end_the_next_one(void **state)
{
    AioTimer before;

    co_sleep_init(&sleeping);
    actors_start(again, 2);
    again[0].arg = 100;
    again[1].arg = 1000;
    aio_timer_init_full(
        ctx, &before, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, wake_one_and_let_the_next_sleep, NULL);
    timer_mod_ns(&before, 99);
    actor_do(&again[0], sleep_virtually);
    aio_virtual_clock_advance_ns(ctx, 100); /* both timers, in one turn */
    settle();
    assert_false(again[0].is_busy);
    assert_int_equal(again[0].result, 1);
    assert_true(again[1].is_busy);
    aio_virtual_clock_advance_ns(ctx, 1000);
    settle();
    assert_int_equal(again[1].result, 0);

    actor_do(&again[0], sleep_until_woken);
    co_cancel(&again[0].token);
    wake_one_and_let_the_next_sleep(NULL);
    settle();
    assert_int_equal(again[0].result, 1);
    assert_true(again[1].is_busy);
    co_sleep_wake(&sleeping);
    settle();
    assert_int_equal(again[1].result, 1);
    actors_stop(again, 2);
    co_sleep_deinit(&sleeping);
}

/* ---- several threads ---- */

static int n_slept;
static int n_woken;
static int n_timed_out;

static void coroutine_fn sleep_again_and_again(void *opaque)
{
    struct chance chance = {.state = 1};

    for (int i = 0; i < 300; i++) {
        CoScope scope;
        int64_t time_ns = (int64_t)chance_below(&chance, 60000);
        int64_t limit_ns = aio_clock_ns() + (int64_t)chance_below(&chance, 60000);

        co_scope_begin(&scope, NULL, limit_ns);
        int r = co_sleep_ns_wakeable(&sleeping, AIO_CLOCK_MONOTONIC, time_ns);
        co_scope_end(&scope);
        n_slept += r == 0;
        n_woken += r == 1;
        n_timed_out += r == -ETIMEDOUT;
    }
    thread_done();
}

static void *wake_again_and_again(void *opaque)
{
    while (atomic_load_acquire(&n_ended) == 0) {
        co_sleep_wake(&sleeping);
        sched_yield();
    }
    return NULL;
}

static void wakes_of_another_thread_times_and_scopes_end_each_sleep_once(void **state)
{
    pthread_t thread;

    n_ended = n_slept = n_woken = n_timed_out = 0;
    co_sleep_init(&sleeping);
    assert_int_equal(pthread_create(&thread, NULL, wake_again_and_again, NULL), 0);
    start(sleep_again_and_again, NULL);
    assert_true(poll_until(ctx, &n_ended, 1));
    pthread_join(thread, NULL);
    assert_int_equal(n_slept + n_woken + n_timed_out, 300);
    co_sleep_deinit(&sleeping);
}

/* ---- broken contracts ---- */

static void wake_a_sleeper_otherwise(void)
{
    struct actor a;

    actor_start(&a);
    actor_do(&a, sleep_far);
    aio_co_wake(a.co);
}

static void sleep_two_in_one(void)
{
    struct actor a[2];

    actors_start(a, 2);
    actor_do(&a[0], sleep_far);
    actor_do(&a[1], sleep_far);
}

static void sleep_outside(void)
{
    co_sleep_ns(1);
}

static void coroutine_fn sleep_by_a_clock(void *opaque)
{
    co_sleep_ns_wakeable(&sleeping, AIO_CLOCK_VIRTUAL, 1);
}

static void sleep_without_a_context(void)
{
    aio_context_set_current(NULL);
    start(sleep_by_a_clock, NULL);
}

static void mistakes_with_sleep_abort(void **state)
{
    co_sleep_init(&sleeping);
    assert_bug(wake_a_sleeper_otherwise, "is scheduled by co_sleep_ns_wakeable");
    assert_bug(sleep_two_in_one, "coroutine test in the CoSleep of test");
    assert_bug(sleep_outside, "co_sleep_ns outside a coroutine of a context");
    assert_bug(sleep_without_a_context, "co_sleep_ns_wakeable outside a coroutine of a context");
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(a_wake_ends_a_sleep),
        CASE(time_ends_a_sleep_and_a_wake_for_nobody_is_not_kept),
        CASE(a_cancel_ends_a_sleep),
        CASE(what_would_have_ended_a_sleep_does_not_end_the_next_one),
        CASE(wakes_of_another_thread_times_and_scopes_end_each_sleep_once),
        CASE(mistakes_with_sleep_abort),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
