/* SPDX-License-Identifier: MIT */
/*
 * co_timeout(): leaving behind what cannot be ended. Its source is compiled in here, with the hook
 * on, in place of the library's, so that a case can let the function end just before the caller
 * leaves it.
 */
#define SHERD_ATOMIC_HOOK
#include "runtime/co_timeout.c"

#include "tests/unit/runtime/co_actor.h"

#define MS     1000000LL
#define FAR_NS (600 * 1000 * MS)

static Coroutine *worker; /* that yields until it is entered */
static int n_begun;
static int n_over;
static int n_cleaned;

static void coroutine_fn work(void *opaque)
{
    n_begun++;
    worker = coroutine_self();
    coroutine_yield();
    n_over++;
}

static void coroutine_fn work_at_once(void *opaque)
{
    n_begun++;
    n_over++;
}

static void clean(void *opaque)
{
    assert_int_equal(n_over, n_begun); /* after the end, not at the timeout */
    n_cleaned++;
}

/* An actor's arg is the timeout. */
static int coroutine_fn work_with_timeout(struct actor *actor)
{
    return co_timeout(work, NULL, (int64_t)actor->arg, clean);
}

static int coroutine_fn work_at_once_with_timeout(struct actor *actor)
{
    return co_timeout(work_at_once, NULL, (int64_t)actor->arg, clean);
}

static void begin(struct actor *actor, uint64_t timeout_ns)
{
    n_begun = n_over = n_cleaned = 0;
    actor->arg = timeout_ns;
    actor_start(actor);
}

static void what_ends_in_time_is_not_cleaned(void **state)
{
    const uint64_t timeouts[] = {0, FAR_NS, INT64_MAX};

    for (int i = 0; i < 3; i++) {
        struct actor a;

        begin(&a, timeouts[i]);
        actor_do(&a, work_at_once_with_timeout);
        assert_int_equal(a.result, 0);
        actor_do(&a, work_with_timeout);
        assert_true(a.is_busy);
        coroutine_enter(worker);
        settle();
        assert_false(a.is_busy);
        assert_int_equal(a.result, 0);
        assert_int_equal(n_over, 2);
        assert_int_equal(n_cleaned, 0);
        actor_stop(&a);
    }
}

static void what_is_left_behind_is_cleaned_at_its_end(void **state)
{
    struct actor a;

    begin(&a, MS);
    actor_do(&a, work_with_timeout);
    while (a.is_busy)
        aio_poll(ctx, true);
    assert_int_equal(a.result, -ETIMEDOUT);
    assert_int_equal(n_cleaned, 0);
    coroutine_enter(worker);
    assert_int_equal(n_cleaned, 1);
    actor_stop(&a);
}

static void a_cancel_leaves_it_behind_too(void **state)
{
    struct actor a;

    begin(&a, 0);
    actor_do(&a, work_with_timeout);
    actor_cancel(&a);
    assert_int_equal(a.result, -ECANCELED);
    coroutine_enter(worker);
    assert_int_equal(n_cleaned, 1);
    actor_stop(&a);
}

static bool ends_before_leaving;

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    if (!ends_before_leaving || !strstr(file, "co_timeout.c"))
        return;
    ends_before_leaving = false;
    coroutine_enter(worker);
}

static void what_ends_between_the_timeout_and_the_leaving_was_in_time(void **state)
{
    struct actor a;

    begin(&a, 0);
    actor_do(&a, work_with_timeout);
    ends_before_leaving = true;
    actor_cancel(&a);
    assert_false(ends_before_leaving);
    assert_int_equal(a.result, 0);
    assert_int_equal(n_over, 1);
    assert_int_equal(n_cleaned, 0);
    actor_stop(&a);
}

/* One that works in another thread for about as long as its caller waits. */
static int n_ends;

struct job {
    AioContext *home;
    AioContext *other;
    int64_t time_ns;
    bool is_over;
};

static void coroutine_fn work_elsewhere(void *opaque)
{
    struct job *job = opaque;

    aio_co_reschedule_self(job->other);
    co_sleep_ns(job->time_ns);
    job->is_over = true;
}

static void free_job(void *opaque)
{
    struct job *job = opaque;

    assert(job->is_over);
    free(job);
    atomic_add_seq(&n_ends, 1);
}

static void coroutine_fn race(void *opaque)
{
    struct chance chance = {.state = 7};

    for (int i = 0; i < 200; i++) {
        struct job *job = calloc(1, sizeof *job);

        *job = (struct job){.home = ctx, .other = opaque};
        job->time_ns = (int64_t)chance_below(&chance, 50000);
        if (co_timeout(work_elsewhere, job, 1 + (int64_t)chance_below(&chance, 80000), free_job) ==
            0)
            free_job(job);
    }
    thread_done();
}

static void an_end_and_a_timeout_in_two_threads_leave_it_to_one(void **state)
{
    struct loop_thread other;

    n_ended = n_ends = 0;
    loop_thread_start(&other);
    start(race, other.ctx);
    assert_true(poll_until(ctx, &n_ended, 1));
    assert_true(poll_until(ctx, &n_ends, 200)); /* each was freed once */
    loop_thread_stop(&other);
    assert_int_equal(n_ends, 200);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(what_ends_in_time_is_not_cleaned),
        CASE(what_is_left_behind_is_cleaned_at_its_end),
        CASE(a_cancel_leaves_it_behind_too),
        CASE(what_ends_between_the_timeout_and_the_leaving_was_in_time),
        CASE(an_end_and_a_timeout_in_two_threads_leave_it_to_one),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
