/* SPDX-License-Identifier: MIT */
/*
 * CoSemaphore: who gets how much when, and that nothing is lost. Its source is compiled in here,
 * with the hook on, in place of the library's, so that a case can come in before any access to its
 * word.
 */
#define SHERD_ATOMIC_HOOK
#include "runtime/co_semaphore.c"

#include <errno.h>

#include "tests/unit/runtime/co_actor.h"

static CoSemaphore semaphore;

/* An actor's arg is how much it takes or gives. */
static int coroutine_fn acquire(struct actor *actor)
{
    return co_semaphore_acquire(&semaphore, actor->arg);
}

static void begin_acquire(struct actor *actor, uint64_t n)
{
    actor->arg = n;
    actor_do(actor, acquire);
}

static void release(uint64_t n)
{
    co_semaphore_release(&semaphore, n);
    settle();
}

static void who_wants_much_is_not_passed_by_who_wants_little(void **state)
{
    struct actor a[3];

    co_semaphore_init(&semaphore, 2);
    actors_start(a, 3);
    begin_acquire(&a[0], 1);
    begin_acquire(&a[1], 3);
    begin_acquire(&a[2], 1);
    assert_true(!a[0].is_busy && a[1].is_busy && a[2].is_busy);
    assert_false(co_semaphore_try_acquire(&semaphore, 1)); /* there is one, but it is spoken for */
    assert_int_equal(co_semaphore_available(&semaphore), 1);
    release(2);
    assert_true(!a[1].is_busy && a[2].is_busy);
    release(1);
    assert_false(a[2].is_busy);
    assert_int_equal(co_semaphore_available(&semaphore), 0);
    actors_stop(a, 3);
    co_semaphore_deinit(&semaphore);
}

static int coroutine_fn release_and_take_back(struct actor *actor)
{
    co_semaphore_release(&semaphore, 1);
    return co_semaphore_try_acquire(&semaphore, 1);
}

static void what_is_released_is_the_waiters_at_once(void **state)
{
    struct actor a[2];

    co_semaphore_init(&semaphore, 0);
    actors_start(a, 2);
    begin_acquire(&a[0], 1);
    actor_do(&a[1], release_and_take_back);
    assert_int_equal(a[1].result, false);
    assert_false(a[0].is_busy);
    actors_stop(a, 2);
    co_semaphore_deinit(&semaphore);
}

static void one_release_wakes_only_whom_it_serves(void **state)
{
    struct actor a[8];
    uint64_t n_switches;

    co_semaphore_init(&semaphore, 0);
    actors_start(a, 8);
    for (int i = 0; i < 8; i++)
        begin_acquire(&a[i], 1);
    n_switches = ctx->instruments.counters->co_switches;
    release(2);
    assert_int_equal(ctx->instruments.counters->co_switches - n_switches, 2);
    release(6);
    actors_stop(a, 8);
    co_semaphore_deinit(&semaphore);
}

static void those_behind_one_that_gives_up_are_served(void **state)
{
    struct actor a[3];

    co_semaphore_init(&semaphore, 2);
    actors_start(a, 3);
    begin_acquire(&a[0], 5);
    begin_acquire(&a[1], 1);
    begin_acquire(&a[2], 1);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    assert_true(!a[1].is_busy && !a[2].is_busy);
    assert_int_equal(co_semaphore_available(&semaphore), 0);
    actors_stop(a, 3);
    co_semaphore_deinit(&semaphore);
}

static void what_was_given_before_the_cancel_came_is_kept(void **state)
{
    struct actor a;

    co_semaphore_init(&semaphore, 0);
    actor_start(&a);
    begin_acquire(&a, 1);
    co_cancel(&a.token);
    co_semaphore_release(&semaphore, 1); /* before the loop has heard of the cancel */
    actor_cancel(&a);
    assert_int_equal(a.result, 0);
    assert_int_equal(co_semaphore_available(&semaphore), 0);
    actor_stop(&a);
    co_semaphore_deinit(&semaphore);
}

static void what_is_released_after_the_cancel_stays(void **state)
{
    struct actor a;

    co_semaphore_init(&semaphore, 0);
    actor_start(&a);
    begin_acquire(&a, 1);
    actor_cancel(&a);
    release(1);
    assert_int_equal(a.result, -ECANCELED);
    assert_int_equal(co_semaphore_available(&semaphore), 1);
    actor_stop(&a);
    co_semaphore_deinit(&semaphore);
}

/* ---- at each access ---- */

static int before_access; /* of the word, counted down to the one before which a release comes in */
static bool is_given;

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    if (address == &semaphore.word && before_access > 0 && --before_access == 0)
        is_given = give_quickly(&semaphore, 1);
}

/* Whether the acquire made so many accesses. A release that can't be quick waits for the lock. */
static bool acquire_with_release_before(struct actor *actor, int access)
{
    co_semaphore_init(&semaphore, 0);
    is_given = false;
    before_access = access;
    begin_acquire(actor, 1);
    bool came_in = before_access == 0;
    before_access = 0;
    if (!is_given)
        release(1);
    assert_false(actor->is_busy);
    assert_int_equal(co_semaphore_available(&semaphore), 0);
    co_semaphore_deinit(&semaphore);
    return came_in;
}

static void a_release_before_any_access_of_who_comes_to_wait_reaches_it(void **state)
{
    struct actor a;
    int n_accesses = 0;

    actor_start(&a);
    while (acquire_with_release_before(&a, n_accesses + 1))
        n_accesses++;
    assert_in_range(n_accesses, 3, 20);
    actor_stop(&a);
}

/* ---- against a reference ---- */

#define N_ACTORS 6
#define N_STEPS  400

struct model {
    uint64_t available;
    int queue[N_ACTORS];
    int n_queued;
    bool waits[N_ACTORS];
    uint64_t wants[N_ACTORS];
};

static void model_serve(struct model *m)
{
    while (m->n_queued > 0 && m->wants[m->queue[0]] <= m->available) {
        m->available -= m->wants[m->queue[0]];
        m->waits[m->queue[0]] = false;
        memmove(&m->queue[0], &m->queue[1], sizeof(int) * (size_t)--m->n_queued);
    }
}

static void model_cancel(struct model *m, int id)
{
    int place = 0;

    while (m->queue[place] != id)
        place++;
    m->n_queued--;
    memmove(&m->queue[place], &m->queue[place + 1], sizeof(int) * (size_t)(m->n_queued - place));
    m->waits[id] = false;
    model_serve(m);
}

static void cancel(const struct chance *chance, struct model *m, struct actor *actor)
{
    model_cancel(m, actor->id);
    actor_cancel(actor);
    assert_model(*chance, actor->result == -ECANCELED);
}

static void step(struct chance *chance, struct model *m, struct actor *actor)
{
    uint64_t n = chance_below(chance, 5);

    if (chance_below(chance, 2)) {
        m->available += n;
        model_serve(m);
        release(n);
    } else if (m->waits[actor->id]) {
        cancel(chance, m, actor);
    } else if (chance_below(chance, 4) == 0) {
        bool expected = m->n_queued == 0 && m->available >= n;

        m->available -= expected ? n : 0;
        assert_model(*chance, co_semaphore_try_acquire(&semaphore, n) == expected);
    } else {
        m->wants[actor->id] = n;
        m->waits[actor->id] = true;
        m->queue[m->n_queued++] = actor->id;
        model_serve(m);
        begin_acquire(actor, n);
    }
}

static void random_steps_end_as_the_reference_says(void **state)
{
    struct actor actors[N_ACTORS];

    for_seeds(chance, 30)
    {
        struct model m = {.available = 3};

        co_semaphore_init(&semaphore, m.available);
        actors_start(actors, N_ACTORS);
        for (int i = 0; i < N_STEPS; i++) {
            step(&chance, &m, &actors[chance_below(&chance, N_ACTORS)]);
            assert_model(chance, co_semaphore_available(&semaphore) == m.available);
            for (int k = 0; k < N_ACTORS; k++)
                assert_model(chance, actors[k].is_busy == m.waits[k]);
        }
        while (m.n_queued > 0)
            cancel(&chance, &m, &actors[m.queue[0]]);
        actors_stop(actors, N_ACTORS);
        co_semaphore_deinit(&semaphore);
    }
}

/* ---- between threads ---- */

#define LIMIT 5

static uint64_t in_use;
static int n_over_limit;

static void coroutine_fn take_and_give(void *opaque)
{
    struct chance chance = {.state = (uint64_t)number() + 1};

    for (int i = 0; i < 300; i++) {
        uint64_t n = 1 + chance_below(&chance, LIMIT);
        CoScope scope;

        co_scope_begin(&scope, NULL, aio_clock_ns() + (int64_t)chance_below(&chance, 100000));
        int r = co_semaphore_acquire(&semaphore, n);
        co_scope_end(&scope);
        if (r < 0)
            continue;
        if (atomic_add_seq(&in_use, n) + n > LIMIT)
            atomic_add_seq(&n_over_limit, 1);
        if (chance_below(&chance, 4) == 0)
            co_sleep_ns(0);
        atomic_add_seq(&in_use, -n);
        co_semaphore_release(&semaphore, n);
    }
    thread_done();
}

static void between_threads_nothing_is_lost_and_the_limit_holds(void **state)
{
    in_use = 0;
    n_over_limit = 0;
    co_semaphore_init(&semaphore, LIMIT);
    run_in_threads(take_and_give, NULL);
    assert_int_equal(n_over_limit, 0);
    assert_int_equal(co_semaphore_available(&semaphore), LIMIT);
    co_semaphore_deinit(&semaphore);
}

static void coroutine_fn take_and_give_quickly(void *opaque)
{
    for (int i = 0; i < 3000; i++) {
        assert(co_semaphore_acquire(&semaphore, 1) == 0);
        if (atomic_add_seq(&in_use, 1) >= 2)
            atomic_add_seq(&n_over_limit, 1);
        atomic_add_seq(&in_use, -1);
        co_semaphore_release(&semaphore, 1);
    }
    thread_done();
}

static void between_threads_who_does_not_wait_and_who_does_share_the_count(void **state)
{
    in_use = 0;
    n_over_limit = 0;
    co_semaphore_init(&semaphore, 2);
    run_in_threads(take_and_give_quickly, NULL);
    assert_int_equal(n_over_limit, 0);
    assert_int_equal(co_semaphore_available(&semaphore), 2);
    co_semaphore_deinit(&semaphore);
}

/* ---- broken contracts ---- */

static void release_too_many(void)
{
    co_semaphore_init(&semaphore, INT64_MAX);
    co_semaphore_release(&semaphore, 1);
}

static void drop_one_in_use(void)
{
    struct actor a;

    co_semaphore_init(&semaphore, 0);
    actor_start(&a);
    begin_acquire(&a, 1);
    co_semaphore_deinit(&semaphore);
}

static void mistakes_with_a_semaphore_abort(void **state)
{
    assert_bug(release_too_many, "a CoSemaphore of 9223372036854775807 is released by 1 more");
    assert_bug(drop_one_in_use, "a CoSemaphore ends while coroutine test waits in it");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest cases[] = {
        CASE(who_wants_much_is_not_passed_by_who_wants_little),
        CASE(what_is_released_is_the_waiters_at_once),
        CASE(one_release_wakes_only_whom_it_serves),
        CASE(those_behind_one_that_gives_up_are_served),
        CASE(what_was_given_before_the_cancel_came_is_kept),
        CASE(what_is_released_after_the_cancel_stays),
        CASE(a_release_before_any_access_of_who_comes_to_wait_reaches_it),
        CASE(random_steps_end_as_the_reference_says),
        CASE(between_threads_nothing_is_lost_and_the_limit_holds),
        CASE(between_threads_who_does_not_wait_and_who_does_share_the_count),
        CASE(mistakes_with_a_semaphore_abort),
    };

    take_arguments(argc, argv);
    return cmocka_run_group_tests(cases, NULL, NULL);
}
