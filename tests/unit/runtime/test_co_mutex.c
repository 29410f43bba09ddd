/* SPDX-License-Identifier: MIT */
/*
 * CoMutex and CoQueue, in one context and between threads.
 */
#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/loop_thread.h"

#include "runtime/atomic.h"
#include "runtime/coroutine.h"

static AioContext *ctx;
static CoMutex mutex;
static CoQueue queue;
static int order[16];
static int n_order;

static int setup(void **state)
{
    ctx = test_context_new();
    aio_context_set_current(ctx);
    co_mutex_init(&mutex);
    co_queue_init(&queue);
    n_order = 0;
    return 0;
}

static int teardown(void **state)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return 0;
}

static Coroutine *entered(Coroutine *co)
{
    assert_non_null(co);
    coroutine_enter(co);
    return co;
}
#define start(entry, opaque) entered(coroutine_create(entry, opaque))

/* Notes which came, as a number in a pointer. */
static void came(void *opaque)
{
    order[n_order++] = (int)(intptr_t)opaque;
}

static void assert_order(int n, ...)
{
    va_list args;

    assert_int_equal(n_order, n);
    va_start(args, n);
    for (int i = 0; i < n; i++)
        assert_int_equal(order[i], va_arg(args, int));
    va_end(args);
    n_order = 0;
}

/* ---- CoMutex ---- */

static void coroutine_fn hold_over_a_yield(void *opaque)
{
    co_mutex_lock(&mutex);
    came(opaque);
    coroutine_yield();
    co_mutex_unlock(&mutex);
}

static void coroutine_fn lock_and_unlock(void *opaque)
{
    co_mutex_lock(&mutex);
    came(opaque);
    co_mutex_unlock(&mutex);
}

static void waiters_get_it_first_come_first_served(void **state)
{
    Coroutine *holder = start(hold_over_a_yield, (void *)1);

    for (intptr_t i = 2; i <= 5; i++)
        start(lock_and_unlock, (void *)i);
    assert_order(1, 1);
    coroutine_enter(holder);
    assert_order(4, 2, 3, 4, 5);
    assert_int_equal(mutex.locked, 0);
}

static void coroutine_fn unlock_and_lock_again(void *opaque)
{
    co_mutex_lock(&mutex);
    coroutine_yield();
    co_mutex_unlock(&mutex);
    co_mutex_lock(&mutex);
    came(opaque);
    co_mutex_unlock(&mutex);
}

static void nobody_gets_in_before_a_waiter(void **state)
{
    Coroutine *holder = start(unlock_and_lock_again, (void *)1);

    start(lock_and_unlock, (void *)2);
    coroutine_enter(holder);
    assert_order(2, 2, 1);
}

static void a_zeroed_mutex_is_unlocked(void **state)
{
    memset(&mutex, 0, sizeof mutex);
    start(lock_and_unlock, (void *)1);
    assert_order(1, 1);
}

#define N_THREADS    4
#define N_COROUTINES 8
#define N_ROUNDS     2000

static struct {
    CoMutex mutex;
    uint64_t count; /* under mutex */
    int inside;     /* under mutex */
    int wrong;      /* under mutex */
    int done;       /* any thread */
} shared;

static void coroutine_fn count_up(void *opaque)
{
    for (int i = 0; i < N_ROUNDS; i++) {
        co_mutex_lock(&shared.mutex);
        shared.wrong += shared.inside++ != 0;
        shared.count++;
        if (i % 64 == 0)
            co_sleep_ns(0);
        shared.inside--;
        co_mutex_unlock(&shared.mutex);
        if (i % 256 == 0)
            co_sleep_ns(0);
    }
    atomic_add_seq(&shared.done, 1);
}

static void four_threads_count_exactly(void **state)
{
    struct loop_thread loops[N_THREADS];

    memset(&shared, 0, sizeof shared);
    for (int i = 0; i < N_THREADS; i++)
        loop_thread_start(&loops[i]);
    for (int i = 0; i < N_THREADS * N_COROUTINES; i++)
        aio_co_schedule(loops[i % N_THREADS].ctx, coroutine_create(count_up, NULL));
    assert_true(poll_until(ctx, &shared.done, N_THREADS * N_COROUTINES));
    for (int i = 0; i < N_THREADS; i++)
        loop_thread_stop(&loops[i]);
    assert_int_equal(shared.count, N_THREADS * N_COROUTINES * N_ROUNDS);
    assert_int_equal(shared.wrong, 0);
    assert_int_equal(shared.mutex.locked, 0);
}

static void coroutine_fn lock_and_end(void *opaque)
{
    co_mutex_lock(&mutex);
}

static void end_with_lock(void)
{
    start(lock_and_end, NULL);
}

static void coroutine_fn unlock_only(void *opaque)
{
    co_mutex_unlock(&mutex);
}

static void unlock_foreign(void)
{
    start(hold_over_a_yield, NULL);
    start(unlock_only, NULL);
}

static void lock_outside(void)
{
    co_mutex_lock(&mutex);
}

static void mistakes_with_a_mutex_abort(void **state)
{
    assert_bug(end_with_lock, "lock_and_end ended with 1 locks held");
    assert_bug(unlock_foreign, "unlocks a mutex that it does not hold");
    assert_bug(lock_outside, "outside a coroutine");
}

/* ---- CoQueue ---- */

static void coroutine_fn wait_in_queue(void *opaque)
{
    co_queue_wait(&queue, NULL);
    came(opaque);
}

static void a_queue_wakes_first_in_first_out(void **state)
{
    assert_true(co_queue_empty(&queue));
    assert_false(co_queue_next(&queue));
    for (intptr_t i = 1; i <= 3; i++)
        start(wait_in_queue, (void *)i);
    assert_false(co_queue_empty(&queue));

    assert_true(co_queue_next(&queue));
    assert_order(0);
    aio_poll(ctx, true);
    assert_order(1, 1);

    co_queue_restart_all(&queue);
    assert_true(co_queue_empty(&queue));
    aio_poll(ctx, true);
    assert_order(2, 2, 3);
}

static void coroutine_fn wake_all_then_yield(void *opaque)
{
    co_queue_restart_all(&queue);
    came(opaque);
    coroutine_yield();
}

static void whom_a_coroutine_wakes_runs_after_it_yields(void **state)
{
    for (intptr_t i = 1; i <= 3; i++)
        start(wait_in_queue, (void *)i);
    Coroutine *waker = start(wake_all_then_yield, (void *)9);
    assert_order(4, 9, 1, 2, 3);
    coroutine_enter(waker);
}

static void coroutine_fn wait_again(void *opaque)
{
    for (int i = 0; i < 2; i++)
        co_queue_wait(&queue, NULL);
    came(opaque);
}

static void who_waits_again_waits_for_the_next_wake(void **state)
{
    start(wait_again, (void *)1);
    co_queue_restart_all(&queue);
    aio_poll(ctx, true);
    assert_order(0);
    co_queue_restart_all(&queue);
    aio_poll(ctx, true);
    assert_order(1, 1);
}

static void coroutine_fn wait_with_mutex(void *opaque)
{
    co_mutex_lock(&mutex);
    co_queue_wait(&queue, &mutex);
    assert_ptr_equal(mutex.holder, coroutine_self());
    came(opaque);
    co_mutex_unlock(&mutex);
}

static void coroutine_fn wake_under_mutex(void *opaque)
{
    co_mutex_lock(&mutex);
    co_queue_restart_all(&queue);
    came(opaque);
    co_mutex_unlock(&mutex);
}

static void waiting_lets_the_mutex_go_and_takes_it_again(void **state)
{
    start(wait_with_mutex, (void *)1);
    start(wait_with_mutex, (void *)2);
    start(wake_under_mutex, (void *)3);
    assert_order(3, 3, 1, 2);
    assert_int_equal(mutex.locked, 0);
}

static void wake_a_waiter_of_a_queue(void)
{
    aio_co_wake(start(wait_in_queue, NULL));
}

static void a_wake_around_the_queue_aborts(void **state)
{
    assert_bug(wake_a_waiter_of_a_queue, "was woken while it waits in co_queue_wait");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(waiters_get_it_first_come_first_served),
        CASE(nobody_gets_in_before_a_waiter),
        CASE(a_zeroed_mutex_is_unlocked),
        CASE(four_threads_count_exactly),
        CASE(mistakes_with_a_mutex_abort),
        CASE(a_queue_wakes_first_in_first_out),
        CASE(whom_a_coroutine_wakes_runs_after_it_yields),
        CASE(who_waits_again_waits_for_the_next_wake),
        CASE(waiting_lets_the_mutex_go_and_takes_it_again),
        CASE(a_wake_around_the_queue_aborts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
