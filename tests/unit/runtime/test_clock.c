/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

#include "tests/unit/runtime/loop_fixture.h"

#define FAR_NS (INT64_C(1000) * AIO_SCALE_S)

static const enum AioClock clocks_that_go_by_themselves[] = {
    AIO_CLOCK_MONOTONIC, AIO_CLOCK_REALTIME, AIO_CLOCK_BOOTTIME};

static const enum AioClock clocks_that_jump[] = {AIO_CLOCK_REALTIME, AIO_CLOCK_BOOTTIME};

#define FOR_EACH(clock, clocks)                                                    \
    for (size_t clock##_i = 0; clock##_i < sizeof(clocks) / sizeof((clocks)[0]) && \
                               ((clock = (clocks)[clock##_i]), true);              \
         clock##_i++)

static struct clock_fd *clock_fd_of(AioContext *ctx, enum AioClock clock)
{
    return &ctx->timers.lists[clock].clock_fd;
}

/* ---- clocks that go by themselves ---- */

static void timer_of_each_clock_fires_when_that_clock_says_so(void **state)
{
    struct loop *loop = *state;
    enum AioClock clock;

    FOR_EACH(clock, clocks_that_go_by_themselves)
    {
        int64_t expire_ns = aio_clock_get_ns(loop->ctx, clock) + 2 * AIO_SCALE_MS;
        AioTimer timer;
        bool fired = false;

        aio_timer_init_full(loop->ctx, &timer, clock, AIO_SCALE_NS, set_flag, &fired);
        timer_mod_ns(&timer, expire_ns);
        loop_until(loop, &fired);
        assert_true(aio_clock_get_ns(loop->ctx, clock) >= expire_ns);
        assert_false(timer_pending(&timer));
    }
}

/* What is measured on CLOCK_MONOTONIC would not notice that the clock was set, nor a suspend. */
static void wait_for_a_clock_that_jumps_is_measured_on_that_clock(void **state)
{
    struct loop *loop = *state;
    enum AioClock clock;

    FOR_EACH(clock, clocks_that_jump)
    {
        AioTimer timer;

        aio_timer_init_full(loop->ctx, &timer, clock, AIO_SCALE_NS, count_call, NULL);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1);
        assert_false(clock_fd_of(loop->ctx, clock)->is_watched);
        timer_mod_ns(&timer, aio_clock_get_ns(loop->ctx, clock) + FAR_NS);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1);
        assert_true(clock_fd_of(loop->ctx, clock)->is_watched);
        timer_del(&timer);
        aio_poll(loop->ctx, false);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1);
        assert_true(clock_fd_of(loop->ctx, clock)->set_ns == INT64_MAX);
        assert_false(doorbell_is_rung(&loop->ctx->bell)); /* a turn for nothing */
    }
}

/* As after a step back: the fd has woken the loop, and the time has not come. */
static void wake_up_before_the_time_fires_nothing_and_sets_the_fd_again(void **state)
{
    struct loop *loop = *state;
    enum AioClock clock;

    FOR_EACH(clock, clocks_that_jump)
    {
        int64_t expire_ns = aio_clock_get_ns(loop->ctx, clock) + FAR_NS;
        struct clock_fd *clock_fd = clock_fd_of(loop->ctx, clock);
        struct itimerspec at_once = {.it_value = {.tv_nsec = 1}};
        AioTimer timer;
        int calls = 0;

        aio_timer_init_full(loop->ctx, &timer, clock, AIO_SCALE_NS, count_call, &calls);
        timer_mod_ns(&timer, expire_ns);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1);
        assert_true(clock_fd->set_ns == expire_ns);
        assert_int_equal(timerfd_settime(clock_fd->fd, TFD_TIMER_ABSTIME, &at_once, NULL), 0);
        while (clock_fd->set_ns == expire_ns)
            aio_poll(loop->ctx, true);
        assert_int_equal(calls, 0);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1);
        assert_true(clock_fd->set_ns == expire_ns);
        timer_del(&timer);
    }
}

static void clock_fd_wakes_the_loop_without_being_progress(void **state)
{
    struct loop *loop = *state;
    struct clock_fd *clock_fd = clock_fd_of(loop->ctx, AIO_CLOCK_REALTIME);
    struct itimerspec at_once = {.it_value = {.tv_nsec = 1}};
    int64_t expire_ns = aio_clock_get_ns(loop->ctx, AIO_CLOCK_REALTIME) + FAR_NS;
    AioTimer timer;

    aio_timer_init_full(loop->ctx, &timer, AIO_CLOCK_REALTIME, AIO_SCALE_NS, count_call, NULL);
    timer_mod_ns(&timer, expire_ns);
    aio_poll(loop->ctx, false);
    assert_int_equal(aio_compute_timeout(loop->ctx), -1);
    assert_int_equal(timerfd_settime(clock_fd->fd, TFD_TIMER_ABSTIME, &at_once, NULL), 0);
    while (clock_fd->set_ns == expire_ns)
        assert_false(aio_poll(loop->ctx, true));
    timer_del(&timer);
}

static void without_an_fd_to_be_had_a_timer_fires_all_the_same(void **state)
{
    struct loop *loop = *state;
    enum AioClock clock;
    struct rlimit usual, none;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    FOR_EACH(clock, clocks_that_jump)
    {
        AioTimer timer;
        bool fired = false;

        none = (struct rlimit){.rlim_cur = 0, .rlim_max = usual.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        aio_timer_init_full(loop->ctx, &timer, clock, AIO_SCALE_NS, set_flag, &fired);
        timer_mod_ns(&timer, aio_clock_get_ns(loop->ctx, clock) + FAR_NS);
        /* looked at now and then */
        assert_in_range(aio_compute_timeout(loop->ctx), 1, AIO_SCALE_S);
        timer_mod_ns(&timer, aio_clock_get_ns(loop->ctx, clock) + 2 * AIO_SCALE_MS);
        loop_until(loop, &fired);
        assert_false(clock_fd_of(loop->ctx, clock)->is_open);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    }
}

struct far_timer {
    AioTimer timer;
    AioContext *ctx;
    bool fired;
};

static void *make_it_due_when_asleep(void *opaque)
{
    struct far_timer *t = opaque;

    wait_for_sleep(t->ctx);
    timer_mod_ns(&t->timer, 0);
    return NULL;
}

static void earlier_expiry_set_by_another_thread_shortens_the_sleep_on_each_clock(void **state)
{
    struct loop *loop = *state;
    enum AioClock clock;

    FOR_EACH(clock, clocks_that_go_by_themselves)
    {
        struct far_timer t = {.ctx = loop->ctx};
        pthread_t thread;

        aio_timer_init_full(loop->ctx, &t.timer, clock, AIO_SCALE_NS, set_flag, &t.fired);
        timer_mod_ns(&t.timer, aio_clock_get_ns(loop->ctx, clock) + FAR_NS);
        assert_int_equal(pthread_create(&thread, NULL, make_it_due_when_asleep, &t), 0);
        loop_until(loop, &t.fired);
        pthread_join(thread, NULL);
    }
}

/* ---- the virtual clock ---- */

static void virtual_clock_moves_where_it_is_told(void **state)
{
    struct loop *loop = *state;

    assert_int_equal(aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 0);
    aio_virtual_clock_advance_ns(loop->ctx, 5);
    aio_virtual_clock_advance_ns(loop->ctx, 5);
    assert_int_equal(aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 10);
    aio_virtual_clock_set_ns(loop->ctx, 3);
    assert_int_equal(aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 3);
    aio_virtual_clock_advance_ns(loop->ctx, INT64_MAX);
    assert_true(aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL) == INT64_MAX);
}

static void virtual_timer_fires_when_the_clock_was_moved_to_it(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;
    int calls = 0;

    aio_timer_init_full(loop->ctx, &timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_US, count_call, &calls);
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL), -1);
    timer_mod(&timer, 2);
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_VIRTUAL), 2000);
    assert_int_equal(aio_compute_timeout(loop->ctx), -1); /* nothing that waiting would bring */
    aio_virtual_clock_set_ns(loop->ctx, 1999);
    assert_false(aio_poll(loop->ctx, false));
    aio_virtual_clock_advance_ns(loop->ctx, 1);
    assert_int_equal(aio_compute_timeout(loop->ctx), 0);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(calls, 1);
}

static void *move_clock_when_asleep(void *opaque)
{
    struct far_timer *t = opaque;

    wait_for_sleep(t->ctx);
    aio_virtual_clock_advance_ns(t->ctx, 10);
    return NULL;
}

static void moving_the_virtual_clock_wakes_a_loop_that_sleeps(void **state)
{
    struct loop *loop = *state;

    for (int i = 0; i < 20; i++) {
        struct far_timer t = {.ctx = loop->ctx};
        int64_t now_ns = aio_clock_get_ns(loop->ctx, AIO_CLOCK_VIRTUAL);
        pthread_t thread;

        aio_timer_init_full(
            loop->ctx, &t.timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, set_flag, &t.fired);
        timer_mod_ns(&t.timer, now_ns + 10);
        assert_int_equal(pthread_create(&thread, NULL, move_clock_when_asleep, &t), 0);
        loop_until(loop, &t.fired);
        pthread_join(thread, NULL);
    }
}

struct mover {
    AioContext *ctx;
    int calls;
};

static void count_and_move_clock(void *opaque)
{
    struct mover *mover = opaque;

    mover->calls++;
    aio_virtual_clock_advance_ns(mover->ctx, 100);
}

static void time_is_read_once_a_turn(void **state)
{
    struct loop *loop = *state;
    struct mover mover = {.ctx = loop->ctx};
    AioTimer timers[2];

    for (int i = 0; i < 2; i++) {
        aio_timer_init_full(
            loop->ctx, &timers[i], AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, count_and_move_clock, &mover);
        timer_mod_ns(&timers[i], i); /* the second is due only once the first has run */
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(mover.calls, 1);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(mover.calls, 2);
}

/* ---- stopping a clock ---- */

static void timers_of_a_stopped_clock_fire_when_it_is_started(void **state)
{
    struct loop *loop = *state;
    AioTimer timer;
    int calls = 0;

    aio_timer_init(loop->ctx, &timer, count_call, &calls);
    timer_mod_ns(&timer, 0);
    aio_clock_enable(loop->ctx, AIO_CLOCK_MONOTONIC, false);
    assert_int_equal(aio_compute_timeout(loop->ctx), -1);
    assert_int_equal(aio_clock_deadline_ns(loop->ctx, AIO_CLOCK_MONOTONIC), -1);
    assert_false(aio_poll(loop->ctx, false));
    timer_mod_ns(&timer, 1);
    assert_false(aio_poll(loop->ctx, false));
    assert_true(timer_pending(&timer));
    aio_clock_enable(loop->ctx, AIO_CLOCK_MONOTONIC, true);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(calls, 1);
}

struct stopper {
    AioTimer timer;
    AioContext *ctx;
    int *calls;
};

static void count_and_stop_clock(void *opaque)
{
    struct stopper *s = opaque;

    ++*s->calls;
    aio_clock_enable(s->ctx, AIO_CLOCK_VIRTUAL, false);
}

static void callback_may_stop_its_own_clock(void **state)
{
    struct loop *loop = *state;
    struct stopper s[3];
    int calls = 0;

    for (int i = 0; i < 3; i++) {
        s[i] = (struct stopper){.ctx = loop->ctx, .calls = &calls};
        aio_timer_init_full(
            loop->ctx, &s[i].timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, count_and_stop_clock, &s[i]);
        timer_mod_ns(&s[i].timer, 0);
    }
    for (int turn = 1; turn <= 3; turn++) {
        assert_true(aio_poll(loop->ctx, true));
        assert_false(aio_poll(loop->ctx, false));
        assert_int_equal(calls, turn);
        aio_clock_enable(loop->ctx, AIO_CLOCK_VIRTUAL, true);
    }
}

/* A callback that takes its time, and a thread that stops the clock meanwhile. */
struct slow {
    AioContext *ctx;
    bool has_begun;
    bool stop_began;
    bool has_ended;
    bool ended_when_stopped;
    bool stop_returned;
};

static void run_slowly(void *opaque)
{
    struct slow *slow = opaque;

    atomic_store_release(&slow->has_begun, true);
    while (!atomic_load_acquire(&slow->stop_began))
        sched_yield();
    /* Gives one that does not wait every chance to return. */
    for (int i = 0; i < 1000 && !atomic_load_acquire(&slow->stop_returned); i++)
        sched_yield();
    atomic_store_release(&slow->has_ended, true);
}

static void *stop_clock(void *opaque)
{
    struct slow *slow = opaque;

    while (!atomic_load_acquire(&slow->has_begun))
        sched_yield();
    atomic_store_release(&slow->stop_began, true);
    aio_clock_enable(slow->ctx, AIO_CLOCK_MONOTONIC, false);
    slow->ended_when_stopped = atomic_load_acquire(&slow->has_ended);
    atomic_store_release(&slow->stop_returned, true);
    return NULL;
}

static void stopping_a_clock_waits_for_the_callback_that_runs(void **state)
{
    struct loop *loop = *state;
    struct slow slow = {.ctx = loop->ctx};
    AioTimer timer;
    pthread_t thread;

    aio_timer_init(loop->ctx, &timer, run_slowly, &slow);
    timer_mod_ns(&timer, 0);
    assert_int_equal(pthread_create(&thread, NULL, stop_clock, &slow), 0);
    assert_true(aio_poll(loop->ctx, true));
    pthread_join(thread, NULL);
    assert_true(slow.ended_when_stopped);
    aio_clock_enable(loop->ctx, AIO_CLOCK_MONOTONIC, true);
}

static void *start_clock_when_asleep(void *opaque)
{
    struct far_timer *t = opaque;

    wait_for_sleep(t->ctx);
    aio_clock_enable(t->ctx, AIO_CLOCK_VIRTUAL, true);
    return NULL;
}

static void starting_a_clock_wakes_a_loop_that_sleeps(void **state)
{
    struct loop *loop = *state;
    struct far_timer t = {.ctx = loop->ctx};
    pthread_t thread;

    aio_timer_init_full(loop->ctx, &t.timer, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, set_flag, &t.fired);
    timer_mod_ns(&t.timer, 0);
    aio_clock_enable(loop->ctx, AIO_CLOCK_VIRTUAL, false);
    assert_int_equal(pthread_create(&thread, NULL, start_clock_when_asleep, &t), 0);
    loop_until(loop, &t.fired);
    pthread_join(thread, NULL);
}

int main(void)
{
    static const struct CMUnitTest clock[] = {
        LOOP_CASE(timer_of_each_clock_fires_when_that_clock_says_so),
        LOOP_CASE(wait_for_a_clock_that_jumps_is_measured_on_that_clock),
        LOOP_CASE(wake_up_before_the_time_fires_nothing_and_sets_the_fd_again),
        LOOP_CASE(clock_fd_wakes_the_loop_without_being_progress),
        LOOP_CASE(without_an_fd_to_be_had_a_timer_fires_all_the_same),
        LOOP_CASE(earlier_expiry_set_by_another_thread_shortens_the_sleep_on_each_clock),
        LOOP_CASE(virtual_clock_moves_where_it_is_told),
        LOOP_CASE(virtual_timer_fires_when_the_clock_was_moved_to_it),
        LOOP_CASE(moving_the_virtual_clock_wakes_a_loop_that_sleeps),
        LOOP_CASE(time_is_read_once_a_turn),
        LOOP_CASE(timers_of_a_stopped_clock_fire_when_it_is_started),
        LOOP_CASE(callback_may_stop_its_own_clock),
        LOOP_CASE(stopping_a_clock_waits_for_the_callback_that_runs),
        LOOP_CASE(starting_a_clock_wakes_a_loop_that_sleeps),
    };

    return LOOP_RUN(clock);
}
