/* SPDX-License-Identifier: MIT */
/*
 * Tokens, scopes and co_wait(): what ends a wait, and who wins where the event comes too.
 */
#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/loop_fixture.h"
#include "tests/unit/runtime/loop_thread.h"

#include "runtime/co_wait.h"

#define FAR_NS (60 * 1000 * LOOP_MS)

/* A wait whose event is event_comes(), and what came of it. */
struct test_wait {
    struct co_wait wait;
    AioContext *ctx;
    CoCancel *token;
    CoCancel *outer_token; /* NULL: no outer scope */
    int64_t outer_deadline_ns;
    int64_t deadline_ns;
    Coroutine *co;
    pthread_t withdrawn_in;
    bool is_too_late; /* what withdraw() finds */
    int n_withdrawn;
    int result;
    int status;
    bool done;
};

static bool withdraw_test(struct co_wait *wait)
{
    struct test_wait *w = (struct test_wait *)wait;

    w->n_withdrawn++;
    w->withdrawn_in = pthread_self();
    return !w->is_too_late;
}

static void coroutine_fn wait_in_scopes_of(void *opaque)
{
    struct test_wait *w = opaque;
    AioContext *ctx = w->ctx;
    CoScope outer;
    CoScope inner;

    w->wait.withdraw = withdraw_test;
    co_scope_begin(&outer, w->outer_token, w->outer_deadline_ns);
    co_scope_begin(&inner, w->token, w->deadline_ns);
    w->result = co_wait(&w->wait, "test");
    w->status = co_scope_status();
    co_scope_end(&inner);
    co_scope_end(&outer);
    atomic_store_release(&w->done, true);
    aio_notify(ctx); /* it may be another thread's */
}

static struct test_wait new_wait(AioContext *ctx, CoCancel *token)
{
    return (struct test_wait){.ctx = ctx,
        .token = token,
        .outer_deadline_ns = CO_NO_DEADLINE,
        .deadline_ns = CO_NO_DEADLINE,
        .result = 1};
}

static void begin_wait(struct test_wait *w)
{
    w->co = coroutine_create(wait_in_scopes_of, w);
    assert_non_null(w->co);
    coroutine_enter(w->co);
}

static void a_token_ends_a_wait(void **state)
{
    struct loop *loop = *state;
    CoCancel token;
    struct test_wait w = new_wait(loop->ctx, &token);

    co_cancel_init(&token);
    begin_wait(&w);
    assert_false(w.done);
    co_cancel(&token);
    assert_false(w.done); /* by a bottom half, not from within co_cancel() */
    loop_until(loop, &w.done);
    assert_int_equal(w.result, -ECANCELED);
    assert_int_equal(w.status, -ECANCELED);
    assert_int_equal(w.n_withdrawn, 1);
    co_cancel_deinit(&token);
}

static void an_event_before_the_cancel_wins(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    begin_wait(&w);
    aio_co_wake(w.co);
    assert_true(w.done);
    co_cancel(&token);
    aio_poll(loop->ctx, false);
    assert_int_equal(w.result, 0);
    assert_int_equal(w.n_withdrawn, 0);
    co_cancel_deinit(&token);
}

static void an_event_takes_its_wait_out_of_the_inbox(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    begin_wait(&w);
    co_cancel(&token);
    aio_co_wake(w.co);
    assert_true(w.done);
    assert_int_equal(w.result, 0);
    memset(&w.wait, 0xff, sizeof w.wait);
    aio_poll(loop->ctx, false);
    assert_int_equal(w.n_withdrawn, 0);
    co_cancel_deinit(&token);
}

static void what_cannot_be_withdrawn_ends_with_its_event(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    w.is_too_late = true;
    w.outer_deadline_ns = aio_clock_ns() + LOOP_MS;
    begin_wait(&w);
    co_cancel(&token);
    while (w.n_withdrawn == 0)
        aio_poll(loop->ctx, true);
    while (aio_clock_ns() < w.outer_deadline_ns)
        aio_poll(loop->ctx, false);
    aio_poll(loop->ctx, false);
    assert_int_equal(w.n_withdrawn, 1); /* asked once, though the deadline passed as well */
    assert_false(w.done);
    aio_co_wake(w.co);
    assert_true(w.done);
    assert_int_equal(w.result, 0);
    co_cancel_deinit(&token);
}

static void a_wait_in_a_scope_that_is_over_does_not_begin(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    co_cancel(&token);
    begin_wait(&w);
    assert_true(w.done);
    assert_int_equal(w.result, -ECANCELED);

    w = new_wait(loop->ctx, NULL);
    w.deadline_ns = aio_clock_ns();
    begin_wait(&w);
    assert_true(w.done);
    assert_int_equal(w.result, -ETIMEDOUT);
    assert_int_equal(w.status, -ETIMEDOUT);

    w = new_wait(loop->ctx, &token);
    w.is_too_late = true;
    begin_wait(&w);
    assert_false(w.done);
    aio_co_wake(w.co);
    assert_int_equal(w.result, 0);
    co_cancel_deinit(&token);
}

static void a_deadline_ends_a_wait(void **state)
{
    struct loop *loop = *state;
    struct test_wait w = new_wait(loop->ctx, NULL);

    w.deadline_ns = aio_clock_ns() + LOOP_MS;
    begin_wait(&w);
    loop_until(loop, &w.done);
    assert_int_equal(w.result, -ETIMEDOUT);
    assert_true(aio_clock_ns() >= w.deadline_ns);
}

static void an_event_before_the_deadline_disarms_it(void **state)
{
    struct loop *loop = *state;
    struct test_wait w = new_wait(loop->ctx, NULL);

    w.deadline_ns = aio_clock_ns() + FAR_NS;
    begin_wait(&w);
    assert_true(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_MONOTONIC) > 0);
    aio_co_wake(w.co);
    assert_int_equal(w.result, 0);
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_MONOTONIC), -1);
}

static void the_earlier_of_two_nested_deadlines_counts(void **state)
{
    struct loop *loop = *state;

    for (int outer_first = 0; outer_first < 2; outer_first++) {
        struct test_wait w = new_wait(loop->ctx, NULL);
        int64_t now_ns = aio_clock_ns();

        w.deadline_ns = now_ns + (outer_first ? FAR_NS : LOOP_MS);
        w.outer_deadline_ns = now_ns + (outer_first ? LOOP_MS : FAR_NS);
        begin_wait(&w);
        loop_until(loop, &w.done);
        assert_int_equal(w.result, -ETIMEDOUT);
        assert_true(aio_clock_ns() < now_ns + FAR_NS);
    }
}

static void the_token_of_an_outer_scope_ends_a_wait(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    CoCancel outer_token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    w.outer_token = &outer_token;
    begin_wait(&w);
    co_cancel(&outer_token);
    loop_until(loop, &w.done);
    assert_int_equal(w.result, -ECANCELED);
    co_cancel_deinit(&token); /* nothing is left in it */
    co_cancel_deinit(&outer_token);
}

static void both_tokens_at_once_end_a_wait_once(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    CoCancel outer_token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    w.outer_token = &outer_token;
    begin_wait(&w);
    co_cancel(&outer_token);
    co_cancel(&token);
    loop_until(loop, &w.done);
    assert_int_equal(w.n_withdrawn, 1);
    aio_poll(loop->ctx, false);
    co_cancel_deinit(&token);
    co_cancel_deinit(&outer_token);
}

static void one_token_ends_all_waits_in_their_order(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait waits[5];

    for (int i = 0; i < 5; i++) {
        waits[i] = new_wait(loop->ctx, &token);
        begin_wait(&waits[i]);
    }
    aio_co_wake(waits[2].co);
    co_cancel(&token);
    loop_until(loop, &waits[4].done);
    for (int i = 0; i < 5; i++)
        assert_int_equal(waits[i].result, i == 2 ? 0 : -ECANCELED);
    co_cancel_deinit(&token);
}

static void coroutine_fn wait_in_a_shield(void *opaque)
{
    struct test_wait *w = opaque;
    CoScope scope;
    CoScope shield;
    int status;

    w->wait.withdraw = withdraw_test;
    co_scope_begin(&scope, w->token, aio_clock_ns());
    assert_int_equal(co_scope_status(), -ECANCELED);
    co_scope_begin_shielded(&shield, NULL, w->deadline_ns);
    status = co_scope_status();
    if (status != -ETIMEDOUT || aio_clock_ns() < w->deadline_ns) /* else it got here too late */
        assert_int_equal(status, 0);
    w->result = co_wait(&w->wait, "test");
    co_scope_end(&shield);
    co_scope_end(&scope);
    w->done = true;
}

static void a_shield_keeps_outer_scopes_off(void **state)
{
    struct loop *loop = *state;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    co_cancel(&token);
    coroutine_enter(w.co = coroutine_create(wait_in_a_shield, &w));
    aio_poll(loop->ctx, false);
    assert_false(w.done);
    aio_co_wake(w.co);
    assert_int_equal(w.result, 0);

    w = new_wait(loop->ctx, &token);
    w.deadline_ns = aio_clock_ns() + LOOP_MS;
    coroutine_enter(w.co = coroutine_create(wait_in_a_shield, &w));
    loop_until(loop, &w.done);
    assert_int_equal(w.result, -ETIMEDOUT);
    co_cancel_deinit(&token);
}

static void coroutine_fn wait_without_scope(void *opaque)
{
    struct test_wait *w = opaque;

    w->wait.withdraw = withdraw_test;
    assert_int_equal(co_scope_status(), 0);
    w->result = co_wait(&w->wait, "test");
    w->done = true;
}

static void without_a_scope_a_wait_is_a_yield(void **state)
{
    struct loop *loop = *state;
    struct test_wait w = new_wait(loop->ctx, NULL);

    coroutine_enter(w.co = coroutine_create(wait_without_scope, &w));
    assert_false(w.done);
    aio_co_wake(w.co);
    assert_int_equal(w.result, 0);
}

/* ---- across threads ---- */

static void a_wait_ends_in_the_thread_it_waits_in(void **state)
{
    struct loop *loop = *state;
    struct loop_thread other;
    CoCancel token = {0};
    struct test_wait w = new_wait(loop->ctx, &token);

    loop_thread_start(&other);
    aio_co_schedule(other.ctx, coroutine_create(wait_in_scopes_of, &w));
    co_cancel(&token); /* before, during or after it begins to wait */
    loop_until(loop, &w.done);
    assert_int_equal(w.result, -ECANCELED);
    assert_true(pthread_equal(w.withdrawn_in, other.thread));
    loop_thread_stop(&other);
    co_cancel_deinit(&token);
}

struct traveller {
    struct co_wait wait;
    AioContext *here;
    AioContext *there;
    CoCancel token;
    pthread_t withdrawn_in;
    int n_withdrawn;
    bool done;
};

static bool note_thread(struct co_wait *wait)
{
    struct traveller *t = (struct traveller *)wait;

    t->withdrawn_in = pthread_self();
    t->n_withdrawn++;
    return true;
}

static void wake_traveller(void *opaque)
{
    aio_co_wake(opaque);
}

static void coroutine_fn wait_here_and_there(void *opaque)
{
    struct traveller *t = opaque;
    AioContext *here = t->here;
    CoScope scope;

    co_scope_begin(&scope, &t->token, aio_clock_ns() + FAR_NS);
    aio_bh_schedule_oneshot(here, wake_traveller, coroutine_self());
    assert_int_equal(co_wait(&t->wait, "here"), 0);
    aio_co_reschedule_self(t->there);
    assert_int_equal(co_wait(&t->wait, "there"), -ECANCELED);
    assert_int_equal(co_scope_status(), -ECANCELED);
    aio_co_reschedule_self(here);
    assert_int_equal(co_wait(&t->wait, "here again"), -ECANCELED);
    co_scope_end(&scope);
    t->done = true;
}

static void a_scope_goes_with_its_coroutine_to_another_context(void **state)
{
    struct loop *loop = *state;
    struct loop_thread other;
    struct traveller t = {.wait.withdraw = note_thread, .here = loop->ctx};

    loop_thread_start(&other);
    t.there = other.ctx;
    coroutine_enter(coroutine_create(wait_here_and_there, &t));
    while (aio_poll(loop->ctx, false))
        continue;
    co_cancel(&t.token);
    loop_until(loop, &t.done);
    assert_int_equal(t.n_withdrawn, 2);
    assert_true(pthread_equal(t.withdrawn_in, pthread_self()));
    assert_int_equal(aio_clock_deadline_ns(other.ctx, AIO_CLOCK_MONOTONIC), -1);
    loop_thread_stop(&other);
    co_cancel_deinit(&t.token);
}

#define N_RACES 100

/* A wait whose event another thread brings while a third one cancels. */
struct race {
    struct co_wait wait;
    pthread_mutex_t lock;
    Coroutine *waiter; /* under lock: waits, and nobody has taken it */
    bool has_event;    /* under lock */
    CoCancel token;
    int n_events;
    int n_cancelled;
    int n_wrong;
    int round; /* how many have begun */
    bool done;
};

static bool withdraw_race(struct co_wait *wait)
{
    struct race *race = (struct race *)wait;

    pthread_mutex_lock(&race->lock);
    bool was_waiting = race->waiter != NULL;
    race->waiter = NULL;
    pthread_mutex_unlock(&race->lock);
    return was_waiting;
}

static void coroutine_fn run_races(void *opaque)
{
    struct race *race = opaque;

    race->wait.withdraw = withdraw_race;
    for (int i = 0; i < N_RACES; i++) {
        CoScope scope;

        co_cancel_init(&race->token);
        co_scope_begin(&scope, &race->token, CO_NO_DEADLINE);
        pthread_mutex_lock(&race->lock);
        race->waiter = coroutine_self();
        race->has_event = false;
        pthread_mutex_unlock(&race->lock);
        atomic_add_seq(&race->round, 1);
        int r = co_wait(&race->wait, "race");
        race->n_events += r == 0;
        race->n_cancelled += r == -ECANCELED;
        race->n_wrong += race->has_event != (r == 0);
        co_scope_end(&scope);
        while (atomic_load_acquire(&race->round) != 3 * (i + 1))
            co_sleep_ns(0);
        co_cancel_deinit(&race->token);
    }
    atomic_store_release(&race->done, true);
}

static void bring_event(struct race *race)
{
    pthread_mutex_lock(&race->lock);
    Coroutine *co = race->waiter;
    race->waiter = NULL;
    if (co)
        race->has_event = true;
    pthread_mutex_unlock(&race->lock);
    if (co)
        aio_co_wake(co);
}

/* Once a round: the one thread the event, the other the cancel. */
static void *race_events(void *opaque)
{
    struct race *race = opaque;

    for (int i = 0; i < N_RACES; i++) {
        while (atomic_load_acquire(&race->round) < 3 * i + 1)
            sched_yield();
        bring_event(race);
        atomic_add_seq(&race->round, 1);
    }
    return NULL;
}

static void *race_cancels(void *opaque)
{
    struct race *race = opaque;

    for (int i = 0; i < N_RACES; i++) {
        while (atomic_load_acquire(&race->round) < 3 * i + 1)
            sched_yield();
        co_cancel(&race->token);
        atomic_add_seq(&race->round, 1);
    }
    return NULL;
}

static void an_event_and_a_cancel_in_two_threads_give_one_wake(void **state)
{
    struct loop *loop = *state;
    struct race race = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[2];

    assert_int_equal(pthread_create(&threads[0], NULL, race_events, &race), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, race_cancels, &race), 0);
    coroutine_enter(coroutine_create(run_races, &race));
    loop_until(loop, &race.done);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(race.n_events + race.n_cancelled, N_RACES);
    assert_int_equal(race.n_wrong, 0);
}

/* ---- broken contracts ---- */

static void coroutine_fn end_in_a_scope(void *opaque)
{
    CoScope scope;

    co_scope_begin(&scope, NULL, CO_NO_DEADLINE);
}

static void leave_a_scope_open(void)
{
    coroutine_enter(coroutine_create(end_in_a_scope, NULL));
}

static void coroutine_fn end_the_outer_first(void *opaque)
{
    CoScope outer;
    CoScope inner;

    co_scope_begin(&outer, NULL, CO_NO_DEADLINE);
    co_scope_begin(&inner, NULL, CO_NO_DEADLINE);
    co_scope_end(&outer);
}

static void end_scopes_in_wrong_order(void)
{
    coroutine_enter(coroutine_create(end_the_outer_first, NULL));
}

static void drop_a_token_in_use(void)
{
    CoCancel token = {0};
    struct test_wait w = new_wait(aio_context_current(), &token);

    begin_wait(&w);
    co_cancel_deinit(&token);
}

static void move_while_it_waits(void)
{
    CoCancel token = {0};
    AioContext *other = new_context(AIO_ENGINE_THREADS);
    struct test_wait w = new_wait(aio_context_current(), &token);

    begin_wait(&w);
    aio_co_schedule(other, w.co);
    aio_context_set_current(NULL);
    aio_context_set_current(other);
    aio_poll(other, false);
}

static void mistakes_with_scopes_abort(void **state)
{
    assert_bug(move_while_it_waits, "coroutine wait_in_scopes_of was moved while it waits in test");
    assert_bug(leave_a_scope_open, "end_in_a_scope ended in a scope that it began");
    assert_bug(end_scopes_in_wrong_order, "ends a scope that is not its innermost");
    assert_bug(drop_a_token_in_use, "while coroutine wait_in_scopes_of waits in a scope of it");
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        LOOP_CASE(a_token_ends_a_wait),
        LOOP_CASE(an_event_before_the_cancel_wins),
        LOOP_CASE(an_event_takes_its_wait_out_of_the_inbox),
        LOOP_CASE(what_cannot_be_withdrawn_ends_with_its_event),
        LOOP_CASE(a_wait_in_a_scope_that_is_over_does_not_begin),
        LOOP_CASE(a_deadline_ends_a_wait),
        LOOP_CASE(an_event_before_the_deadline_disarms_it),
        LOOP_CASE(the_earlier_of_two_nested_deadlines_counts),
        LOOP_CASE(the_token_of_an_outer_scope_ends_a_wait),
        LOOP_CASE(both_tokens_at_once_end_a_wait_once),
        LOOP_CASE(one_token_ends_all_waits_in_their_order),
        LOOP_CASE(a_shield_keeps_outer_scopes_off),
        LOOP_CASE(without_a_scope_a_wait_is_a_yield),
        LOOP_CASE(a_wait_ends_in_the_thread_it_waits_in),
        LOOP_CASE(a_scope_goes_with_its_coroutine_to_another_context),
        LOOP_CASE(an_event_and_a_cancel_in_two_threads_give_one_wake),
        LOOP_CASE(mistakes_with_scopes_abort),
    };

    return LOOP_RUN(cases);
}
