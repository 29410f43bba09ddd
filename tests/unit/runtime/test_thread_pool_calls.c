/* SPDX-License-Identifier: MIT */
#include <sched.h>

#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/thread_pool_fixture.h"

struct done {
    int result;
    unsigned n;
    const unsigned *wait_for; /* another's n: the callback turns the loop until it is not 0 */
    AioContext *ctx;
};

static void note_done(void *opaque, int ret)
{
    struct done *done = opaque;

    done->result = ret;
    done->n++;
    if (done->wait_for)
        poll_until(done->ctx, done->wait_for, 1);
}

static int add_one(void *opaque)
{
    return *(int *)opaque + 1;
}

static int count_run(void *opaque)
{
    atomic_add_seq((unsigned *)opaque, 1);
    return 0;
}

static void callback_gets_the_result_once_and_in_a_later_turn(void **state)
{
    AioContext *ctx = context_with(1);
    struct done done = {.n = 0};
    int argument = 41;

    assert_int_equal(thread_pool_submit_aio(add_one, &argument, note_done, &done, NULL), 0);
    assert_int_equal(done.n, 0);
    poll_until(ctx, &done.n, 1);
    assert_int_equal(done.result, 42);
    assert_false(aio_poll(ctx, false));
    assert_int_equal(done.n, 1);
    drop(ctx);
}

static void work_may_be_handed_over_with_nobody_to_call_back(void **state)
{
    AioContext *ctx = context_with(1);
    struct done done = {.n = 0};
    unsigned n_runs = 0;

    assert_int_equal(thread_pool_submit(count_run, &n_runs), 0);
    assert_int_equal(thread_pool_submit_aio(count_run, &n_runs, note_done, &done, NULL), 0);
    poll_until(ctx, &done.n, 1);
    assert_int_equal(n_runs, 2);
    drop(ctx);
}

static void queued_work_can_be_cancelled_and_running_work_cannot(void **state)
{
    enum { N = 4 };
    AioContext *ctx = context_with(1);
    ThreadPoolCall *running, *queued[N];
    struct done first = {.n = 0}, done[N] = {{.n = 0}};
    unsigned n_runs = 0;

    close_gate();
    assert_int_equal(thread_pool_submit_aio(wait_at_gate, NULL, note_done, &first, &running), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(
            thread_pool_submit_aio(count_run, &n_runs, note_done, &done[i], &queued[i]), 0);
    wait_until_at_gate(1);
    assert_false(thread_pool_cancel(running));
    assert_true(thread_pool_cancel(queued[3])); /* last, middle, first of those left */
    assert_true(thread_pool_cancel(queued[1]));
    assert_true(thread_pool_cancel(queued[0]));
    assert_false(thread_pool_cancel(queued[0]));
    assert_int_equal(done[0].n, 0); /* not inside the call */
    open_gate_when_waiting(1);
    poll_until(ctx, &first.n, 1);
    poll_until(ctx, &done[2].n, 1);
    assert_false(aio_poll(ctx, false));
    for (int i = 0; i < N; i++) {
        assert_int_equal(done[i].n, 1);
        assert_int_equal(done[i].result, i == 2 ? 0 : -ECANCELED);
    }
    assert_int_equal(n_runs, 1);
    assert_int_equal(first.result, 0);
    drop(ctx);
}

static void callback_may_wait_for_the_next_in_a_nested_loop(void **state)
{
    enum { N = 5 };
    AioContext *ctx = context_with(1);
    struct done done[N];
    unsigned n_runs = 0;

    for (int i = 0; i < N; i++)
        done[i] = (struct done){.ctx = ctx, .wait_for = i < N - 1 ? &done[i + 1].n : NULL, .n = 0};
    for (int i = 0; i < N; i++)
        assert_int_equal(thread_pool_submit_aio(count_run, &n_runs, note_done, &done[i], NULL), 0);
    /* all finished before the loop looks */
    while (atomic_load_acquire(&n_runs) < N)
        sched_yield();
    poll_until(ctx, &done[0].n, 1);
    for (int i = 0; i < N; i++)
        assert_int_equal(done[i].n, 1);
    assert_false(aio_poll(ctx, false)); /* nothing is left scheduled */
    drop(ctx);
}

static void callbacks_come_in_the_order_the_work_was_finished(void **state)
{
    AioContext *ctx = context_with(1);
    struct done done[20];

    for (int round = 0; round < 50; round++) {
        unsigned n_runs = 0;

        for (int i = 0; i < 20; i++) {
            done[i] = (struct done){.n = 0};
            assert_int_equal(
                thread_pool_submit_aio(count_run, &n_runs, note_done, &done[i], NULL), 0);
        }
        for (int i = 19; i >= 0; i--) {
            poll_until(ctx, &done[i].n, 1);
            assert_int_equal(done[i].n, 1);
        }
    }
    drop(ctx);
}

/* ---- scopes ---- */

struct scoped {
    CoCancel *token;
    int64_t deadline_ns;
    unsigned *n_runs;
    int result;
    unsigned n_ended;
};

static void run_scoped(void *opaque)
{
    struct scoped *s = opaque;
    CoScope scope;

    co_scope_begin(&scope, s->token, s->deadline_ns);
    s->result = thread_pool_submit_co(count_run, s->n_runs);
    co_scope_end(&scope);
    s->n_ended++;
}

static void wait_for_queued_work_ends_with_its_scope(void **state)
{
    AioContext *ctx = context_with(1);
    unsigned n_runs = 0, n_ended = 0;
    CoCancel token;
    struct call running = {.func = wait_at_gate, .n_ended = &n_ended};
    struct scoped scoped[] = {
        {.token = &token, .deadline_ns = CO_NO_DEADLINE, .n_runs = &n_runs},
        {.deadline_ns = aio_clock_ns() + 1000000, .n_runs = &n_runs},
    };

    co_cancel_init(&token);
    close_gate();
    start(&running);
    for (int i = 0; i < 2; i++)
        coroutine_enter(coroutine_create(run_scoped, &scoped[i]));
    co_cancel(&token);
    for (int i = 0; i < 2; i++)
        poll_until(ctx, &scoped[i].n_ended, 1);
    assert_int_equal(scoped[0].result, -ECANCELED);
    assert_int_equal(scoped[1].result, -ETIMEDOUT);
    open_gate_when_waiting(1);
    poll_until(ctx, &n_ended, 1);
    assert_int_equal(n_runs, 0);
    co_cancel_deinit(&token);
    drop(ctx);
}

static void end_with_work_under_way(void)
{
    AioContext *ctx = context_with(1);
    struct done done = {.n = 0};

    assert_int_equal(thread_pool_submit_aio(return_zero, NULL, note_done, &done, NULL), 0);
    drop(ctx);
}

static void coroutine_fn submit_zero(void *opaque)
{
    thread_pool_submit_co(return_zero, NULL);
}

static void submit_without_a_context(void)
{
    aio_context_set_current(NULL);
    coroutine_enter(coroutine_create(submit_zero, NULL));
}

static void call_without_a_context(void)
{
    aio_context_set_current(NULL);
    thread_pool_submit(return_zero, NULL);
}

static void who_has_no_context_aborts(void **state)
{
    assert_bug(submit_without_a_context, "thread_pool_submit_co outside a coroutine of a context");
    assert_bug(
        call_without_a_context, "thread_pool_submit_aio in a thread without a current context");
}

static void context_that_ends_with_work_under_way_aborts(void **state)
{
    assert_bug(end_with_work_under_way, "is under way at the end of its context");
}

int main(void)
{
    const struct CMUnitTest thread_pool_calls[] = {
        cmocka_unit_test(callback_gets_the_result_once_and_in_a_later_turn),
        cmocka_unit_test(work_may_be_handed_over_with_nobody_to_call_back),
        cmocka_unit_test(queued_work_can_be_cancelled_and_running_work_cannot),
        cmocka_unit_test(callback_may_wait_for_the_next_in_a_nested_loop),
        cmocka_unit_test(callbacks_come_in_the_order_the_work_was_finished),
        cmocka_unit_test(wait_for_queued_work_ends_with_its_scope),
        cmocka_unit_test(who_has_no_context_aborts),
        cmocka_unit_test(context_that_ends_with_work_under_way_aborts),
    };

    return cmocka_run_group_tests(thread_pool_calls, NULL, NULL);
}
