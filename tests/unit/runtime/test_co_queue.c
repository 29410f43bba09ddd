/* SPDX-License-Identifier: MIT */
/*
 * CoQueue: order, locks of all kinds, and who wins where a wake and a cancel come together.
 */
#include "tests/unit/runtime/call_order.h"
#include "tests/unit/runtime/co_actor.h"

#include <errno.h>

#include "runtime/co_mutex.h"
#include "runtime/co_queue.h"

static CoQueue queue;
static CoMutex mutex;

static int setup(void **state)
{
    case_setup(state);
    co_queue_init(&queue);
    co_mutex_init(&mutex);
    n_order = 0;
    return 0;
}

static int teardown(void **state)
{
    co_queue_deinit(&queue);
    return case_teardown(state);
}

#define QUEUE_CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* ---- in one context, without a lock ---- */

static void coroutine_fn wait_in_queue(void *opaque)
{
    assert_int_equal(co_queue_wait(&queue, NULL), 0);
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
    settle();
    assert_order(1, 1);

    co_queue_restart_all(&queue);
    assert_true(co_queue_empty(&queue));
    settle();
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

static void coroutine_fn wait_again_in_front(void *opaque)
{
    co_queue_wait(&queue, NULL);
    co_queue_wait_with(&queue, co_lockable_none(), CO_QUEUE_WAIT_FRONT);
    came(opaque);
}

static void who_waits_on_in_front_keeps_its_place(void **state)
{
    start(wait_again_in_front, (void *)1);
    start(wait_in_queue, (void *)2);
    co_queue_next(&queue);
    settle();
    assert_order(0);
    co_queue_next(&queue);
    settle();
    assert_order(1, 1);
    co_queue_next(&queue);
    settle();
    assert_order(1, 2);
}

static void coroutine_fn wait_twice(void *opaque)
{
    for (int i = 0; i < 2; i++)
        co_queue_wait(&queue, NULL);
    came(opaque);
}

static void who_waits_again_waits_for_the_next_wake(void **state)
{
    start(wait_twice, (void *)1);
    co_queue_restart_all(&queue);
    settle();
    assert_order(0);
    co_queue_restart_all(&queue);
    settle();
    assert_order(1, 1);
}

/* ---- locks ---- */

static void coroutine_fn wait_with_mutex(void *opaque)
{
    co_mutex_lock(&mutex);
    co_queue_wait(&queue, &mutex);
    co_mutex_assert_locked(&mutex);
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

/* A lock of the caller's own: who takes it twice, or lets it go without having it, is told. */
static void lock_once(void *lock)
{
    assert_int_equal((*(int *)lock)++, 0);
}

static void unlock_once(void *lock)
{
    assert_int_equal((*(int *)lock)--, 1);
}

static int own_lock;
static const struct co_lock_ops own_ops = {lock_once, unlock_once};
static const CoLockable own = {&own_lock, &own_ops};

static void coroutine_fn wait_with_own_lock(void *opaque)
{
    lock_once(&own_lock);
    assert_int_equal(co_queue_wait_with(&queue, own, 0), 0);
    came(opaque);
    unlock_once(&own_lock);
}

static void entering_the_next_lets_the_lock_go_around_it(void **state)
{
    for (intptr_t i = 1; i <= 3; i++)
        start(wait_with_own_lock, (void *)i);
    assert_int_equal(own_lock, 0);

    lock_once(&own_lock);
    assert_true(co_enter_next(&queue, own)); /* it takes the lock while it runs */
    assert_int_equal(own_lock, 1);
    assert_order(1, 1);
    co_enter_all(&queue, own);
    assert_order(2, 2, 3);
    assert_false(co_enter_next(&queue, own));
    unlock_once(&own_lock);
}

static void coroutine_fn wait_twice_with_own_lock(void *opaque)
{
    for (int i = 0; i < 2; i++)
        wait_with_own_lock(opaque);
}

static void entering_all_enters_those_that_wait_at_the_call(void **state)
{
    start(wait_twice_with_own_lock, (void *)1);
    lock_once(&own_lock);
    co_enter_all(&queue, own);
    assert_order(1, 1);
    co_enter_all(&queue, own);
    unlock_once(&own_lock);
    assert_order(1, 1);
}

/* ---- cancelling ---- */

static int coroutine_fn wait_locked(struct actor *actor)
{
    co_mutex_lock(&mutex);
    int r = co_queue_wait(&queue, &mutex);
    co_mutex_assert_locked(&mutex);
    co_mutex_unlock(&mutex);
    return r;
}

static void who_gives_up_has_the_lock_again_and_uses_no_wake(void **state)
{
    struct actor a[2];

    actors_start(a, 2);
    actor_do(&a[0], wait_locked);
    actor_do(&a[1], wait_locked);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    assert_true(co_queue_next(&queue));
    settle();
    assert_false(a[1].is_busy);
    assert_int_equal(a[1].result, 0);
    actors_stop(a, 2);
}

static void a_wake_before_the_cancel_came_is_had(void **state)
{
    struct actor a;

    actor_start(&a);
    actor_do(&a, wait_locked);
    co_cancel(&a.token);
    co_queue_next(&queue);
    actor_cancel(&a);
    assert_int_equal(a.result, 0);
    actor_stop(&a);
}

/* ---- against a reference ---- */

#define N_ACTORS 6
#define N_STEPS  400

static int ended[N_ACTORS]; /* who, in the order of their ends */
static int n_ended_in_order;

static int coroutine_fn wait_as_told(struct actor *actor)
{
    int r = co_queue_wait_with(&queue, co_lockable_none(), actor->arg ? CO_QUEUE_WAIT_FRONT : 0);

    ended[n_ended_in_order++] = actor->id;
    return r;
}

struct model {
    int queue[N_ACTORS];
    int n;
    int ended[N_ACTORS];
    int n_ended;
};

static void model_end(struct model *m, int place)
{
    m->ended[m->n_ended++] = m->queue[place];
    m->n--;
    memmove(&m->queue[place], &m->queue[place + 1], sizeof(int) * (size_t)(m->n - place));
}

static void model_wait(struct model *m, int id, bool at_front)
{
    if (at_front)
        memmove(&m->queue[1], &m->queue[0], sizeof(int) * (size_t)m->n);
    m->queue[at_front ? 0 : m->n] = id;
    m->n++;
}

static void wake(struct chance *chance, struct model *m)
{
    bool is_there = m->n > 0;
    int n_woken = is_there;

    switch (chance_below(chance, 6)) {
    case 0:
        n_woken = m->n;
        co_queue_restart_all(&queue);
        break;
    case 1:
        n_woken = m->n;
        co_enter_all(&queue, co_lockable_none());
        break;
    case 2:
    case 3:
        assert_model(*chance, co_enter_next(&queue, co_lockable_none()) == is_there);
        break;
    default:
        assert_model(*chance, co_queue_next(&queue) == is_there);
    }
    settle();
    while (n_woken-- > 0)
        model_end(m, 0);
}

static void step(struct chance *chance, struct model *m, struct actor *actor)
{
    uint64_t die = chance_below(chance, 8);

    if (actor->is_busy && die == 0) {
        int place = 0;

        while (m->queue[place] != actor->id)
            place++;
        model_end(m, place);
        actor_cancel(actor);
        assert_model(*chance, actor->result == -ECANCELED);
    } else if (die < 3) {
        wake(chance, m);
    } else if (!actor->is_busy) {
        actor->arg = chance_below(chance, 3) == 0;
        model_wait(m, actor->id, actor->arg);
        actor_do(actor, wait_as_told);
    }
}

static void check(const struct chance *chance, struct model *m, const struct actor *actors)
{
    assert_model(*chance, n_ended_in_order == m->n_ended);
    assert_model(*chance, memcmp(ended, m->ended, sizeof(int) * (size_t)m->n_ended) == 0);
    for (int i = 0; i < m->n; i++)
        assert_model(*chance, actors[m->queue[i]].is_busy);
    assert_model(*chance, co_queue_empty(&queue) == (m->n == 0));
    m->n_ended = n_ended_in_order = 0;
}

static void random_steps_end_as_the_reference_says(void **state)
{
    struct actor actors[N_ACTORS];

    for_seeds(chance, 30)
    {
        struct model m = {.n = 0};

        actors_start(actors, N_ACTORS);
        for (int i = 0; i < N_STEPS; i++) {
            step(&chance, &m, &actors[chance_below(&chance, N_ACTORS)]);
            check(&chance, &m, actors);
        }
        co_queue_restart_all(&queue);
        settle();
        n_ended_in_order = 0;
        actors_stop(actors, N_ACTORS);
    }
}

/* ---- between threads, under a pthread mutex ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int n_tickets; /* under lock */
static int n_used;

static void coroutine_fn use_or_make_tickets(void *opaque)
{
    bool makes = number() % 2;

    for (int i = 0; i < 300; i++) {
        pthread_mutex_lock(&lock);
        if (makes) {
            n_tickets++;
            co_queue_next(&queue);
        } else {
            while (n_tickets == 0)
                co_queue_wait_with(&queue, co_lockable_pthread(&lock), 0);
            n_tickets--;
            n_used++;
        }
        pthread_mutex_unlock(&lock);
        if (i % 16 == 0)
            co_sleep_ns(0);
    }
    thread_done();
}

static void threads_under_one_lock_lose_no_wake(void **state)
{
    n_tickets = n_used = 0;
    run_in_threads(use_or_make_tickets, NULL);
    assert_int_equal(n_used, N_THREADS * N_COROUTINES / 2 * 300);
    assert_int_equal(n_tickets, 0);
}

/* ---- broken contracts ---- */

static void wake_a_waiter_around_the_queue(void)
{
    aio_co_wake(start(wait_in_queue, NULL));
}

static void drop_one_in_use(void)
{
    start(wait_in_queue, NULL);
    co_queue_deinit(&queue);
}

static void coroutine_fn enter_from_within(void *opaque)
{
    co_enter_next(&queue, co_lockable_none());
}

static void enter_in_a_coroutine(void)
{
    start(wait_in_queue, NULL);
    start(enter_from_within, NULL);
}

static void wait_outside(void)
{
    co_queue_wait(&queue, NULL);
}

static void mistakes_with_a_queue_abort(void **state)
{
    assert_bug(wake_a_waiter_around_the_queue, "was woken while it waits in co_queue_wait");
    assert_bug(drop_one_in_use, "a CoQueue ends while coroutine wait_in_queue waits in it");
    assert_bug(enter_in_a_coroutine, "co_enter_next or co_enter_all in a coroutine");
    assert_bug(wait_outside, "a wait outside a coroutine of a context");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest cases[] = {
        QUEUE_CASE(a_queue_wakes_first_in_first_out),
        QUEUE_CASE(whom_a_coroutine_wakes_runs_after_it_yields),
        QUEUE_CASE(who_waits_on_in_front_keeps_its_place),
        QUEUE_CASE(who_waits_again_waits_for_the_next_wake),
        QUEUE_CASE(waiting_lets_the_mutex_go_and_takes_it_again),
        QUEUE_CASE(entering_the_next_lets_the_lock_go_around_it),
        QUEUE_CASE(entering_all_enters_those_that_wait_at_the_call),
        QUEUE_CASE(who_gives_up_has_the_lock_again_and_uses_no_wake),
        QUEUE_CASE(a_wake_before_the_cancel_came_is_had),
        QUEUE_CASE(random_steps_end_as_the_reference_says),
        QUEUE_CASE(threads_under_one_lock_lose_no_wake),
        QUEUE_CASE(mistakes_with_a_queue_abort),
    };

    take_arguments(argc, argv);
    return cmocka_run_group_tests(cases, NULL, NULL);
}
