/* SPDX-License-Identifier: MIT */
/*
 * CoMutex, in one context and between threads.
 */
#include "tests/unit/runtime/call_order.h"
#include "tests/unit/runtime/case_context.h"
#include "tests/unit/runtime/death.h"

#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/coroutine.h"

static CoMutex mutex;

static int setup(void **state)
{
    case_setup(state);
    co_mutex_init(&mutex);
    n_order = 0;
    return 0;
}

#define MUTEX_CASE(name) cmocka_unit_test_setup_teardown(name, setup, case_teardown)

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

static void coroutine_fn try_to_lock(void *opaque)
{
    bool *locked = opaque;

    *locked = co_mutex_trylock(&mutex);
    if (!*locked)
        return;
    co_mutex_assert_locked(&mutex);
    co_mutex_unlock(&mutex);
}

static void trying_takes_it_where_nobody_has_it(void **state)
{
    bool locked = true;
    Coroutine *holder = start(hold_over_a_yield, NULL);

    start(try_to_lock, &locked);
    assert_false(locked);
    coroutine_enter(holder);
    start(try_to_lock, &locked);
    assert_true(locked);
    assert_int_equal(mutex.locked, 0);
}

static void coroutine_fn lock_in_a_scope_that_is_over(void *opaque)
{
    CoScope scope;

    co_scope_begin(&scope, NULL, 0);
    co_mutex_lock(&mutex);
    co_mutex_assert_locked(&mutex);
    co_mutex_unlock(&mutex);
    co_scope_end(&scope);
    came(opaque);
}

static void no_scope_ends_the_wait_for_a_mutex(void **state)
{
    Coroutine *holder = start(hold_over_a_yield, (void *)1);

    start(lock_in_a_scope_that_is_over, (void *)2);
    aio_poll(ctx, false);
    assert_order(1, 1);
    coroutine_enter(holder);
    assert_order(1, 2);
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

static void coroutine_fn lock_twice(void *opaque)
{
    co_mutex_lock(&mutex);
    co_mutex_lock(&mutex);
}

static void wait_for_oneself(void)
{
    start(lock_twice, NULL);
}

static void coroutine_fn assert_locked(void *opaque)
{
    co_mutex_assert_locked(&mutex);
}

static void assert_what_another_holds(void)
{
    start(hold_over_a_yield, NULL);
    start(assert_locked, NULL);
}

static void mistakes_with_a_mutex_abort(void **state)
{
    assert_bug(wait_for_oneself, "coroutine lock_twice locks a mutex that it holds");
    assert_bug(
        assert_what_another_holds, "coroutine assert_locked must hold a mutex, but does not");
    assert_bug(end_with_lock, "lock_and_end ended with 1 locks held");
    assert_bug(unlock_foreign, "unlocks a mutex that it does not hold");
    assert_bug(lock_outside, "outside a coroutine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MUTEX_CASE(waiters_get_it_first_come_first_served),
        MUTEX_CASE(nobody_gets_in_before_a_waiter),
        MUTEX_CASE(a_zeroed_mutex_is_unlocked),
        MUTEX_CASE(trying_takes_it_where_nobody_has_it),
        MUTEX_CASE(no_scope_ends_the_wait_for_a_mutex),
        MUTEX_CASE(four_threads_count_exactly),
        MUTEX_CASE(mistakes_with_a_mutex_abort),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
