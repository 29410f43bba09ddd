/* SPDX-License-Identifier: MIT */
/*
 * Coroutines in one context and between contexts: order of running, waking, moving, and the
 * mistakes that must abort.
 */
#include "tests/unit/runtime/case_context.h"
#include "tests/unit/runtime/death.h"

#include <errno.h>
#include <execinfo.h>
#include <fenv.h>

#include "runtime/atomic.h"
#include "runtime/coroutine_sanitize.h"

/* ---- what was run, in order ---- */

static char trace[256];

static void note(char c)
{
    size_t n = strlen(trace);

    assert_true(n + 1 < sizeof trace);
    trace[n] = c;
    trace[n + 1] = '\0';
}

static void assert_trace(const char *expected)
{
    assert_string_equal(trace, expected);
    trace[0] = '\0';
}

/* ---- enter and yield ---- */

static void coroutine_fn a_then_b(void *opaque)
{
    note('a');
    coroutine_yield();
    note('b');
}

static void enter_goes_on_after_the_yield(void **state)
{
    Coroutine *co = start(a_then_b, NULL);

    note('1');
    coroutine_enter(co);
    note('2');
    assert_trace("a1b2");
}

static void coroutine_fn check_self(void *opaque)
{
    Coroutine **co = opaque;

    assert_ptr_equal(coroutine_self(), *co);
    assert_true(in_coroutine());
    assert_true(coroutine_entered(*co));
    coroutine_yield();
    assert_ptr_equal(coroutine_self(), *co);
}

static void self_is_the_running_one_and_nobody_outside(void **state)
{
    Coroutine *co = coroutine_create(check_self, &co);

    assert_null(coroutine_self());
    coroutine_enter(co);
    assert_null(coroutine_self());
    assert_false(in_coroutine());
    assert_false(coroutine_entered(co));
    coroutine_enter(co);
}

static void coroutine_fn enters_another(void *opaque)
{
    Coroutine *inner = opaque;
    Coroutine *self = coroutine_self();

    coroutine_enter(inner);
    assert_ptr_equal(coroutine_self(), self);
    note('o');
    coroutine_enter(inner);
}

static void coroutine_fn looks_at_outer(void *opaque)
{
    Coroutine **outer = opaque;

    assert_true(coroutine_entered(*outer));
    assert_ptr_not_equal(coroutine_self(), *outer);
    note('i');
    coroutine_yield();
    note('j');
}

static void who_enters_another_stays_entered(void **state)
{
    Coroutine *outer;
    Coroutine *inner = coroutine_create(looks_at_outer, &outer);

    outer = coroutine_create(enters_another, inner);
    coroutine_enter(outer);
    assert_trace("ioj");
}

#define DEPTH 2000

static void coroutine_fn nest(void *opaque)
{
    int *depth = opaque;
    volatile char frame[200];

    frame[0] = (char)*depth;
    if (++*depth < DEPTH)
        start(nest, depth);
    assert_int_equal(frame[0], frame[0]);
    --*depth;
}

static void two_thousand_nest(void **state)
{
    int depth = 0;

    start(nest, &depth);
    assert_int_equal(depth, 0);
}

static void coroutine_fn keeps_rounding(void *opaque)
{
    fesetround(FE_UPWARD);
    coroutine_yield();
    assert_int_equal(fegetround(), FE_UPWARD);
    fesetround(FE_TOWARDZERO);
}

static void rounding_mode_is_the_coroutines_own(void **state)
{
    volatile double ten = 10; /* the nearest to 1/10 is above it */
    Coroutine *co = start(keeps_rounding, NULL);

    assert_int_equal(fegetround(), FE_TONEAREST);
    feraiseexcept(FE_INEXACT); /* a sticky flag that differs is no reason to load anything */
    fesetround(FE_DOWNWARD);
    coroutine_enter(co);
    assert_int_equal(fegetround(), FE_DOWNWARD);
    volatile double down = 1 / ten;
    assert_true(down < 0.1);
    fesetround(FE_TONEAREST);
}

static void coroutine_fn walk_stack(void *opaque)
{
    void *frames[64];

    *(int *)opaque = backtrace(frames, 64);
}

static void a_backtrace_ends_at_the_first_function(void **state)
{
    int n_frames = 0;

    start(walk_stack, &n_frames);
    assert_in_range(n_frames, 1, 8);
}

/* ---- waking ---- */

static Coroutine *others[3];

static void coroutine_fn note_name(void *opaque)
{
    note(*(char *)opaque);
}

static void coroutine_fn wakes_two(void *opaque)
{
    char *names = opaque;

    note(names[0]);
    for (int i = 1; i <= 2; i++)
        if (names[i] != '.')
            aio_co_enter(ctx, coroutine_create(note_name, &names[i]));
    note('.');
    coroutine_yield();
    note(names[0]);
}

static void who_is_woken_runs_after_the_waker_yields_in_order(void **state)
{
    Coroutine *co = start(wakes_two, "axy");

    assert_trace("a.xy");
    coroutine_enter(co);
    assert_trace("a");
}

static void coroutine_fn wakes_two_wakers(void *opaque)
{
    aio_co_enter(ctx, others[0] = coroutine_create(wakes_two, "bpq"));
    aio_co_enter(ctx, others[1] = coroutine_create(wakes_two, "crs"));
    note('a');
}

static void new_wakes_run_before_older_ones(void **state)
{
    start(wakes_two_wakers, NULL);
    assert_trace("ab.pqc.rs");
    coroutine_enter(others[0]);
    coroutine_enter(others[1]);
    assert_trace("bc");
}

#ifdef CO_WITH_TSAN /* to which each is a thread */
#define CHAIN 2000
#else
#define CHAIN 25000
#endif

static void coroutine_fn wake_next_of_chain(void *opaque)
{
    int *n = opaque;

    if (++*n < CHAIN)
        aio_co_enter(ctx, coroutine_create(wake_next_of_chain, n));
}

static void *run_chain(void *opaque)
{
    aio_context_set_current(ctx);
    start(wake_next_of_chain, opaque);
    aio_context_set_current(NULL);
    return NULL;
}

/* 64 KiB, or the least that this machine allows (128 KiB on aarch64). */
static size_t small_stack_bytes(void)
{
    long least = sysconf(_SC_THREAD_STACK_MIN);

    return least > 64 * 1024 ? (size_t)least : 64 * 1024;
}

static void a_chain_of_wakes_takes_no_stack(void **state)
{
    pthread_attr_t attr;
    pthread_t thread;
    int n = 0;

    aio_context_set_current(NULL);
    pthread_attr_init(&attr);
    /* A frame for each link would need many times as much. */
    assert_int_equal(pthread_attr_setstacksize(&attr, small_stack_bytes()), 0);
    assert_int_equal(pthread_create(&thread, &attr, run_chain, &n), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
    assert_int_equal(n, CHAIN);
}

static void scheduled_ones_run_first_come_first_served(void **state)
{
    for (int i = 0; i < 3; i++)
        aio_co_schedule(ctx, coroutine_create(note_name, &"xyz"[i]));
    assert_trace("");
    assert_true(aio_poll(ctx, true));
    assert_trace("xyz");
}

static void coroutine_fn schedules_itself(void *opaque)
{
    note('a');
    aio_co_schedule(ctx, coroutine_self());
    note('b');
    coroutine_yield();
    note('c');
    aio_co_wake(coroutine_self());
    note('d');
    coroutine_yield();
    note('e');
}

static void a_wake_before_the_yield_is_not_lost(void **state)
{
    start(schedules_itself, NULL);
    assert_trace("ab");
    aio_poll(ctx, true);
    assert_trace("cd");
    aio_poll(ctx, true);
    assert_trace("e");
}

static void coroutine_fn wakes_its_enterer(void *opaque)
{
    aio_co_wake(opaque);
    note('i');
}

static void coroutine_fn is_woken_by_whom_it_entered(void *opaque)
{
    start(wakes_its_enterer, coroutine_self());
    note('o');
    coroutine_yield();
    note('p');
}

static void who_is_woken_by_whom_it_entered_goes_on_after_its_yield(void **state)
{
    start(is_woken_by_whom_it_entered, NULL);
    assert_trace("io");
    aio_poll(ctx, true);
    assert_trace("p");
}

static void *wake_from_thread(void *opaque)
{
    aio_co_wake(opaque);
    return NULL;
}

static void coroutine_fn woken_by_thread_before_yield(void *opaque)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, wake_from_thread, coroutine_self()), 0);
    pthread_join(thread, NULL);
    coroutine_yield();
    *(int *)opaque = 1;
}

static void another_threads_wake_before_the_yield_is_not_lost(void **state)
{
    int done = 0;

    start(woken_by_thread_before_yield, &done);
    assert_int_equal(done, 0);
    assert_true(poll_until(ctx, &done, 1));
}

/* ---- between contexts ---- */

struct traveller {
    AioContext *contexts[2];
    pthread_t threads[2];
    int turns;
    int wrong;
    int done; /* any thread */
};

static void note_thread(void *opaque)
{
    *(pthread_t *)opaque = pthread_self();
}

static void coroutine_fn travel(void *opaque)
{
    struct traveller *t = opaque;

    for (int i = 0; i < t->turns; i++) {
        int there = i & 1;
        volatile int local = i;

        aio_co_reschedule_self(t->contexts[there]);
        errno = i;
        t->wrong += !pthread_equal(pthread_self(), t->threads[there]) ||
                    aio_context_current() != t->contexts[there] || local != i ||
                    coroutine_self() == NULL || errno != i;
    }
    atomic_store_release(&t->done, 1);
}

static void a_coroutine_moves_between_two_threads(void **state)
{
    struct loop_thread loops[2];
    struct traveller t = {.turns = 10000};

    for (int i = 0; i < 2; i++) {
        loop_thread_start(&loops[i]);
        t.contexts[i] = loops[i].ctx;
        aio_bh_schedule_oneshot(loops[i].ctx, note_thread, &t.threads[i]);
    }
    /* behind note_thread in the first; the second is polled before a schedule can arrive there */
    aio_co_schedule(loops[1].ctx, coroutine_create(travel, &t));
    assert_true(poll_until(ctx, &t.done, 1));
    for (int i = 0; i < 2; i++)
        loop_thread_stop(&loops[i]);
    assert_int_equal(t.wrong, 0);
}

static void coroutine_fn schedules_itself_elsewhere(void *opaque)
{
    struct traveller *t = opaque;

    aio_co_schedule(t->contexts[0], coroutine_self());
    for (volatile int i = 0; i < 100000; i++) /* time to be taken too early, if it could be */
        continue;
    t->wrong = aio_context_current() == t->contexts[0];
    coroutine_yield();
    t->wrong += aio_context_current() != t->contexts[0];
    atomic_store_release(&t->done, 1);
}

static void who_schedules_itself_elsewhere_leaves_when_it_yields(void **state)
{
    struct loop_thread loop;
    struct traveller t = {.turns = 1};

    loop_thread_start(&loop);
    t.contexts[0] = loop.ctx;
    start(schedules_itself_elsewhere, &t);
    assert_true(poll_until(ctx, &t.done, 1));
    loop_thread_stop(&loop);
    assert_int_equal(t.wrong, 0);
}

static void coroutine_fn yields_to_be_taken(void *opaque)
{
    struct traveller *t = opaque;

    coroutine_yield();
    t->wrong += aio_context_current() != t->contexts[0];
    coroutine_yield();
    t->wrong += aio_context_current() != t->contexts[0];
    atomic_store_release(&t->done, 2);
}

static void wake_when_yielded(void *opaque)
{
    aio_co_wake(opaque);
}

static void a_wake_goes_to_where_it_last_ran(void **state)
{
    struct loop_thread loop;
    struct traveller t = {.turns = 1};

    loop_thread_start(&loop);
    t.contexts[0] = loop.ctx;
    Coroutine *co = start(yields_to_be_taken, &t);
    aio_co_enter(loop.ctx, co);
    /* runs after the scheduled one, so that has yielded again */
    aio_bh_schedule_oneshot(loop.ctx, wake_when_yielded, co);
    assert_true(poll_until(ctx, &t.done, 2));
    loop_thread_stop(&loop);
    assert_int_equal(t.wrong, 0);
}

struct short_life {
    AioContext *ctx; /* any thread */
    int done;        /* its own thread's */
};

static void coroutine_fn end_life(void *opaque)
{
    *(int *)opaque = 1;
}

static void *live_shortly(void *opaque)
{
    struct short_life *life = opaque;
    AioContext *own = test_context_new();

    aio_context_set_current(own);
    atomic_store_release(&life->ctx, own);
    while (!life->done)
        aio_poll(own, true);
    aio_context_set_current(NULL);
    aio_context_unref(own);
    return NULL;
}

static void a_context_may_end_as_soon_as_the_coroutine_has_run(void **state)
{
    for (int i = 0; i < 200; i++) {
        struct short_life life = {.ctx = NULL};
        AioContext *there;
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, live_shortly, &life), 0);
        while (!(there = atomic_load_acquire(&life.ctx)))
            atomic_pause();
        aio_co_schedule(there, coroutine_create(end_life, &life.done));
        pthread_join(thread, NULL);
    }
}

/* ---- sleeping ---- */

static void coroutine_fn sleep_a_little(void *opaque)
{
    int64_t begin_ns = aio_clock_ns();

    co_sleep_ns(2000000);
    assert_true(aio_clock_ns() - begin_ns >= 2000000);
    co_sleep_ns(0);
    co_sleep_ns(-1);
    *(int *)opaque = 1;
}

static void a_sleeper_sleeps_at_least_as_long_as_it_said(void **state)
{
    int done = 0;

    start(sleep_a_little, &done);
    assert_int_equal(done, 0);
    assert_true(poll_until(ctx, &done, 1));
}

/* ---- mistakes ---- */

static void coroutine_fn just_yield(void *opaque)
{
    coroutine_yield();
}

static void schedule_twice(void)
{
    Coroutine *co = coroutine_create(just_yield, NULL);

    aio_co_schedule_at(ctx, co, "first_site");
    aio_co_schedule_at(ctx, co, "second_site");
}

static void enter_scheduled(void)
{
    Coroutine *co = coroutine_create(just_yield, NULL);

    aio_co_schedule_at(ctx, co, "first_site");
    coroutine_enter(co);
}

static void coroutine_fn enter_self(void *opaque)
{
    coroutine_enter(coroutine_self());
}

static void enter_running(void)
{
    start(enter_self, NULL);
}

static void coroutine_fn wake_other_twice(void *opaque)
{
    aio_co_wake(opaque);
    aio_co_wake(opaque);
}

static void wake_twice(void)
{
    start(wake_other_twice, start(just_yield, NULL));
}

static void wake_of_no_context(void)
{
    aio_context_set_current(NULL);
    aio_co_wake(coroutine_create(just_yield, NULL));
}

static void delete_begun(void)
{
    coroutine_delete(start(just_yield, NULL));
}

static void delete_scheduled(void)
{
    Coroutine *co = coroutine_create(just_yield, NULL);

    aio_co_schedule_at(ctx, co, "a_site");
    coroutine_delete(co);
}

static void yield_outside(void)
{
    coroutine_yield();
}

static void move_outside(void)
{
    aio_co_reschedule_self(ctx);
}

static void coroutine_fn schedule_self_and_end(void *opaque)
{
    aio_co_schedule_at(ctx, coroutine_self(), "a_site");
}

static void end_scheduled(void)
{
    start(schedule_self_and_end, NULL);
}

static void wake_sleeping(void)
{
    int done = 0;
    Coroutine *co = start(sleep_a_little, &done);

    aio_co_wake(co);
}

static void end_context_with_scheduled(void)
{
    aio_co_schedule_at(ctx, coroutine_create(just_yield, NULL), "a_site");
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

static void a_second_schedule_aborts_naming_both_sites(void **state)
{
    assert_bug(schedule_twice, "scheduled by second_site, but was already by first_site");
}

static void mistakes_abort_and_say_which(void **state)
{
    assert_bug(enter_scheduled, "was entered, but is scheduled by first_site");
    assert_bug(enter_running, "enter_self was entered while it runs");
    assert_bug(wake_twice, "scheduled by aio_co_enter, but was already by aio_co_enter");
    assert_bug(wake_of_no_context, "was woken, but belongs to no context");
    assert_bug(delete_begun, "just_yield is deleted, but has begun");
    assert_bug(delete_scheduled, "is deleted, but is scheduled by a_site");
    assert_bug(yield_outside, "outside a coroutine");
    assert_bug(move_outside, "outside a coroutine");
    assert_bug(end_scheduled, "ended, but was scheduled by a_site");
    assert_bug(wake_sleeping, "was entered, but is scheduled by co_sleep_ns");
    assert_bug(end_context_with_scheduled, "still scheduled by a_site");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(enter_goes_on_after_the_yield),
        CASE(self_is_the_running_one_and_nobody_outside),
        CASE(who_enters_another_stays_entered),
        CASE(two_thousand_nest),
        CASE(rounding_mode_is_the_coroutines_own),
        CASE(a_backtrace_ends_at_the_first_function),
        CASE(who_is_woken_runs_after_the_waker_yields_in_order),
        CASE(new_wakes_run_before_older_ones),
        CASE(a_chain_of_wakes_takes_no_stack),
        CASE(scheduled_ones_run_first_come_first_served),
        CASE(a_wake_before_the_yield_is_not_lost),
        CASE(who_is_woken_by_whom_it_entered_goes_on_after_its_yield),
        CASE(another_threads_wake_before_the_yield_is_not_lost),
        CASE(a_coroutine_moves_between_two_threads),
        CASE(who_schedules_itself_elsewhere_leaves_when_it_yields),
        CASE(a_wake_goes_to_where_it_last_ran),
        CASE(a_context_may_end_as_soon_as_the_coroutine_has_run),
        CASE(a_sleeper_sleeps_at_least_as_long_as_it_said),
        CASE(a_second_schedule_aborts_naming_both_sites),
        CASE(mistakes_abort_and_say_which),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
