/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "runtime/aio_wait.h"
#include "runtime/co_sleep.h"
#include "runtime/coroutine.h"
#include "runtime/source.h"
#include "runtime/thread_pool.h"
#include "tests/unit/runtime/death.h"

static const struct aio_counters *counters(const struct loop *loop)
{
    return loop->ctx->instruments.counters;
}

/* ---- beginning and end ---- */

static void engine_has_a_name_and_says_why_no_better_one_was_taken(void **state)
{
    struct loop *loop = *state;
    struct aio_config none = {.engine = (enum aio_engine)99};
    AioContext *ctx = NULL;

    assert_int_equal(aio_context_engine(loop->ctx), loop->engine);
    assert_string_equal(aio_engine_name(AIO_ENGINE_THREADS), "threads");
    assert_string_equal(aio_engine_name(AIO_ENGINE_LINUX_AIO), "linux-aio");
    assert_string_equal(aio_engine_name(AIO_ENGINE_IO_URING), "io_uring");
    assert_int_equal(aio_context_new(&none, &ctx), -EINVAL);
    assert_null(ctx);

    assert_int_equal(aio_context_new(NULL, &ctx), 0);
    assert_int_not_equal(aio_context_engine(ctx), AIO_ENGINE_AUTO);
    if (aio_context_engine(ctx) != AIO_ENGINE_IO_URING)
        assert_non_null(strstr(aio_context_engine_flags(ctx), "io_uring: "));
    aio_context_unref(ctx);
}

static void context_without_fds_to_have_is_refused_and_leaves_none(void **state)
{
    struct loop *loop = *state;
    struct aio_config config = {.engine = loop->engine};
    struct rlimit old, limit;
    AioContext *ctx = NULL;
    int n_fds = count_fds();

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    limit = old;
    int next = dup(0);
    close(next);
    /* One, two, … fds short of what it needs. */
    for (limit.rlim_cur = (rlim_t)next;; limit.rlim_cur++) {
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        int r = aio_context_new(&config, &ctx);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        if (r == 0)
            break;
        assert_int_equal(r, -EMFILE);
        assert_int_equal(count_fds(), n_fds);
    }
    assert_true(limit.rlim_cur > (rlim_t)next);
    aio_context_unref(ctx);
}

static void *unref_thread(void *opaque)
{
    aio_context_unref(opaque);
    return NULL;
}

static void last_reference_may_be_dropped_by_another_thread(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = new_context(loop->engine);
    pthread_t thread;

    aio_poll(ctx, false);
    assert_ptr_equal(aio_context_ref(ctx), ctx);
    assert_int_equal(pthread_create(&thread, NULL, unref_thread, ctx), 0);
    aio_context_unref(ctx);
    pthread_join(thread, NULL);
}

struct brief {
    AioContext *ctx;
    bool over; /* the loop's */
};

static void coroutine_fn end_brief(void *opaque)
{
    ((struct brief *)opaque)->over = true;
}

/* Has the only reference. */
static void *brief_thread(void *opaque)
{
    struct brief *brief = opaque;

    aio_context_set_current(brief->ctx);
    while (!brief->over)
        aio_poll(brief->ctx, true);
    aio_context_set_current(NULL);
    aio_context_unref(brief->ctx);
    return NULL;
}

static void who_schedules_a_coroutine_keeps_the_context_that_it_ends(void **state)
{
    struct loop *loop = *state;

    for (int i = 0; i < 200; i++) {
        struct brief brief = {.ctx = new_context(loop->engine)};
        Coroutine *co = coroutine_create(end_brief, &brief);
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, brief_thread, &brief), 0);
        aio_co_schedule(brief.ctx, co);
        pthread_join(thread, NULL);
    }
}

static void *poll_thread(void *opaque)
{
    aio_poll(opaque, false);
    return NULL;
}

static void poll_from_two_threads(void)
{
    AioContext *ctx;
    pthread_t thread;

    if (aio_context_new(NULL, &ctx) == 0) {
        aio_poll(ctx, false);
        pthread_create(&thread, NULL, poll_thread, ctx);
        pthread_join(thread, NULL);
    }
}

static void poll_from_a_thread_that_is_not_home_aborts(void **state)
{
    assert_bug(poll_from_two_threads, "home");
}

static int return_seven(void *opaque)
{
    return 7;
}

static void *make_current(void *opaque)
{
    aio_context_set_current(opaque);
    aio_context_set_current(NULL);
    return NULL;
}

static void make_current_in_two_threads(void)
{
    AioContext *ctx;
    pthread_t thread;

    if (aio_context_new(NULL, &ctx) == 0) {
        aio_context_set_current(NULL); /* the fixture's */
        aio_context_set_current(ctx);
        pthread_create(&thread, NULL, make_current, ctx);
        pthread_join(thread, NULL);
    }
}

static void being_current_in_a_second_thread_aborts(void **state)
{
    assert_bug(make_current_in_two_threads, "home");
}

static void a_context_never_polled_may_become_anothers(void **state)
{
    AioContext *ctx;
    pthread_t thread;

    assert_int_equal(aio_context_new(NULL, &ctx), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&thread, NULL, make_current, ctx), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    aio_poll(ctx, false);
    aio_context_unref(ctx);
}

static void end_of_a_context_leaves_the_thread_without_one(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = new_context(loop->engine);

    aio_context_set_current(NULL);
    aio_context_set_current(ctx);
    aio_poll(ctx, false);
    aio_context_unref(ctx);
    assert_null(aio_context_current());
    aio_notify(loop->ctx); /* counts in the sender's context */
    aio_context_set_current(loop->ctx);
}

struct turn_of_another {
    AioContext *ctx, *other;
    AioContext *seen, *seen_within, *seen_after;
};

static void note_within(void *opaque)
{
    struct turn_of_another *t = opaque;

    t->seen_within = aio_context_current();
}

static void turn_the_other(void *opaque)
{
    struct turn_of_another *t = opaque;

    t->seen = aio_context_current();
    assert_int_equal(aio_bh_schedule_oneshot(t->other, note_within, t), 0);
    assert_false(AIO_WAIT_WHILE(t->ctx, false)); /* this thread is its home too */
    assert_true(aio_poll(t->other, false));
    t->seen_after = aio_context_current();
}

static void a_turn_makes_its_context_current(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = new_context(loop->engine);
    struct turn_of_another t = {.ctx = loop->ctx, .other = loop->ctx};

    for (int i = 0; i < 2; i++) {
        assert_int_equal(aio_bh_schedule_oneshot(ctx, turn_the_other, &t), 0);
        assert_true(aio_poll(ctx, false));
        assert_ptr_equal(t.seen, ctx);
        assert_ptr_equal(t.seen_within, loop->ctx);
        assert_ptr_equal(t.seen_after, ctx);
        assert_ptr_equal(aio_context_current(), i == 0 ? loop->ctx : NULL);
        aio_context_set_current(NULL);
    }
    aio_context_set_current(loop->ctx);
    aio_context_unref(ctx);
}

static void coroutine_of_a_context_that_is_only_polled_waits_there(void *opaque)
{
    AioContext *ctx = coroutine_get_aio_context(coroutine_self());

    co_sleep_ns(1);
    assert_int_equal(thread_pool_submit_co(return_seven, NULL), 7);
    assert_ptr_equal(coroutine_get_aio_context(coroutine_self()), ctx);
    assert_ptr_equal(aio_context_current(), ctx);
    set_flag(opaque);
}

static void a_thread_may_poll_a_context_that_it_never_made_current(void **state)
{
    struct loop *loop = *state;
    struct loop other = {.ctx = new_context(loop->engine)};
    bool done = false;

    aio_context_set_current(NULL);
    aio_co_schedule(
        other.ctx, coroutine_create(coroutine_of_a_context_that_is_only_polled_waits_there, &done));
    loop_until(&other, &done);
    assert_null(aio_context_current());
    aio_context_unref(other.ctx);
    aio_context_set_current(loop->ctx);
}

static void doorbell_and_instruments_handed_in_are_used_and_kept(void **state)
{
    struct loop *loop = *state;
    struct doorbell_words words = {.notify_me = 2, .notified = 1};
    struct doorbell bell = {.words = &words, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    struct aio_counters own_counters = {0};
    struct aio_instruments instruments = {.counters = &own_counters};
    struct aio_config config = {
        .engine = loop->engine, .doorbell = &bell, .instruments = &instruments};
    AioContext *ctx;

    assert_int_equal(aio_context_new(&config, &ctx), 0);
    /* Raised by one who died asleep: it would cost every sender a write. */
    assert_int_equal(words.notify_me, 0);
    assert_false(aio_poll(ctx, true));
    assert_int_equal(own_counters.polls, 1);
    aio_notify(ctx);
    assert_int_equal(words.notified, 1);
    aio_context_unref(ctx);
    assert_int_equal(close(bell.fd), 0);
}

/* ---- the lock for users ---- */

struct holder {
    AioContext *ctx;
    bool holds;     /* atomic */
    bool may_leave; /* atomic */
};

static void *hold_thread(void *opaque)
{
    struct holder *holder = opaque;

    aio_context_acquire(holder->ctx);
    atomic_store_release(&holder->holds, true);
    while (!atomic_load_acquire(&holder->may_leave))
        sched_yield();
    aio_context_release(holder->ctx);
    return NULL;
}

static void lock_of_the_context_is_recursive_and_the_loop_never_takes_it(void **state)
{
    struct loop *loop = *state;
    struct holder holder = {.ctx = loop->ctx};
    pthread_t thread;
    int calls = 0;

    assert_int_equal(pthread_create(&thread, NULL, hold_thread, &holder), 0);
    while (!atomic_load_acquire(&holder.holds))
        sched_yield();
    aio_bh_schedule_oneshot(loop->ctx, count_call, &calls);
    assert_true(aio_poll(loop->ctx, true));
    atomic_store_release(&holder.may_leave, true);
    aio_context_acquire(loop->ctx);
    aio_context_acquire(loop->ctx);
    aio_context_release(loop->ctx);
    aio_context_release(loop->ctx);
    pthread_join(thread, NULL);
}

__attribute__((unused)) static void release_unacquired(void)
{
    AioContext *ctx;

    if (aio_context_new(NULL, &ctx) == 0)
        aio_context_release(ctx);
}

static void release_of_a_context_not_acquired_aborts(void **state)
{
#ifdef __SANITIZE_THREAD__
    skip(); /* which says so itself, in its own words */
#else
    assert_bug(release_unacquired, "has not acquired it");
#endif
}

/* ---- notifications ---- */

static void poll_without_work_is_no_progress(void **state)
{
    struct loop *loop = *state;

    assert_false(aio_poll(loop->ctx, false));
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(counters(loop)->polls, 2);
    assert_int_equal(counters(loop)->sleeps, 0);
}

static void notification_before_a_blocking_poll_lets_it_return_once(void **state)
{
    struct loop *loop = *state;

    aio_notify(loop->ctx);
    assert_false(aio_poll(loop->ctx, true));
    assert_int_equal(counters(loop)->sleeps, 0);
    assert_false(doorbell_is_rung(&loop->ctx->bell));
}

struct wake {
    AioContext *receiver;
    bool sent;
};

static void *notify_when_asleep(void *opaque)
{
    struct wake *wake = opaque;
    AioContext *sender = new_context(AIO_ENGINE_THREADS);

    aio_context_set_current(sender);
    wait_for_sleep(wake->receiver);
    atomic_store_release(&wake->sent, true);
    aio_notify(wake->receiver);
    assert_int_equal(sender->instruments.counters->rings_sent, 1);
    aio_context_set_current(NULL);
    aio_context_unref(sender);
    return NULL;
}

static void notification_ends_a_wait_and_is_counted_by_its_sender(void **state)
{
    struct loop *loop = *state;
    struct wake wake = {.receiver = loop->ctx};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, notify_when_asleep, &wake), 0);
    /* The one that ends though nothing ran is the one that was notified. */
    while (!atomic_load_acquire(&wake.sent))
        aio_poll(loop->ctx, true);
    pthread_join(thread, NULL);
    assert_int_equal(counters(loop)->rings_sent, 0);
    assert_int_equal(counters(loop)->rings_saved, 0);
}

static void notification_of_an_awake_context_is_counted_as_saved(void **state)
{
    struct loop *loop = *state;
    AioContext *other = new_context(loop->engine);

    aio_notify(other);
    aio_notify(loop->ctx);
    assert_int_equal(counters(loop)->rings_saved, 1);
    assert_int_equal(counters(loop)->rings_sent, 0);
    aio_context_unref(other);
}

/* Two loops in two threads, each waking the other from its sleep. */
#define N_VOLLEYS 20000

struct player {
    AioContext *ctx;
    struct player *other;
    int hits;
    bool done;
};

static void hit(void *opaque)
{
    struct player *player = opaque;

    if (++player->hits < N_VOLLEYS) {
        aio_bh_schedule_oneshot(player->other->ctx, hit, player->other);
    } else {
        player->done = true;
        if (player->other->hits < N_VOLLEYS)
            aio_bh_schedule_oneshot(player->other->ctx, hit, player->other);
    }
}

static void *play_thread(void *opaque)
{
    struct player *player = opaque;

    aio_context_set_current(player->ctx);
    while (!player->done)
        aio_poll(player->ctx, true);
    aio_context_set_current(NULL);
    return NULL;
}

static void loops_that_wake_each_other_lose_no_wake_up(void **state)
{
    struct loop *loop = *state;
    struct player here = {.ctx = loop->ctx};
    struct player there = {.ctx = new_context(loop->engine), .other = &here};
    pthread_t thread;

    here.other = &there;
    assert_int_equal(pthread_create(&thread, NULL, play_thread, &there), 0);
    aio_bh_schedule_oneshot(loop->ctx, hit, &here);
    loop_until(loop, &here.done);
    pthread_join(thread, NULL);
    assert_int_equal(here.hits, N_VOLLEYS);
    assert_int_equal(there.hits, N_VOLLEYS);
    aio_context_unref(there.ctx);
}

static void stop_loop(void *opaque)
{
    ((struct player *)opaque)->done = true;
}

static void loops_started_and_stopped_without_work_all_end(void **state)
{
    struct loop *loop = *state;

    for (int i = 0; i < 300; i++) {
        struct player player = {.ctx = new_context(loop->engine)};
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, play_thread, &player), 0);
        aio_bh_schedule_oneshot(player.ctx, stop_loop, &player);
        pthread_join(thread, NULL);
        aio_context_unref(player.ctx);
    }
}

static void loop_with_nothing_to_do_does_not_wake(void **state)
{
    struct loop *loop = *state;
    struct player player = {.ctx = new_context(loop->engine)};
    const struct aio_counters *idle = player.ctx->instruments.counters;
    pthread_t thread;
    int calls = 0;
    AioTimer timer;

    assert_int_equal(pthread_create(&thread, NULL, play_thread, &player), 0);
    wait_for_sleep(player.ctx);
    uint64_t before = atomic_load_relaxed(&idle->polls);
    aio_timer_init(loop->ctx, &timer, count_call, &calls);
    timer_mod_ns(&timer, aio_clock_ns() + 50 * LOOP_MS);
    while (calls == 0)
        aio_poll(loop->ctx, true);
    /* One where the kernel takes apart what an earlier case has closed. */
    assert_in_range(atomic_load_relaxed(&idle->polls), before, before + 1);
    aio_bh_schedule_oneshot(player.ctx, stop_loop, &player);
    pthread_join(thread, NULL);
    aio_context_unref(player.ctx);
}

/* ---- sources, and the order of a turn ---- */

struct trace {
    char text[64];
    size_t n;
    bool has_work;
    AioContext *ctx;
};

static void note(struct trace *trace, char what)
{
    if (trace->n < sizeof trace->text - 1)
        trace->text[trace->n++] = what;
}

static bool trace_pending(void *opaque)
{
    struct trace *trace = opaque;

    note(trace, 'p');
    /* Raised already: what comes after this look would ring. */
    assert_int_not_equal(trace->ctx->bell.words->notify_me, 0);
    return trace->has_work;
}

static bool trace_dispatch(void *opaque)
{
    struct trace *trace = opaque;
    bool progress = trace->has_work;

    note(trace, 's');
    trace->has_work = false;
    return progress;
}

static void trace_flush(void *opaque)
{
    note(opaque, '.');
}

static void trace_bh(void *opaque)
{
    note(opaque, 'b');
}

static void trace_fd(void *opaque)
{
    note(opaque, 'f');
}

static void trace_timer(void *opaque)
{
    note(opaque, 't');
}

static void turn_has_its_phases_in_order_and_flushes_after_each(void **state)
{
    struct loop *loop = *state;
    struct trace trace = {.ctx = loop->ctx, .has_work = true};
    struct aio_source source = {trace_pending, trace_dispatch, trace_flush, &trace, NULL};
    AioTimer timer;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    aio_set_fd_handler(loop->ctx, fds[0], trace_fd, NULL, NULL, NULL, &trace);
    /* A turn for the monitor to take the fd over. */
    while (trace.n == 0)
        aio_poll(loop->ctx, true);
    memset(&trace.text, 0, sizeof trace.text);
    trace.n = 0;
    aio_add_source(loop->ctx, &source);
    aio_timer_init(loop->ctx, &timer, trace_timer, &trace);
    timer_mod_ns(&timer, 0);
    aio_bh_schedule_oneshot(loop->ctx, trace_bh, &trace);
    assert_true(aio_poll(loop->ctx, true));
    assert_string_equal(trace.text, ".s.b.f.t.");
    aio_remove_source(loop->ctx, &source);
    aio_set_fd_handler(loop->ctx, fds[0], NULL, NULL, NULL, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

static void source_with_work_keeps_the_loop_from_sleeping(void **state)
{
    struct loop *loop = *state;
    struct trace trace = {.ctx = loop->ctx, .has_work = true};
    struct aio_source source = {trace_pending, trace_dispatch, trace_flush, &trace, NULL};

    aio_add_source(loop->ctx, &source);
    assert_true(aio_poll(loop->ctx, true));
    /* Flushed before the look, and the look before the wait. */
    assert_memory_equal(trace.text, ".ps.", 4);
    assert_int_equal(counters(loop)->sleeps, 0);
    aio_remove_source(loop->ctx, &source);
}

static void sources_are_taken_off_in_any_order(void **state)
{
    struct loop *loop = *state;
    struct trace trace = {.ctx = loop->ctx};
    struct aio_source sources[3];

    for (int i = 0; i < 3; i++) {
        sources[i] = (struct aio_source){trace_pending, trace_dispatch, trace_flush, &trace, NULL};
        aio_add_source(loop->ctx, &sources[i]);
    }
    aio_remove_source(loop->ctx, &sources[1]);
    aio_poll(loop->ctx, false);
    assert_string_equal(trace.text, "..ss"); /* which did nothing: nothing more is flushed */
    aio_remove_source(loop->ctx, &sources[2]);
    aio_remove_source(loop->ctx, &sources[0]);
    assert_null(loop->ctx->sources);
}

int main(void)
{
    static const struct CMUnitTest aio[] = {
        LOOP_CASE(engine_has_a_name_and_says_why_no_better_one_was_taken),
        LOOP_CASE(context_without_fds_to_have_is_refused_and_leaves_none),
        LOOP_CASE(last_reference_may_be_dropped_by_another_thread),
        LOOP_CASE(who_schedules_a_coroutine_keeps_the_context_that_it_ends),
        LOOP_CASE(poll_from_a_thread_that_is_not_home_aborts),
        LOOP_CASE(being_current_in_a_second_thread_aborts),
        LOOP_CASE(a_context_never_polled_may_become_anothers),
        LOOP_CASE(end_of_a_context_leaves_the_thread_without_one),
        LOOP_CASE(a_turn_makes_its_context_current),
        LOOP_CASE(a_thread_may_poll_a_context_that_it_never_made_current),
        LOOP_CASE(doorbell_and_instruments_handed_in_are_used_and_kept),
        LOOP_CASE(lock_of_the_context_is_recursive_and_the_loop_never_takes_it),
        LOOP_CASE(release_of_a_context_not_acquired_aborts),
        LOOP_CASE(poll_without_work_is_no_progress),
        LOOP_CASE(notification_before_a_blocking_poll_lets_it_return_once),
        LOOP_CASE(notification_ends_a_wait_and_is_counted_by_its_sender),
        LOOP_CASE(notification_of_an_awake_context_is_counted_as_saved),
        LOOP_CASE(loops_that_wake_each_other_lose_no_wake_up),
        LOOP_CASE(loops_started_and_stopped_without_work_all_end),
        LOOP_CASE(loop_with_nothing_to_do_does_not_wake),
        LOOP_CASE(turn_has_its_phases_in_order_and_flushes_after_each),
        LOOP_CASE(source_with_work_keeps_the_loop_from_sleeping),
        LOOP_CASE(sources_are_taken_off_in_any_order),
    };

    return LOOP_RUN(aio);
}
