/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/event_fixture.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* What is asked of each monitor; how one gives way to another is in test_fdmon_growth.c, what a
 * handler is promised in test_handler.c, what is io_uring's alone in test_fdmon_uring.c. */

/* Whether the soft limit of open fds is n at least, or could be made so. */
static bool may_open(rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur >= n)
        return true;
    limit.rlim_cur = n;
    return limit.rlim_max >= n && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* ---- which one ---- */

static void context_says_which_monitor_it_has(void **state)
{
    struct loop *loop = *state;

    assert_int_equal(aio_context_monitor(loop->ctx), loop->monitor);
    assert_string_equal(aio_monitor_name(AIO_MONITOR_AUTO), "auto");
    assert_string_equal(aio_monitor_name(loop->monitor), loop->ctx->monitor->name);
}

static void monitor_and_engine_must_go_together(void **state)
{
    struct loop *loop = *state;
    struct aio_config config = {.engine = AIO_ENGINE_IO_URING, .monitor = AIO_MONITOR_PPOLL};
    AioContext *ctx;

    assert_int_equal(aio_context_new(&config, &ctx), -EINVAL);
    config.monitor = AIO_MONITOR_EPOLL;
    assert_int_equal(aio_context_new(&config, &ctx), -EINVAL);

    /* An engine that is left to choose goes with the monitor. */
    config = (struct aio_config){.monitor = loop->monitor};
    assert_int_equal(aio_context_new(&config, &ctx), 0);
    assert_int_equal(aio_context_monitor(ctx), loop->monitor);
    assert_int_equal(
        aio_context_engine(ctx) == AIO_ENGINE_IO_URING, loop->monitor == AIO_MONITOR_IO_URING);
    aio_context_unref(ctx);
}

static void each_monitor_serves_each_engine_but_the_rings(void **state)
{
    struct loop *loop = *state;
    static const enum aio_engine engines[] = {AIO_ENGINE_LINUX_AIO, AIO_ENGINE_THREADS};

    for (size_t i = 0; i < 2; i++) {
        struct loop other = *loop;
        struct aio_config config = {.engine = engines[i], .monitor = loop->monitor};
        struct event event;

        if (aio_context_new(&config, &other.ctx) < 0)
            continue; /* no linux-aio to be had */
        assert_int_equal(aio_context_engine(other.ctx), engines[i]);
        assert_int_equal(aio_context_monitor(other.ctx), loop->monitor);
        event_open(&event, other.ctx);
        watch(&event);
        event_set(&event);
        loop_until(&other, &event.called);
        event_close(&event);
        aio_context_unref(other.ctx);
    }
}

/* ---- many ---- */

#define N_MANY 128 /* with half of them a context that chooses for itself takes epoll */

static void what_was_asked_for_by_name_stays_with_many_fds(void **state)
{
    struct loop *loop = *state;
    struct event *crowd = open_crowd(loop->ctx, N_MANY);

    use_crowd(loop, crowd, N_MANY);
    assert_int_equal(aio_context_monitor(loop->ctx), loop->monitor);
    close_crowd(crowd, N_MANY);
    free_handlers(loop);
}

/* ---- order and fairness ---- */

static void what_is_ready_is_called_in_the_order_that_the_header_says(void **state)
{
    struct loop *loop = *state;
    static const unsigned set_as[] = {5, 2, 7, 0, 6, 1, 4, 3};
    unsigned order = 0;
    struct event *crowd = open_crowd(loop->ctx, 8);

    settle(loop->ctx);
    for (unsigned i = 0; i < 8; i++) {
        crowd[i].order = &order;
        event_set(&crowd[set_as[i]]);
    }
    for (unsigned i = 0; i < 8; i++)
        loop_until(loop, &crowd[i].called);
    for (unsigned i = 0; i < 8; i++) {
        unsigned expected = loop->monitor == AIO_MONITOR_PPOLL ? i : set_as[i];

        assert_int_equal(crowd[expected].place, i + 1);
    }
    close_crowd(crowd, 8);
}

static void fds_that_are_always_ready_take_turns(void **state)
{
    enum { N = 300, N_TURNS = 60 };
    struct loop *loop = *state;
    unsigned least = UINT32_MAX, most = 0;

    if (!may_open(N + 50))
        skip();
    struct event *crowd = open_crowd(loop->ctx, N);

    for (unsigned i = 0; i < N; i++) {
        crowd[i].keeps = true;
        event_set(&crowd[i]);
    }
    for (unsigned turn = 0; turn < N_TURNS; turn++)
        aio_poll(loop->ctx, false);
    for (unsigned i = 0; i < N; i++) {
        least = crowd[i].n_calls < least ? crowd[i].n_calls : least;
        most = crowd[i].n_calls > most ? crowd[i].n_calls : most;
    }
    assert_true(most <= N_TURNS); /* once a turn */
    assert_true(least >= N_TURNS / 4);
    assert_true(most - least <= 2);
    close_crowd(crowd, N);
}

static void busy_fd_does_not_keep_a_bottom_half_or_timer_from_its_turn(void **state)
{
    struct loop *loop = *state;
    struct event busy;
    bool bh_ran = false, timer_ran = false;
    AioTimer timer;

    event_open(&busy, loop->ctx);
    busy.keeps = true;
    event_set(&busy);
    watch(&busy);
    aio_timer_init(loop->ctx, &timer, set_flag, &timer_ran);
    for (unsigned i = 0; i < 20; i++) {
        bh_ran = timer_ran = false;
        assert_int_equal(aio_bh_schedule_oneshot(loop->ctx, set_flag, &bh_ran), 0);
        timer_mod_ns(&timer, aio_clock_ns());
        aio_poll(loop->ctx, true);
        assert_true(bh_ran);
        assert_true(timer_ran);
    }
    assert_in_range(busy.n_calls, 18, 20); /* armed in the first */
    event_close(&busy);
}

/* ---- what idleness costs ---- */

static void loop_with_a_thousand_idle_fds_sleeps(void **state)
{
    struct loop *loop = *state;

    if (!may_open(1100))
        skip();
    struct event *crowd = open_crowd(loop->ctx, 1000);

    settle(loop->ctx);
    uint64_t polls = n_polls(loop);

    turn_for_ns(loop, 20 * LOOP_MS);
    assert_in_range(n_polls(loop) - polls, 1, 5);
    use_crowd(loop, crowd, 1000);
    close_crowd(crowd, 1000);
}

/* ---- time ---- */

struct waker {
    AioContext *ctx;
    bool woken;
};

static void *wake_after_a_while(void *opaque)
{
    struct waker *waker = opaque;

    for (int i = 0; i < 1000; i++)
        sched_yield();
    assert_int_equal(aio_bh_schedule_oneshot(waker->ctx, set_flag, &waker->woken), 0);
    return NULL;
}

static void wait_for_a_timer_centuries_away_is_no_busy_loop(void **state)
{
    struct loop *loop = *state;
    static const int64_t far_ns[] = {INT64_MAX - 1, INT64_MAX / 2, INT64_C(1) << 61};

    for (size_t i = 0; i < sizeof far_ns / sizeof far_ns[0]; i++) {
        struct waker waker = {.ctx = loop->ctx};
        pthread_t thread;
        AioTimer timer;

        settle(loop->ctx);
        aio_timer_init(loop->ctx, &timer, loop_fail_late, NULL);
        timer_mod_ns(&timer, far_ns[i]);
        uint64_t polls = n_polls(loop);

        assert_int_equal(pthread_create(&thread, NULL, wake_after_a_while, &waker), 0);
        while (!waker.woken)
            aio_poll(loop->ctx, true);
        pthread_join(thread, NULL);
        assert_in_range(n_polls(loop) - polls, 1, 5);
        timer_del(&timer);
    }
}

/* How late the timers of a loop are, at best. A wait in milliseconds would be late by 0.8 of
 * one. */
static bool is_precise(struct loop *loop)
{
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    while (aio_clock_ns() < deadline_ns) {
        int64_t expire_ns = aio_clock_ns() + LOOP_MS / 5;
        uint64_t polls = n_polls(loop);

        turn_for_ns(loop, LOOP_MS / 5);
        int64_t late_ns = aio_clock_ns() - expire_ns;

        assert_true(late_ns >= 0);
        if (late_ns < LOOP_MS / 2 && n_polls(loop) - polls <= 3)
            return true;
    }
    return false;
}

static void wait_for_a_timer_is_precise_to_less_than_a_millisecond(void **state)
{
    assert_true(is_precise(*state));
}

/* For this thread. False where no filter is to be had. */
static bool forbid_epoll_pwait2(uint32_t error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

struct sandbox {
    struct loop loop;
    uint32_t error; /* what it says of the call */
    bool is_there;
    bool is_precise;
};

static void *run_in_sandbox(void *opaque)
{
    struct sandbox *sandbox = opaque;

    sandbox->is_there = forbid_epoll_pwait2(sandbox->error);
    if (!sandbox->is_there)
        return NULL;
    sandbox->loop.ctx = new_monitored_context(sandbox->loop.engine, sandbox->loop.monitor);
    sandbox->is_precise = is_precise(&sandbox->loop);
    struct event *crowd = open_crowd(sandbox->loop.ctx, 4);

    use_crowd(&sandbox->loop, crowd, 4);
    /* Nor ppoll(), then. */
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, limit.rlim_max}), 0);
    use_crowd(&sandbox->loop, crowd, 4);
    turn_for_ns(&sandbox->loop, LOOP_MS);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    close_crowd(crowd, 4);
    aio_context_unref(sandbox->loop.ctx);
    return NULL;
}

static void sandbox_without_epoll_pwait2_waits_as_precisely(void **state)
{
    static const uint32_t errors[] = {ENOSYS, EPERM, EACCES};

    for (int i = 0; i < 3; i++) {
        struct sandbox sandbox = {.loop = *(struct loop *)*state, .error = errors[i]};
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, run_in_sandbox, &sandbox), 0);
        pthread_join(thread, NULL);
        if (!sandbox.is_there)
            skip();
        assert_true(sandbox.is_precise);
    }
}

/* ---- fds that are not what they were ---- */

static void file_that_outlives_its_fd_is_forgotten_when_that_is_taken_off(void **state)
{
    struct loop *loop = *state;

    for (int replaced = 0; replaced < 2; replaced++) {
        struct event event, next;

        event_open(&event, loop->ctx);
        watch(&event);
        settle(loop->ctx);
        int elsewhere = dup(event.fd); /* as a child would have it */

        close(event.fd);
        event_open(&next, loop->ctx);
        assert_int_equal(next.fd, event.fd);
        if (replaced)
            watch(&next);
        else
            take_off(&event);
        eventfd_write(elsewhere, 1);
        settle(loop->ctx);
        uint64_t polls = n_polls(loop);

        turn_for_ns(loop, 2 * LOOP_MS);
        assert_in_range(n_polls(loop) - polls, 1, 5);
        assert_int_equal(event.n_calls, 0);
        free_handlers(loop);
        if (!replaced)
            watch(&next);
        event_set(&next);
        loop_until(loop, &next.called);
        event_close(&next);
        close(elsewhere);
    }
}

static void fd_closed_while_it_is_watched_is_told_of_once_at_most(void **state)
{
    struct loop *loop = *state;

    for (int armed = 0; armed < 2; armed++) {
        struct event event;

        event_open(&event, loop->ctx);
        watch(&event);
        if (armed)
            settle(loop->ctx);
        close(event.fd);
        uint64_t polls = n_polls(loop);

        turn_for_ns(loop, 2 * LOOP_MS);
        assert_in_range(n_polls(loop) - polls, 1, 6);
        assert_in_range(event.n_calls, 0, 1);
        take_off(&event);

        struct event next;

        event_open(&next, loop->ctx);
        assert_int_equal(next.fd, event.fd);
        watch(&next);
        event_set(&next);
        loop_until(loop, &next.called);
        event_close(&next);
    }
}

static void limit_below_the_number_of_fds_does_not_stop_the_loop(void **state)
{
    struct loop *loop = *state;
    struct event *crowd = open_crowd(loop->ctx, 20);
    struct event closed;
    struct rlimit limit;

    event_open(&closed, loop->ctx);
    watch(&closed);
    settle(loop->ctx);
    close(closed.fd);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, limit.rlim_max}), 0);
    for (int i = 0; i < 3; i++)
        use_crowd(loop, crowd, 20);
    turn_for_ns(loop, LOOP_MS);
    assert_in_range(closed.n_calls, 0, 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    take_off(&closed);
    close_crowd(crowd, 20);
}

static void what_would_be_ready_always_is_refused_and_what_can_be_waited_for_is_not(void **state)
{
    struct loop *loop = *state;
    static const char *const never[] = {"/proc/self/exe", "/dev/null", "/dev/zero", "/"};
    int calls = 0;

    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        int fd = open(never[i], O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(
            aio_set_fd_handler(loop->ctx, fd, count_call, NULL, NULL, NULL, &calls), -EPERM);
        close(fd);
    }
    int mounts = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC); /* a regular file with a poll */

    assert_int_equal(
        aio_set_fd_handler(loop->ctx, mounts, count_call, NULL, NULL, NULL, &calls), 0);
    assert_int_equal(aio_set_fd_handler(loop->ctx, mounts, NULL, NULL, NULL, NULL, NULL), 0);
    close(mounts);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 0);
}

int main(void)
{
    static const struct CMUnitTest fdmon[] = {
        LOOP_CASE(context_says_which_monitor_it_has),
        LOOP_CASE(monitor_and_engine_must_go_together),
        LOOP_CASE(each_monitor_serves_each_engine_but_the_rings),
        LOOP_CASE(what_was_asked_for_by_name_stays_with_many_fds),
        LOOP_CASE(what_is_ready_is_called_in_the_order_that_the_header_says),
        LOOP_CASE(fds_that_are_always_ready_take_turns),
        LOOP_CASE(busy_fd_does_not_keep_a_bottom_half_or_timer_from_its_turn),
        LOOP_CASE(loop_with_a_thousand_idle_fds_sleeps),
        LOOP_CASE(wait_for_a_timer_centuries_away_is_no_busy_loop),
        LOOP_CASE(wait_for_a_timer_is_precise_to_less_than_a_millisecond),
        LOOP_CASE(sandbox_without_epoll_pwait2_waits_as_precisely),
        LOOP_CASE(file_that_outlives_its_fd_is_forgotten_when_that_is_taken_off),
        LOOP_CASE(fd_closed_while_it_is_watched_is_told_of_once_at_most),
        LOOP_CASE(limit_below_the_number_of_fds_does_not_stop_the_loop),
        LOOP_CASE(what_would_be_ready_always_is_refused_and_what_can_be_waited_for_is_not),
    };

    return LOOP_RUN(fdmon);
}
