/* SPDX-License-Identifier: MIT */
#include "runtime/thread_pool.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/pool_work.h"

#define DEADLINE_NS ((int64_t)20 * 1000 * 1000 * 1000)

static AioContext *context_with(uint32_t max_threads)
{
    AioContext *ctx;
    struct aio_config config = {.engine = AIO_ENGINE_THREADS, .max_threads = max_threads};

    assert_int_equal(aio_context_new(&config, &ctx), 0);
    aio_context_set_current(ctx);
    return ctx;
}

static void drop(AioContext *ctx)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

static void fail_late(void *opaque)
{
    fail_msg("the state waited for did not come");
}

static void poll_until(AioContext *ctx, const unsigned *value, unsigned target)
{
    AioTimer deadline;

    aio_timer_init(ctx, &deadline, fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + DEADLINE_NS);
    while (*value < target)
        aio_poll(ctx, true);
    timer_del(&deadline);
}

/* A coroutine that has func run and keeps what came back. */
struct call {
    ThreadPoolFunc *func;
    void *opaque;
    int result;
    unsigned *n_ended;
};

static void run_call(void *opaque)
{
    struct call *call = opaque;

    call->result = thread_pool_submit_co(call->func, call->opaque);
    ++*call->n_ended;
}

static void start(struct call *call)
{
    Coroutine *co = coroutine_create(run_call, call);

    assert_non_null(co);
    coroutine_enter(co);
}

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

/* A thread that has been joined may stand in /proc for a moment more, the last case's included, so n
 * may be above what it falls to. */
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

/* A gate that work waits at, and how many wait there. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n_waiting;
    unsigned most_waiting;
    bool open;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int wait_at_gate(void *opaque)
{
    pthread_mutex_lock(&gate.lock);
    if (++gate.n_waiting > gate.most_waiting)
        gate.most_waiting = gate.n_waiting;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.n_waiting--;
    pthread_mutex_unlock(&gate.lock);
    return 0;
}

static void close_gate(void)
{
    gate.open = false;
    gate.n_waiting = 0;
    gate.most_waiting = 0;
}

static void open_gate_when_waiting(unsigned n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.n_waiting < n)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
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

static int return_zero(void *opaque)
{
    return 0;
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

    assert_int_equal(thread_pool_set_idle_ns(ctx, 1000000), 0);
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

    assert_int_equal(thread_pool_set_idle_ns(ctx, 1), 0);
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
    assert_int_equal(pthread_setattr_default_np(&usual), 0);
    pthread_attr_destroy(&usual);
    pthread_attr_destroy(&huge);

    assert_int_equal(n_ended, 1);
    assert_int_equal(call.result, -EAGAIN);
    run_one(ctx);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
