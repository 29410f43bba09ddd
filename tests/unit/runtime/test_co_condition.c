/* SPDX-License-Identifier: MIT */
/*
 * CoCondition: signals from coroutines, callbacks and threads without a loop.
 */
#include "tests/unit/runtime/co_actor.h"

#include <errno.h>

#include "runtime/co_condition.h"
#include "runtime/co_mutex.h"

static CoCondition condition;
static CoMutex mutex;

static int coroutine_fn wait_once(struct actor *actor)
{
    co_mutex_lock(&mutex);
    int r = co_condition_wait(&condition, co_lockable_mutex(&mutex));
    co_mutex_assert_locked(&mutex);
    co_mutex_unlock(&mutex);
    return r;
}

static void a_signal_wakes_one_and_a_broadcast_all(void **state)
{
    struct actor a[4];

    co_condition_init(&condition);
    actors_start(a, 4);
    for (int i = 0; i < 4; i++)
        actor_do(&a[i], wait_once);
    co_condition_signal(&condition);
    settle();
    assert_true(!a[0].is_busy && a[1].is_busy);
    co_condition_broadcast(&condition);
    settle();
    for (int i = 0; i < 4; i++)
        assert_false(a[i].is_busy);
    co_condition_signal(&condition); /* nobody waits, and it is not kept */
    actor_do(&a[0], wait_once);
    assert_true(a[0].is_busy);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    actors_stop(a, 4);
    co_condition_deinit(&condition);
}

static void a_signal_goes_to_the_next_where_the_first_gave_up(void **state)
{
    struct actor a[2];

    co_condition_init(&condition);
    actors_start(a, 2);
    actor_do(&a[0], wait_once);
    actor_do(&a[1], wait_once);
    co_cancel(&a[0].token);
    co_condition_signal(&condition); /* before the cancel has reached the waiter: it is the first */
    settle();
    assert_int_equal(a[0].result, 0);
    assert_true(a[1].is_busy);
    co_condition_signal(&condition);
    settle();
    assert_false(a[1].is_busy);

    co_cancel_init(&a[0].token);
    actor_do(&a[0], wait_once);
    actor_do(&a[1], wait_once);
    actor_cancel(&a[0]);
    co_condition_signal(&condition);
    settle();
    assert_int_equal(a[0].result, -ECANCELED);
    assert_int_equal(a[1].result, 0);
    actors_stop(a, 2);
    co_condition_deinit(&condition);
}

#define N_TURNS 500

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int turn; /* under lock: the coroutine's where it is odd */

static void *add_even_turns(void *opaque)
{
    for (int i = 0; i < N_TURNS;) {
        pthread_mutex_lock(&lock);
        bool mine = turn % 2 == 0;

        turn += mine;
        i += mine;
        pthread_mutex_unlock(&lock);
        if (mine)
            co_condition_signal(&condition); /* without the lock, after the change under it */
    }
    return NULL;
}

static void coroutine_fn add_odd_turns(void *opaque)
{
    for (int i = 0; i < N_TURNS; i++) {
        pthread_mutex_lock(&lock);
        while (turn % 2 == 0)
            co_condition_wait(&condition, co_lockable_pthread(&lock));
        turn++;
        pthread_mutex_unlock(&lock);
    }
    thread_done();
}

static void a_thread_without_a_loop_signals_and_no_wake_is_lost(void **state)
{
    pthread_t thread;

    turn = 0;
    n_ended = 0;
    co_condition_init(&condition);
    start(add_odd_turns, NULL);
    assert_int_equal(pthread_create(&thread, NULL, add_even_turns, NULL), 0);
    assert_true(poll_until(ctx, &n_ended, 1));
    pthread_join(thread, NULL);
    assert_int_equal(turn, 2 * N_TURNS);
    co_condition_deinit(&condition);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(a_signal_wakes_one_and_a_broadcast_all),
        CASE(a_signal_goes_to_the_next_where_the_first_gave_up),
        CASE(a_thread_without_a_loop_signals_and_no_wake_is_lost),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
