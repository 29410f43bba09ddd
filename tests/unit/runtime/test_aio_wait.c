/* SPDX-License-Identifier: MIT */
#include "runtime/aio_wait.h"

#include <pthread.h>

#include "tests/unit/runtime/loop_fixture.h"

#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/loop_thread.h"

#define N_ROUNDS 5000

static void condition_that_is_false_from_the_start_is_not_waited_for(void **state)
{
    struct loop *loop = *state;

    assert_false(AIO_WAIT_WHILE(loop->ctx, false));
    assert_int_equal(loop->ctx->instruments.counters->polls, 0);
    assert_int_equal(loop->ctx->n_waiters, 0);
}

/* ---- the kick ---- */

struct rounds {
    AioContext *waiter;
    int wanted; /* atomic: how far the waiter has come */
    int reached;
};

static void *reach_each(void *opaque)
{
    struct rounds *rounds = opaque;

    for (int i = 1; i <= N_ROUNDS; i++) {
        while (atomic_load_acquire(&rounds->wanted) < i)
            sched_yield();
        atomic_store_release(&rounds->reached, i);
        aio_wait_kick(rounds->waiter);
    }
    return NULL;
}

/* Either the waiter sees the condition, or the kick sees the waiter: without one of the two fences
 * a round hangs. */
static void no_kick_is_lost_however_it_meets_the_wait(void **state)
{
    struct loop *loop = *state;
    struct rounds rounds = {.waiter = loop->ctx};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, reach_each, &rounds), 0);
    for (int i = 1; i <= N_ROUNDS; i++) {
        atomic_store_release(&rounds.wanted, i);
        AIO_WAIT_WHILE(loop->ctx, atomic_load_acquire(&rounds.reached) < i);
    }
    pthread_join(thread, NULL);
    assert_int_equal(loop->ctx->n_waiters, 0);
}

static void kick_of_a_context_that_does_not_wait_rings_nobody(void **state)
{
    struct loop *loop = *state;
    AioContext *other = new_context(loop->engine);

    aio_wait_kick(other);
    assert_false(doorbell_is_rung(&other->bell));
    aio_wait_begin(loop->ctx);
    aio_wait_kick(loop->ctx);
    aio_wait_end(loop->ctx);
    assert_true(doorbell_is_rung(&loop->ctx->bell));
    aio_context_unref(other);
}

struct nested {
    AioContext *ctx;
    bool inner;
    bool outer;
};

static void end_inner(void *opaque)
{
    ((struct nested *)opaque)->inner = true;
}

static void end_outer_then_wait(void *opaque)
{
    struct nested *nested = opaque;

    atomic_store_release(&nested->outer, true);
    aio_wait_kick(nested->ctx);
    /* Takes the notification that was for the outer wait. */
    aio_bh_schedule_oneshot(nested->ctx, end_inner, nested);
    assert_true(AIO_WAIT_WHILE(nested->ctx, !nested->inner));
}

static void wait_within_a_wait_leaves_the_outer_ones_kick_its_effect(void **state)
{
    struct loop *loop = *state;
    struct nested nested = {.ctx = loop->ctx};

    aio_bh_schedule_oneshot(loop->ctx, end_outer_then_wait, &nested);
    assert_true(AIO_WAIT_WHILE(loop->ctx, !atomic_load_acquire(&nested.outer)));
    assert_true(nested.inner);
}

/* ---- errands ---- */

struct errand_report {
    AioContext *ran_in;
    int calls;
};

static void report(void *opaque)
{
    struct errand_report *r = opaque;

    r->ran_in = aio_context_current();
    r->calls++;
}

static void errand_has_run_in_the_other_loop_when_it_returns(void **state)
{
    struct loop_thread there;
    struct errand_report r = {.calls = 0};

    loop_thread_start(&there);
    for (int i = 1; i <= 200; i++) {
        assert_int_equal(aio_wait_bh_oneshot(there.ctx, report, &r), 0);
        assert_int_equal(r.calls, i);
        assert_ptr_equal(r.ran_in, there.ctx);
    }
    loop_thread_stop(&there);
}

static void errand_in_the_own_loop_is_run_by_it(void **state)
{
    struct loop *loop = *state;
    struct errand_report r = {.calls = 0};

    assert_int_equal(aio_wait_bh_oneshot(loop->ctx, report, &r), 0);
    assert_int_equal(r.calls, 1);
    assert_ptr_equal(r.ran_in, loop->ctx);
}

struct pair {
    AioContext *ctx;
    struct pair *other;
    int calls;
    bool done; /* atomic */
};

static void call_pair(void *opaque)
{
    ((struct pair *)opaque)->calls++;
}

static void run_errands(struct pair *self)
{
    for (int i = 0; i < N_ROUNDS / 10; i++)
        assert_int_equal(aio_wait_bh_oneshot(self->other->ctx, call_pair, self->other), 0);
    atomic_store_release(&self->done, true);
    aio_wait_kick(self->other->ctx);
    AIO_WAIT_WHILE(self->ctx, !atomic_load_acquire(&self->other->done));
}

static void *pair_thread(void *opaque)
{
    struct pair *self = opaque;

    aio_context_set_current(self->ctx);
    run_errands(self);
    aio_context_set_current(NULL);
    return NULL;
}

static void loops_that_wait_for_each_others_errands_both_get_on(void **state)
{
    struct loop *loop = *state;
    struct pair here = {.ctx = loop->ctx};
    struct pair there = {.ctx = aio_context_ref(new_context(loop->engine)), .other = &here};
    pthread_t thread;

    here.other = &there;
    assert_int_equal(pthread_create(&thread, NULL, pair_thread, &there), 0);
    run_errands(&here);
    pthread_join(thread, NULL);
    assert_int_equal(here.calls, N_ROUNDS / 10);
    assert_int_equal(there.calls, N_ROUNDS / 10);
    aio_context_unref(there.ctx);
    aio_context_unref(there.ctx);
}

static void *poll_once(void *opaque)
{
    aio_poll(opaque, false);
    return NULL;
}

static void wait_elsewhere_than_at_home(void)
{
    AioContext *ctx;
    pthread_t thread;

    if (aio_context_new(NULL, &ctx) < 0)
        return;
    pthread_create(&thread, NULL, poll_once, ctx);
    pthread_join(thread, NULL);
    AIO_WAIT_WHILE(ctx, true);
}

static void waiting_in_a_context_that_is_not_this_threads_aborts(void **state)
{
    assert_bug(wait_elsewhere_than_at_home, "home");
}

int main(void)
{
    static const struct CMUnitTest aio_wait[] = {
        LOOP_CASE(condition_that_is_false_from_the_start_is_not_waited_for),
        LOOP_CASE(no_kick_is_lost_however_it_meets_the_wait),
        LOOP_CASE(kick_of_a_context_that_does_not_wait_rings_nobody),
        LOOP_CASE(wait_within_a_wait_leaves_the_outer_ones_kick_its_effect),
        LOOP_CASE(errand_has_run_in_the_other_loop_when_it_returns),
        LOOP_CASE(errand_in_the_own_loop_is_run_by_it),
        LOOP_CASE(loops_that_wait_for_each_others_errands_both_get_on),
        LOOP_CASE(waiting_in_a_context_that_is_not_this_threads_aborts),
    };

    return LOOP_RUN(aio_wait);
}
