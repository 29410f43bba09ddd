/* SPDX-License-Identifier: MIT */
#include "runtime/thread_pool.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "tests/unit/runtime/thread_pool_fixture.h"

static unsigned count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

/* A thread that has been joined may stand in /proc for a moment more, the last case's included, so
 * n may be above what it falls to. */
static void assert_threads_fall_to(unsigned n)
{
    int64_t deadline = aio_clock_ns() + DEADLINE_NS;

    while (count_threads() > n && aio_clock_ns() < deadline)
        sched_yield();
    assert_true(count_threads() <= n);
}

/* ---- cases ---- */

static int look_around(void *opaque)
{
    pthread_t *ret_self = opaque;
    sigset_t blocked;

    *ret_self = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    return sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGALRM) ? 4711 : 0;
}

static void work_runs_in_a_thread_that_takes_no_signals(void **state)
{
    AioContext *ctx = context_with(0);
    pthread_t thread = pthread_self();
    unsigned n_ended = 0;
    struct call call = {.func = look_around, .opaque = &thread, .n_ended = &n_ended};

    start(&call);
    assert_int_equal(n_ended, 0);
    poll_until(ctx, &n_ended, 1);
    assert_int_equal(call.result, 4711);
    assert_false(pthread_equal(thread, pthread_self()));
    drop(ctx);
}

static void as_many_run_at_once_as_there_may_be_threads(void **state)
{
    enum { N = 20, MAX = 3 };
    AioContext *ctx = context_with(MAX);
    struct call calls[N];
    unsigned n_ended = 0;

    close_gate();
    for (int i = 0; i < N; i++) {
        calls[i] = (struct call){.func = wait_at_gate, .n_ended = &n_ended};
        start(&calls[i]);
    }
    assert_int_equal(thread_pool_n_threads(ctx), MAX);
    open_gate_when_waiting(MAX);
    poll_until(ctx, &n_ended, N);
    assert_int_equal(gate.most_waiting, MAX);
    drop(ctx);
}

static struct {
    int order[50];
    int n;
} noted;

static int note(void *opaque)
{
    noted.order[noted.n++] = (int)(intptr_t)opaque; /* one worker: nobody else writes */
    return 0;
}

static void work_is_done_first_in_first_out(void **state)
{
    enum { N = 50 };
    AioContext *ctx = context_with(1);
    struct call calls[N];
    unsigned n_ended = 0;

    noted.n = 0;
    for (int i = 0; i < N; i++) {
        calls[i] = (struct call){.func = note, .opaque = (void *)(intptr_t)i, .n_ended = &n_ended};
        start(&calls[i]);
    }
    poll_until(ctx, &n_ended, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(noted.order[i], i);
    drop(ctx);
}

static void run_one(AioContext *ctx)
{
    unsigned n_ended = 0;
    struct call call = {.func = return_zero, .result = -1, .n_ended = &n_ended};

    start(&call);
    poll_until(ctx, &n_ended, 1);
    assert_int_equal(call.result, 0);
}

static void one_thing_after_another_needs_one_thread(void **state)
{
    AioContext *ctx = context_with(8);

    assert_int_equal(thread_pool_n_threads(ctx), 0);
    for (int i = 0; i < 100; i++)
        run_one(ctx);
    assert_int_equal(thread_pool_n_threads(ctx), 1);
    drop(ctx);
}

static void wait_for_no_threads(AioContext *ctx)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (thread_pool_n_threads(ctx) > 0) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

static void workers_without_work_leave_and_others_come(void **state)
{
    AioContext *ctx = context_with(4);

    aio_context_set_thread_pool_idle_ns(ctx, 1000000);
    for (int i = 0; i < 5; i++) {
        run_one(ctx);
        wait_for_no_threads(ctx);
    }
    drop(ctx);
}

/* Work is handed in just when workers leave: none may be left behind. */
static void work_that_meets_a_leaving_worker_is_done(void **state)
{
    AioContext *ctx = context_with(2);

    aio_context_set_thread_pool_idle_ns(ctx, 1);
    for (int i = 0; i < 300; i++)
        run_one(ctx);
    drop(ctx);
}

static int read_byte(void *opaque)
{
    int *fds = opaque;
    char c = 0;

    return read(fds[0], &c, 1) == 1 ? c : -1;
}

static void write_byte(void *opaque)
{
    int *fds = opaque;

    assert_int_equal(write(fds[1], "!", 1), 1);
}

static void the_loop_goes_on_while_a_worker_blocks(void **state)
{
    AioContext *ctx = context_with(1);
    int fds[2];
    unsigned n_ended = 0;
    struct call call = {.func = read_byte, .opaque = fds, .n_ended = &n_ended};
    AioTimer timer;

    assert_int_equal(pipe(fds), 0);
    start(&call);
    aio_timer_init(ctx, &timer, write_byte, fds);
    timer_mod_ns(&timer, aio_clock_ns() + 1000000);
    poll_until(ctx, &n_ended, 1);
    assert_int_equal(call.result, '!');
    close(fds[0]);
    close(fds[1]);
    drop(ctx);
}

static void a_freed_context_leaves_no_thread(void **state)
{
    unsigned before = count_threads();

    for (int i = 0; i < 20; i++) {
        AioContext *ctx = context_with(4);

        run_one(ctx);
        drop(ctx);
        assert_threads_fall_to(before);
    }
}

static void no_thread_to_be_had_is_an_error_and_leaves_nothing_queued(void **state)
{
    AioContext *ctx = context_with(4);
    pthread_attr_t usual, huge;
    unsigned n_ended = 0;
    struct call call = {.func = return_zero, .n_ended = &n_ended};

    /* A stack for which there is no address space. */
    assert_int_equal(pthread_getattr_default_np(&usual), 0);
    assert_int_equal(pthread_getattr_default_np(&huge), 0);
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 47), 0);
    assert_int_equal(pthread_setattr_default_np(&huge), 0);
    start(&call);
    int r = thread_pool_submit_aio(return_zero, NULL, NULL, NULL, NULL);
    assert_int_equal(pthread_setattr_default_np(&usual), 0);
    pthread_attr_destroy(&usual);
    pthread_attr_destroy(&huge);

    assert_int_equal(n_ended, 1);
    assert_int_equal(call.result, -EAGAIN);
    assert_int_equal(r, -EAGAIN);
    assert_false(aio_poll(ctx, false)); /* nobody is called back */
    run_one(ctx);
    drop(ctx);
}

/* ---- how many ---- */

static void impossible_numbers_of_threads_are_refused(void **state)
{
    static const int64_t bad[][2] = {
        {-1, 4}, {0, 0}, {5, 4}, {0, -1}, {-2, -1}, {0, INT64_C(1) << 40}};
    AioContext *ctx = context_with(4);

    for (int twice = 0; twice < 2; twice++) {
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
            assert_int_equal(
                aio_context_set_thread_pool_params(ctx, bad[i][0], bad[i][1]), -EINVAL);
        assert_int_equal(aio_context_set_thread_pool_params(ctx, 0, 1), 0);
        assert_int_equal(aio_context_set_thread_pool_params(ctx, 3, 3), 0);
        run_one(ctx); /* and again with a pool */
    }
    drop(ctx);
}

static void wait_for_threads(AioContext *ctx, uint32_t n)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (thread_pool_n_threads(ctx) != n) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

/* Were the idle time to end it, another one would come for the next. */
static bool same_worker_each_time(AioContext *ctx)
{
    pthread_t first = pthread_self(), thread = first;
    unsigned n_ended = 0;
    struct call call = {.func = look_around, .opaque = &thread, .n_ended = &n_ended};
    bool same = true;

    for (unsigned i = 1; i <= 50; i++) {
        start(&call);
        poll_until(ctx, &n_ended, i);
        if (i == 1)
            first = thread;
        same = same && pthread_equal(first, thread);
    }
    return same;
}

static void as_many_workers_stay_as_the_minimum_says(void **state)
{
    AioContext *ctx = context_with(4);

    assert_int_equal(aio_context_set_thread_pool_params(ctx, 2, 4), 0);
    assert_int_equal(thread_pool_n_threads(ctx), 0); /* no pool yet */
    run_one(ctx);
    assert_int_equal(thread_pool_n_threads(ctx), 2);
    assert_int_equal(aio_context_set_thread_pool_params(ctx, 4, 4), 0);
    assert_int_equal(thread_pool_n_threads(ctx), 4);
    aio_context_set_thread_pool_idle_ns(ctx, 1);
    assert_int_equal(aio_context_set_thread_pool_params(ctx, 1, 4), 0);
    for (int i = 0; i < 4; i++)
        run_one(ctx);
    wait_for_threads(ctx, 1);
    assert_true(same_worker_each_time(ctx));
    drop(ctx);
}

static void workers_above_a_lowered_maximum_leave_and_work_goes_on(void **state)
{
    enum { N = 8 };
    AioContext *ctx = context_with(4);
    struct call calls[N];
    unsigned n_ended = 0;

    close_gate();
    for (int i = 0; i < N; i++) {
        calls[i] = (struct call){.func = wait_at_gate, .n_ended = &n_ended};
        start(&calls[i]);
    }
    wait_until_at_gate(4);
    assert_int_equal(aio_context_set_thread_pool_params(ctx, 0, 1), 0);
    open_gate_when_waiting(4);
    poll_until(ctx, &n_ended, N);
    wait_for_threads(ctx, 1);
    drop(ctx);
}

static void raised_maximum_serves_what_waits_already(void **state)
{
    enum { N = 4 };
    AioContext *ctx = context_with(1);
    struct call calls[N];
    unsigned n_ended = 0;

    close_gate();
    for (int i = 0; i < N; i++) {
        calls[i] = (struct call){.func = wait_at_gate, .n_ended = &n_ended};
        start(&calls[i]);
    }
    assert_int_equal(thread_pool_n_threads(ctx), 1);
    assert_int_equal(aio_context_set_thread_pool_params(ctx, 0, N), 0);
    open_gate_when_waiting(N); /* else they never meet there */
    poll_until(ctx, &n_ended, N);
    drop(ctx);
}

static int count_cpus(void *opaque)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

static void workers_run_where_the_loop_may_run(void **state)
{
    AioContext *ctx = context_with(1);
    unsigned n_ended = 0;
    struct call call = {.func = count_cpus, .n_ended = &n_ended};
    cpu_set_t usual, one;

    assert_int_equal(sched_getaffinity(0, sizeof usual, &usual), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &usual))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    start(&call);
    assert_int_equal(sched_setaffinity(0, sizeof usual, &usual), 0);
    poll_until(ctx, &n_ended, 1);
    assert_int_equal(call.result, 1);
    drop(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_runs_in_a_thread_that_takes_no_signals),
        cmocka_unit_test(as_many_run_at_once_as_there_may_be_threads),
        cmocka_unit_test(work_is_done_first_in_first_out),
        cmocka_unit_test(one_thing_after_another_needs_one_thread),
        cmocka_unit_test(workers_without_work_leave_and_others_come),
        cmocka_unit_test(work_that_meets_a_leaving_worker_is_done),
        cmocka_unit_test(the_loop_goes_on_while_a_worker_blocks),
        cmocka_unit_test(a_freed_context_leaves_no_thread),
        cmocka_unit_test(no_thread_to_be_had_is_an_error_and_leaves_nothing_queued),
        cmocka_unit_test(impossible_numbers_of_threads_are_refused),
        cmocka_unit_test(as_many_workers_stay_as_the_minimum_says),
        cmocka_unit_test(workers_above_a_lowered_maximum_leave_and_work_goes_on),
        cmocka_unit_test(raised_maximum_serves_what_waits_already),
        cmocka_unit_test(workers_run_where_the_loop_may_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
