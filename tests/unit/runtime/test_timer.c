/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <pthread.h>
#include <sched.h>

#include "tests/unit/runtime/death.h"

#define N_RANDOM 500

struct log {
    int fired[N_RANDOM];
    int n;
};

struct timed {
    AioTimer timer;
    struct log *log;
    int number;
    struct timed *other;
    int64_t again_ns;
};

static void note_fired(void *opaque)
{
    struct timed *t = opaque;

    t->log->fired[t->log->n++] = t->number;
}

static void timer_fires_once_and_not_early(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;
    int64_t expire_ns = aio_clock_ns() + 5 * LOOP_MS;
    int calls = 0;

    aio_timer_init(loop->ctx, &timer, count_call, &calls);
    assert_false(timer_pending(&timer));
    timer_mod_ns(&timer, expire_ns);
    assert_true(timer_pending(&timer));
    while (calls == 0)
        aio_poll(loop->ctx, true);
    assert_true(aio_clock_ns() >= expire_ns);
    assert_false(timer_pending(&timer));
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 1);
}

static void expiry_is_inclusive_and_the_past_fires_in_the_next_turn(void **state)
{
    struct loop *loop = *state;
    static const int64_t past[] = {0, -1, INT64_MIN, 1};
    int calls = 0;

    for (int i = 0; i < 4; i++) {
        AioTimer timer;

        aio_timer_init(loop->ctx, &timer, count_call, &calls);
        timer_mod_ns(&timer, i < 3 ? past[i] : aio_clock_ns());
        assert_true(timer_pending(&timer));
        assert_true(aio_poll(loop->ctx, true));
        assert_int_equal(calls, i + 1);
    }
}

static void timers_fire_by_expiry_and_equal_ones_as_armed(void **state)
{
    struct loop *loop = *state;
    static const int64_t expiries[] = {30, 10, 20, 10, 30, 10};
    static const int order[] = {1, 3, 5, 2, 0, 4};
    struct log log = {.n = 0};
    struct timed t[6];

    for (int i = 0; i < 6; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init(loop->ctx, &t[i].timer, note_fired, &t[i]);
        timer_mod_ns(&t[i].timer, expiries[i]);
    }
    assert_true(aio_poll(loop->ctx, false));
    assert_int_equal(log.n, 6);
    assert_memory_equal(log.fired, order, sizeof order);
}

static void many_timers_for_one_time_fire_as_last_armed(void **state)
{
    struct loop *loop = *state;
    struct timed *t = calloc(N_RANDOM, sizeof *t);
    struct log log = {.n = 0};
    int n = 0;

    for (int i = 0; i < N_RANDOM; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init(loop->ctx, &t[i].timer, note_fired, &t[i]);
        timer_mod_ns(&t[i].timer, 5);
    }
    for (int i = 0; i < N_RANDOM; i += 3)
        timer_mod_ns(&t[i].timer, 5); /* goes to the end */
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(log.n, N_RANDOM);
    for (int i = 0; i < N_RANDOM; i++)
        if (i % 3 != 0)
            assert_int_equal(log.fired[n++], i);
    for (int i = 0; i < N_RANDOM; i += 3)
        assert_int_equal(log.fired[n++], i);
    free(t);
}

static void anticipate_only_moves_to_an_earlier_time(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;
    int calls = 0;

    aio_timer_init(loop->ctx, &timer, count_call, &calls);
    timer_mod_anticipate_ns(&timer, 1000);
    assert_int_equal(timer.expire_ns, 1000);
    timer_mod_anticipate_ns(&timer, 2000);
    assert_int_equal(timer.expire_ns, 1000);
    timer_mod_anticipate_ns(&timer, 500);
    assert_int_equal(timer.expire_ns, 500);
    timer_del(&timer);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 0);
}

static void rearm(void *opaque)
{
    struct timed *t = opaque;

    t->number++;
    timer_mod_ns(&t->timer, t->again_ns);
}

static void timer_armed_for_the_past_by_its_callback_waits_for_the_next_turn(void **state)
{
    struct loop *loop = *state;
    struct timed t = {.again_ns = 0};

    aio_timer_init(loop->ctx, &t.timer, rearm, &t);
    timer_mod_ns(&t.timer, 0);
    for (int turn = 1; turn <= 3; turn++) {
        assert_true(aio_poll(loop->ctx, true));
        assert_int_equal(t.number, turn);
    }
    timer_del(&t.timer);
}

static void note_and_disarm_other(void *opaque)
{
    struct timed *t = opaque;

    note_fired(t);
    timer_del(&t->other->timer);
}

static void timer_disarmed_by_another_of_the_same_turn_does_not_fire(void **state)
{
    struct loop *loop = *state;
    struct log log = {.n = 0};
    struct timed t[2];

    for (int i = 0; i < 2; i++) {
        t[i] = (struct timed){.log = &log, .number = i, .other = &t[1 - i]};
        aio_timer_init(loop->ctx, &t[i].timer, note_and_disarm_other, &t[i]);
        timer_mod_ns(&t[i].timer, 0);
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(log.n, 1);
    assert_int_equal(log.fired[0], 0);
}

static void note_and_delay_other(void *opaque)
{
    struct timed *t = opaque;

    note_fired(t);
    timer_mod_ns(&t->other->timer, t->again_ns);
}

static void timer_moved_by_another_of_the_same_turn_fires_when_it_says(void **state)
{
    struct loop *loop = *state;
    struct log log = {.n = 0};
    struct timed t[2];

    for (int i = 0; i < 2; i++) {
        t[i] = (struct timed){.log = &log, .number = i, .other = &t[1]};
        aio_timer_init(loop->ctx, &t[i].timer, i ? note_fired : note_and_delay_other, &t[i]);
        timer_mod_ns(&t[i].timer, 0);
    }
    t[0].again_ns = aio_clock_ns() + 3 * LOOP_MS;
    assert_true(aio_poll(loop->ctx, true));
    assert_true(log.n == 1 || aio_clock_ns() >= t[0].again_ns);
    while (log.n < 2)
        aio_poll(loop->ctx, true);
    assert_true(aio_clock_ns() >= t[0].again_ns);
}

static void free_itself(void *opaque)
{
    struct timed *t = opaque;

    t->log->n++;
    free(t);
}

static void callback_may_free_its_timer(void **state)
{
    struct loop *loop = *state;
    struct log log = {.n = 0};

    for (int i = 0; i < 3; i++) {
        struct timed *t = calloc(1, sizeof *t);

        t->log = &log;
        aio_timer_init(loop->ctx, &t->timer, free_itself, t);
        timer_mod_ns(&t->timer, i);
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(log.n, 3);
}

static void poll_within(void *opaque)
{
    struct timed *t = opaque;

    note_fired(t);
    aio_poll(t->timer.ctx, true);
}

static void nested_poll_fires_what_the_outer_one_left(void **state)
{
    struct loop *loop = *state;
    struct log log = {.n = 0};
    struct timed t[3];

    for (int i = 0; i < 3; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init(loop->ctx, &t[i].timer, i == 0 ? poll_within : note_fired, &t[i]);
        timer_mod_ns(&t[i].timer, i);
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(log.n, 3);
    assert_false(aio_poll(loop->ctx, false));
}

/* How many turns until a timer of the loop's own fires had no sleep in them. One that is due before
 * the loop comes to sleep says nothing, so it has longer each time. */
static uint64_t n_sleepless_turns(struct loop *loop)
{
    const struct aio_counters *counters = loop->ctx->instruments.counters;
    uint64_t n = 1;

    for (int64_t length_ns = 2 * LOOP_MS; n > 0 && length_ns < 2000 * LOOP_MS; length_ns *= 2) {
        uint64_t sleeps = counters->sleeps, polls = counters->polls;
        AioTimer timer;
        int calls = 0;

        aio_timer_init(loop->ctx, &timer, count_call, &calls);
        timer_mod_ns(&timer, aio_clock_ns() + length_ns);
        assert_false(doorbell_is_rung(&loop->ctx->bell));
        while (calls == 0)
            aio_poll(loop->ctx, true);
        n = (counters->polls - polls) - (counters->sleeps - sleeps);
    }
    return n;
}

static void timer_of_the_loop_itself_leaves_no_notification_behind(void **state)
{
    assert_int_equal(n_sleepless_turns(*state), 0);
}

static void far_timer_neither_overflows_nor_spins(void **state)
{
    struct loop *loop = *state;
    AioTimer far;
    int calls = 0;

    aio_timer_init(loop->ctx, &far, count_call, &calls);
    timer_mod_ns(&far, INT64_MAX - 1);
    assert_int_equal(n_sleepless_turns(loop), 0);
    timer_mod_ns(&far, INT64_MAX);
    assert_false(aio_poll(loop->ctx, false));
    timer_del(&far);
    assert_int_equal(calls, 0);
}

/* Though another does. */
static void at_the_end_of_time_what_is_never_due_does_not_fire(void **state)
{
    struct loop *loop = *state;
    AioTimer never, last;
    int n_never = 0, n_last = 0;

    aio_timer_init_full(loop->ctx, &never, AIO_CLOCK_VIRTUAL, 1, count_call, &n_never);
    aio_timer_init_full(loop->ctx, &last, AIO_CLOCK_VIRTUAL, 1, count_call, &n_last);
    timer_mod_ns(&never, INT64_MAX);
    timer_mod_ns(&last, INT64_MAX - 1);
    aio_virtual_clock_set_ns(loop->ctx, INT64_MAX);
    assert_true(aio_poll(loop->ctx, false));
    assert_int_equal(n_last, 1);
    assert_int_equal(n_never, 0);
    assert_false(aio_poll(loop->ctx, false));
    timer_del(&never);
}

static void latest_moment_is_cut_at_the_end_of_time(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;
    int calls = 0;

    aio_timer_init_full(loop->ctx, &timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_MS, count_call, &calls);
    aio_timer_set_slack_ns(&timer, INT64_MAX);
    timer_mod_ns(&timer, 1000);
    assert_true(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL) < 0);
    timer_mod(&timer, INT64_MAX / 2); /* of ms */
    assert_true(timer_expire_time_ns(&timer) == INT64_MAX);
    aio_timer_set_slack_ns(&timer, 0);
    timer_mod_ns(&timer, INT64_MAX - 1);
    assert_true(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL) == INT64_MAX - 1);
    assert_false(aio_poll(loop->ctx, false));
    timer_mod(&timer, INT64_MIN); /* the past */
    assert_int_equal(timer_expire_time_ns(&timer), 0);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(calls, 1);
}

/* ---- units, the heap, what is told ---- */

static void timer_counts_in_its_own_unit(void **state)
{
    struct loop *loop = *state;
    static const int64_t scales[] = {AIO_SCALE_NS, AIO_SCALE_US, AIO_SCALE_MS, AIO_SCALE_S, 7};

    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        AioTimer *timer = aio_timer_new(loop->ctx, AIO_CLOCK_VIRTUAL, scales[i], count_call, NULL);

        timer_mod(timer, 6);
        assert_int_equal(timer_expire_time_ns(timer), 6 * scales[i]);
        timer_mod_anticipate(timer, 7);
        assert_int_equal(timer_expire_time_ns(timer), 6 * scales[i]);
        timer_mod_anticipate(timer, 5);
        assert_int_equal(timer_expire_time_ns(timer), 5 * scales[i]);
        aio_timer_free(timer); /* armed: disarms it */
    }
    aio_timer_free(NULL);
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL), -1);
}

static void timer_tells_whether_its_time_has_come(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;

    aio_timer_init(loop->ctx, &timer, count_call, NULL);
    assert_int_equal(timer_expire_time_ns(&timer), -1);
    assert_false(timer_expired_ns(&timer, INT64_MAX));
    timer_mod_ns(&timer, 1000);
    assert_false(timer_expired_ns(&timer, 999));
    assert_true(timer_expired_ns(&timer, 1000));
    timer_del(&timer);
    assert_false(timer_expired_ns(&timer, 1000));
}

struct freer {
    AioTimer *other;
    int calls;
};

static void free_other(void *opaque)
{
    struct freer *freer = opaque;

    freer->calls++;
    aio_timer_free(freer->other);
    freer->other = NULL;
}

static void callback_may_free_another_timer_of_the_same_turn(void **state)
{
    struct loop *loop = *state;
    struct freer freer = {.calls = 0};
    AioTimer *first =
        aio_timer_new(loop->ctx, AIO_CLOCK_MONOTONIC, AIO_SCALE_NS, free_other, &freer);

    freer.other = aio_timer_new(loop->ctx, AIO_CLOCK_MONOTONIC, AIO_SCALE_NS, free_other, &freer);
    timer_mod_ns(first, 0);
    timer_mod_ns(freer.other, 0);
    assert_true(aio_poll(loop->ctx, true));
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(freer.calls, 1);
    aio_timer_free(first);
}

/* ---- slack ---- */

static void timers_that_may_wait_share_a_wake_up(void **state)
{
    struct loop *loop = *state;
    static const struct {
        int64_t expire_ns, slack_ns;
    } spec[] = {{10, 30}, {20, 10}, {30, 0}, {31, 100}, {150, 0}};
    struct log log = {.n = 0};
    struct timed t[5];
    int n_wake_ups = 0;

    for (int i = 0; i < 5; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init_full(
            loop->ctx, &t[i].timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, note_fired, &t[i]);
        aio_timer_set_slack_ns(&t[i].timer, spec[i].slack_ns);
        timer_mod_ns(&t[i].timer, spec[i].expire_ns);
    }
    for (int64_t ns; (ns = aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL)) >= 0;) {
        aio_virtual_clock_advance_ns(loop->ctx, ns);
        assert_true(aio_poll(loop->ctx, true));
        if (n_wake_ups++ == 0) {
            /* at 30: the latest for the second and the third; the first may fire too */
            assert_int_equal(aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 30);
            assert_int_equal(log.n, 3);
        }
    }
    assert_int_equal(log.n, 5);
    assert_int_equal(n_wake_ups, 3);
}

static void timer_without_slack_is_not_late_for_one_that_has(void **state)
{
    struct loop *loop = *state;
    struct log log = {.n = 0};
    struct timed t[2];

    for (int i = 0; i < 2; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init_full(
            loop->ctx, &t[i].timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, note_fired, &t[i]);
        aio_timer_set_slack_ns(&t[i].timer, i == 0 ? 1000 : 0);
        timer_mod_ns(&t[i].timer, 10 + i);
    }
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 11);
    aio_virtual_clock_set_ns(loop->ctx, 10);
    assert_false(aio_poll(loop->ctx, false));
    aio_virtual_clock_set_ns(loop->ctx, 11);
    assert_true(aio_poll(loop->ctx, false));
    assert_int_equal(log.n, 2);
}

static void loop_that_sleeps_wakes_once_for_timers_near_each_other(void **state)
{
    struct loop *loop = *state;
    int64_t now_ns = aio_clock_ns();
    struct log log = {.n = 0};
    struct timed t[20];

    for (int i = 0; i < 20; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init(loop->ctx, &t[i].timer, note_fired, &t[i]);
        aio_timer_set_slack_ns(&t[i].timer, 60 * LOOP_MS);
        timer_mod_ns(&t[i].timer, now_ns + (20 - i) * LOOP_MS / 10);
    }
    while (log.n == 0)
        aio_poll(loop->ctx, true);
    assert_int_equal(log.n, 20);
}

static void *wake_by_timer(void *opaque)
{
    struct timed *t = opaque;
    AioContext *ctx = t->timer.ctx;

    while (atomic_load_acquire(&ctx->bell.words->notify_me) == 0)
        sched_yield();
    timer_mod_ns(&t->timer, 0);
    return NULL;
}

static void earlier_expiry_set_by_another_thread_shortens_the_sleep(void **state)
{
    struct loop *loop = *state;
    int64_t begin_ns = aio_clock_ns();

    for (int i = 0; i < 50; i++) {
        struct log log = {.n = 0};
        struct timed t = {.log = &log};
        pthread_t thread;

        aio_timer_init(loop->ctx, &t.timer, note_fired, &t);
        timer_mod_ns(&t.timer, begin_ns + LOOP_DEADLINE_NS);
        assert_int_equal(pthread_create(&thread, NULL, wake_by_timer, &t), 0);
        while (log.n == 0)
            aio_poll(loop->ctx, true);
        pthread_join(thread, NULL);
    }
    assert_true(aio_clock_ns() - begin_ns < LOOP_DEADLINE_NS);
}

/* Arms, moves and disarms at random; what is left must fire in order and be all there is. */
static void heap_keeps_order_through_random_changes(void **state)
{
    struct loop *loop = *state;
    struct timed *t = calloc(N_RANDOM, sizeof *t);
    struct log log = {.n = 0};
    int n_armed = 0;

    srandom(1);
    for (int i = 0; i < N_RANDOM; i++) {
        t[i] = (struct timed){.log = &log, .number = i};
        aio_timer_init(loop->ctx, &t[i].timer, note_fired, &t[i]);
    }
    for (int i = 0; i < 20 * N_RANDOM; i++) {
        AioTimer *timer = &t[random() % N_RANDOM].timer;

        switch (random() % 4) {
        case 0:
            timer_del(timer);
            break;
        case 1:
            timer_mod_anticipate_ns(timer, random() % 1000);
            break;
        default:
            timer_mod_ns(timer, random() % 1000);
        }
    }
    int64_t *expire_ns = calloc(N_RANDOM, sizeof *expire_ns);
    for (int i = 0; i < N_RANDOM; i++) {
        expire_ns[i] = t[i].timer.expire_ns;
        n_armed += timer_pending(&t[i].timer);
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(log.n, n_armed);
    for (int i = 1; i < log.n; i++)
        assert_true(expire_ns[log.fired[i - 1]] <= expire_ns[log.fired[i]]);
    free(expire_ns);
    free(t);
}

static void abandon_timer(void)
{
    AioTimer timer;
    AioContext *ctx;

    if (aio_context_new(NULL, &ctx) == 0) {
        aio_timer_init(ctx, &timer, count_call, NULL);
        timer_mod_ns(&timer, 1);
        aio_context_unref(ctx);
    }
}

static void context_that_ends_with_an_armed_timer_aborts(void **state)
{
    assert_bug(abandon_timer, "is still armed");
}

int main(void)
{
    static const struct CMUnitTest timer[] = {
        LOOP_CASE(timer_fires_once_and_not_early),
        LOOP_CASE(expiry_is_inclusive_and_the_past_fires_in_the_next_turn),
        LOOP_CASE(timers_fire_by_expiry_and_equal_ones_as_armed),
        LOOP_CASE(many_timers_for_one_time_fire_as_last_armed),
        LOOP_CASE(anticipate_only_moves_to_an_earlier_time),
        LOOP_CASE(timer_armed_for_the_past_by_its_callback_waits_for_the_next_turn),
        LOOP_CASE(timer_disarmed_by_another_of_the_same_turn_does_not_fire),
        LOOP_CASE(timer_moved_by_another_of_the_same_turn_fires_when_it_says),
        LOOP_CASE(callback_may_free_its_timer),
        LOOP_CASE(nested_poll_fires_what_the_outer_one_left),
        LOOP_CASE(timer_of_the_loop_itself_leaves_no_notification_behind),
        LOOP_CASE(far_timer_neither_overflows_nor_spins),
        LOOP_CASE(at_the_end_of_time_what_is_never_due_does_not_fire),
        LOOP_CASE(latest_moment_is_cut_at_the_end_of_time),
        LOOP_CASE(timer_counts_in_its_own_unit),
        LOOP_CASE(timer_tells_whether_its_time_has_come),
        LOOP_CASE(callback_may_free_another_timer_of_the_same_turn),
        LOOP_CASE(timers_that_may_wait_share_a_wake_up),
        LOOP_CASE(timer_without_slack_is_not_late_for_one_that_has),
        LOOP_CASE(loop_that_sleeps_wakes_once_for_timers_near_each_other),
        LOOP_CASE(earlier_expiry_set_by_another_thread_shortens_the_sleep),
        LOOP_CASE(heap_keeps_order_through_random_changes),
        LOOP_CASE(context_that_ends_with_an_armed_timer_aborts),
    };

    return LOOP_RUN(timer);
}
