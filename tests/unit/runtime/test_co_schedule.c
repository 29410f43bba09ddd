/* SPDX-License-Identifier: MIT */
/*
 * Coroutines on their way between contexts: to whom they belong, who may still touch them, and what
 * becomes of those that never begin.
 */
#include "runtime/context.h"
#include "tests/unit/runtime/case_context.h"

/* Not kept in a pool: unmapped at the coroutine's end, so that any later access faults. */
#define UNPOOLED_BYTES ((size_t)9 << 20)

static void coroutine_fn note_context(void *opaque)
{
    atomic_store_release((AioContext **)opaque, aio_context_current());
}

static void coroutine_fn yield_once(void *opaque)
{
    coroutine_yield();
}

static void *in_thread_wake(void *opaque)
{
    aio_co_wake(opaque);
    return NULL;
}

static void run_in_thread(void *(*fn)(void *), void *opaque)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, fn, opaque), 0);
    pthread_join(thread, NULL);
}

static uint64_t n_alive(void)
{
    return ctx->instruments.counters->co_alive;
}

/* ---- before the first enter ---- */

static void a_wake_begins_a_new_coroutine_where_it_was_made(void **state)
{
    AioContext *ran_in = NULL;
    Coroutine *co = coroutine_create(note_context, &ran_in);

    assert_ptr_equal(coroutine_get_aio_context(co), ctx);
    run_in_thread(in_thread_wake, co);
    assert_null(ran_in);
    while (!ran_in)
        aio_poll(ctx, true);
    assert_ptr_equal(ran_in, ctx);
    assert_int_equal(n_alive(), 0);
}

static void a_wake_at_home_begins_it_at_once(void **state)
{
    AioContext *ran_in = NULL;

    aio_co_wake(coroutine_create(note_context, &ran_in));
    assert_ptr_equal(ran_in, ctx);
}

static void one_made_nowhere_belongs_to_where_it_is_scheduled(void **state)
{
    AioContext *ran_in = NULL;

    aio_context_set_current(NULL);
    Coroutine *co = coroutine_create(note_context, &ran_in);
    assert_null(coroutine_get_aio_context(co));
    aio_context_set_current(ctx);
    aio_co_schedule(ctx, co);
    while (!ran_in)
        aio_poll(ctx, true);
    assert_ptr_equal(ran_in, ctx);
}

static void *in_thread_delete(void *opaque)
{
    coroutine_delete(opaque);
    return NULL;
}

static void one_that_never_begins_can_be_deleted(void **state)
{
    coroutine_delete(NULL);
    for (int i = 0; i < 3000; i++) /* more than are listed */
        coroutine_delete(coroutine_create(yield_once, NULL));
    assert_int_equal(n_alive(), 0);
    run_in_thread(in_thread_delete, coroutine_create(yield_once, NULL));
    coroutine_delete(coroutine_create(yield_once, NULL));
    assert_int_equal(n_alive(), 0);
}

/* ---- enter_if_inactive ---- */

static void coroutine_fn enters_itself_if_inactive(void *opaque)
{
    int *n = opaque;

    coroutine_enter_if_inactive(coroutine_self());
    ++*n;
    coroutine_yield();
    ++*n;
}

static void who_is_inactive_is_entered_and_who_runs_is_left_alone(void **state)
{
    int n = 0;
    Coroutine *co = coroutine_create(enters_itself_if_inactive, &n);

    coroutine_enter_if_inactive(co);
    assert_int_equal(n, 1);
    coroutine_enter_if_inactive(co);
    assert_int_equal(n, 2);
}

/* ---- where it belongs on its way ---- */

struct journey {
    AioContext *there;
    int wrong;
    int done; /* any thread */
};

static void coroutine_fn ask_where_it_is(void *opaque)
{
    struct journey *j = opaque;
    Coroutine *self = coroutine_self();

    j->wrong += coroutine_get_aio_context(self) != ctx;
    aio_co_reschedule_self(j->there);
    j->wrong += coroutine_get_aio_context(self) != j->there;
    atomic_store_release(&j->done, 1);
    coroutine_yield(); /* woken by another thread, it goes on where it is */
    j->wrong += coroutine_get_aio_context(self) != j->there || aio_context_current() != j->there;
    atomic_store_release(&j->done, 2);
}

/* In the loop of `there`, behind the yield. */
static void wake(void *opaque)
{
    aio_co_wake(opaque);
}

static void it_belongs_to_where_it_was_scheduled_last(void **state)
{
    struct loop_thread loop;
    struct journey j = {.wrong = 0};

    loop_thread_start(&loop);
    j.there = loop.ctx;
    Coroutine *co = coroutine_create(ask_where_it_is, &j);
    coroutine_enter(co);
    assert_true(poll_until(ctx, &j.done, 1));
    assert_int_equal(aio_bh_schedule_oneshot(loop.ctx, wake, co), 0);
    assert_true(poll_until(ctx, &j.done, 2));
    loop_thread_stop(&loop);
    assert_int_equal(j.wrong, 0);
}

/* ---- nobody touches it any more ---- */

static void coroutine_fn go_and_end_there(void *opaque)
{
    struct journey *j = opaque;

    aio_co_reschedule_self(j->there);
    atomic_store_release(&j->done, 1);
}

static void who_handed_it_over_touches_it_no_more(void **state)
{
    struct loop_thread loop;

    loop_thread_start(&loop);
    for (int i = 0; i < 1000; i++) {
        struct journey j = {.there = loop.ctx};

        coroutine_enter(coroutine_create_full(go_and_end_there, &j, "leaver", UNPOOLED_BYTES));
        while (!atomic_load_acquire(&j.done))
            atomic_pause();
    }
    loop_thread_stop(&loop);
}

static void coroutine_fn end_at_once(void *opaque)
{
    ++*(int *)opaque;
}

static void coroutine_fn wake_one_and_end(void *opaque)
{
    aio_co_enter(ctx, coroutine_create_full(end_at_once, opaque, "woken", UNPOOLED_BYTES));
}

static void who_ended_is_touched_no_more(void **state)
{
    int n = 0;

    for (int i = 0; i < 100; i++)
        coroutine_enter(coroutine_create_full(wake_one_and_end, &n, "waker", UNPOOLED_BYTES));
    assert_int_equal(n, 100);
}

/* Its stack must be at rest before another thread enters it: two threads on one stack would not
 * agree on its bytes. */
static void coroutine_fn check_own_stack(void *opaque)
{
    struct journey *j = opaque;
    volatile unsigned char mine[512];

    for (int i = 0; i < 2000; i++) {
        for (size_t k = 0; k < sizeof mine; k++)
            mine[k] = (unsigned char)(i + (int)k);
        aio_co_reschedule_self(i & 1 ? ctx : j->there);
        for (size_t k = 0; k < sizeof mine; k++)
            j->wrong += mine[k] != (unsigned char)(i + (int)k);
        j->wrong += aio_context_current() != (i & 1 ? ctx : j->there);
    }
    atomic_store_release(&j->done, 1);
}

static void no_thread_enters_it_before_its_switch_is_complete(void **state)
{
    struct loop_thread loop;
    struct journey j = {.wrong = 0};

    loop_thread_start(&loop);
    j.there = loop.ctx;
    coroutine_enter(coroutine_create(check_own_stack, &j));
    assert_true(poll_until(ctx, &j.done, 1));
    loop_thread_stop(&loop);
    assert_int_equal(j.wrong, 0);
}

/* ---- a stack that serves again ---- */

static void coroutine_fn leave_traces(void *opaque)
{
    aio_co_enter(ctx, coroutine_create(end_at_once, opaque));
    coroutine_yield_at("traces");
}

static void coroutine_fn look_for_traces(void *opaque)
{
    ++*(int *)opaque;
}

static void a_stack_that_serves_again_brings_nothing_with_it(void **state)
{
    int n = 0;
    Coroutine *first = coroutine_create(leave_traces, &n);

    coroutine_enter(first);
    coroutine_enter(first);
    Coroutine *second = coroutine_create(look_for_traces, &n);
    assert_ptr_equal(second, first);
    assert_false(coroutine_entered(second));
    assert_ptr_equal(coroutine_get_aio_context(second), ctx);
    coroutine_enter(second);
    assert_int_equal(n, 2);
    assert_int_equal(n_alive(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_wake_begins_a_new_coroutine_where_it_was_made),
        CASE(a_wake_at_home_begins_it_at_once),
        CASE(one_made_nowhere_belongs_to_where_it_is_scheduled),
        CASE(one_that_never_begins_can_be_deleted),
        CASE(who_is_inactive_is_entered_and_who_runs_is_left_alone),
        CASE(it_belongs_to_where_it_was_scheduled_last),
        CASE(who_handed_it_over_touches_it_no_more),
        CASE(who_ended_is_touched_no_more),
        CASE(no_thread_enters_it_before_its_switch_is_complete),
        CASE(a_stack_that_serves_again_brings_nothing_with_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
