/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/aio_register.h"
#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/coroutine.h"
#include "runtime/disk.h"
#include "runtime/disk_kernel.h"
#include "runtime/kernel.h"
#include "tests/unit/runtime/death.h"

/* What is particular to watching fds through io_uring; what every monitor promises is tested with
 * the loop. */

#define DEADLINE_NS ((int64_t)60 * 1000 * 1000 * 1000)

static int new_uring_context(AioContext **ret_ctx)
{
    return aio_context_new(&(struct aio_config){.engine = AIO_ENGINE_IO_URING}, ret_ctx);
}

static int setup(void **state)
{
    AioContext *ctx;

    assert_int_equal(new_uring_context(&ctx), 0);
    aio_context_set_current(ctx);
    *state = ctx;
    return 0;
}

static int teardown(void **state)
{
    aio_context_set_current(NULL);
    aio_context_unref(*state);
    return 0;
}

static void fail_late(void *opaque)
{
    fail_msg("the state waited for did not come");
}

static void poll_until(AioContext *ctx, const unsigned *value, unsigned target)
{
    AioTimer deadline;

    aio_timer_init(ctx, &deadline, fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + DEADLINE_NS);
    while (atomic_load_acquire(value) < target)
        aio_poll(ctx, true);
    timer_del(&deadline);
}

static void set_one(void *opaque)
{
    *(unsigned *)opaque = 1;
}

/* Turns the loop for a while, whatever comes. */
static void poll_for_ns(AioContext *ctx, int64_t ns)
{
    unsigned over = 0;
    AioTimer timer;

    aio_timer_init(ctx, &timer, set_one, &over);
    timer_mod_ns(&timer, aio_clock_ns() + ns);
    while (!over)
        aio_poll(ctx, true);
}

/* ---- something to watch ---- */

struct event {
    AioContext *ctx;
    int fd;
    unsigned n_calls;
    bool keeps;              /* the callback leaves the fd readable */
    struct event *takes_off; /* whose handler the callback takes off */
};

static void event_init(struct event *e, AioContext *ctx)
{
    *e = (struct event){.ctx = ctx, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    assert_true(e->fd >= 0);
}

static void event_set(const struct event *e)
{
    uint64_t one = 1;

    assert_int_equal(write(e->fd, &one, sizeof one), sizeof one);
}

static void take_off(struct event *e)
{
    assert_int_equal(aio_set_fd_handler(e->ctx, e->fd, NULL, NULL, NULL, NULL, NULL), 0);
}

static void on_event(void *opaque)
{
    struct event *e = opaque;
    uint64_t count;

    e->n_calls++;
    if (!e->keeps && read(e->fd, &count, sizeof count) < 0)
        assert_int_equal(errno, EAGAIN);
    if (e->takes_off)
        take_off(e->takes_off);
}

static int watch(struct event *e)
{
    return aio_set_fd_handler(e->ctx, e->fd, on_event, NULL, NULL, NULL, e);
}

/* ---- cases ---- */

static void a_readable_fd_is_reported_until_it_is_read(void **state)
{
    AioContext *ctx = *state;
    struct event e;

    event_init(&e, ctx);
    e.keeps = true;
    assert_int_equal(watch(&e), 0);
    event_set(&e);
    poll_until(ctx, &e.n_calls, 5);
    e.keeps = false;
    poll_until(ctx, &e.n_calls, 6);
    poll_for_ns(ctx, 2000000);
    assert_int_equal(e.n_calls, 6);
    take_off(&e);
    close(e.fd);
}

static void a_handler_taken_off_by_another_callback_of_the_turn_is_not_called(void **state)
{
    AioContext *ctx = *state;
    struct event a, b;

    event_init(&a, ctx);
    event_init(&b, ctx);
    a.keeps = b.keeps = true;
    a.takes_off = &b;
    b.takes_off = &a;
    assert_int_equal(watch(&a), 0);
    assert_int_equal(watch(&b), 0);
    poll_for_ns(ctx, 1000000); /* both armed */
    event_set(&a);
    event_set(&b);
    while (a.n_calls + b.n_calls == 0)
        aio_poll(ctx, true);
    unsigned first = a.n_calls;
    assert_int_equal(a.n_calls + b.n_calls, 1);
    a.takes_off = b.takes_off = NULL;
    poll_until(ctx, first ? &a.n_calls : &b.n_calls, 4);
    assert_int_equal(first ? b.n_calls : a.n_calls, 0);
    take_off(&a);
    take_off(&b);
    close(a.fd);
    close(b.fd);
}

static void a_callback_may_take_off_itself(void **state)
{
    AioContext *ctx = *state;
    struct event e;

    event_init(&e, ctx);
    e.keeps = true;
    e.takes_off = &e;
    assert_int_equal(watch(&e), 0);
    event_set(&e);
    poll_until(ctx, &e.n_calls, 1);
    poll_for_ns(ctx, 2000000);
    assert_int_equal(e.n_calls, 1);
    close(e.fd);
}

static void a_file_that_cannot_be_waited_for_is_refused(void **state)
{
    AioContext *ctx = *state;
    struct event e = {.ctx = ctx, .fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};

    assert_int_equal(watch(&e), -EPERM);
    close(e.fd);
    assert_int_equal(watch(&e), -EBADF);
}

/* Raises the limit where it may; false where n fds are not to be had. */
static bool may_open(rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur >= n)
        return true;
    if (limit.rlim_max < n)
        return false;
    limit.rlim_cur = n;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* Sets n fds in one turn and sees each called once. */
static void set_many(AioContext *ctx, unsigned n)
{
    struct event *events = calloc(n, sizeof *events);
    unsigned n_called = 0;
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    for (unsigned i = 0; i < n; i++) {
        event_init(&events[i], ctx);
        assert_int_equal(watch(&events[i]), 0);
    }
    poll_for_ns(ctx, 1000000);
    for (unsigned i = 0; i < n; i++)
        event_set(&events[i]);
    while (n_called < n) {
        assert_true(aio_clock_ns() < deadline_ns);
        aio_poll(ctx, false);
        n_called = 0;
        for (unsigned i = 0; i < n; i++)
            n_called += events[i].n_calls > 0;
    }
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(events[i].n_calls, 1);
        take_off(&events[i]);
        close(events[i].fd);
    }
    free(events);
}

static void more_changes_than_the_submission_queue_holds_all_count(void **state)
{
    if (!may_open(700))
        skip();
    set_many(*state, 600);
}

static void more_events_than_the_completion_queue_holds_all_come(void **state)
{
    if (!may_open(2700))
        skip();
    set_many(*state, 2600);
}

static void an_fd_closed_and_opened_again_reports_for_the_new_one_only(void **state)
{
    AioContext *ctx = *state;
    int number = -1;

    for (int i = 0; i < 200; i++) {
        struct event old, e;

        event_init(&old, ctx);
        if (number < 0)
            number = old.fd;
        assert_int_equal(old.fd, number);
        assert_int_equal(watch(&old), 0);
        if (i % 2)
            aio_poll(ctx, false);
        if (i % 3)
            event_set(&old);
        take_off(&old);
        close(old.fd);

        event_init(&e, ctx);
        assert_int_equal(e.fd, number);
        assert_int_equal(watch(&e), 0);
        for (int turn = 0; turn < 3; turn++)
            aio_poll(ctx, false);
        assert_int_equal(old.n_calls + e.n_calls, 0);
        event_set(&e);
        poll_until(ctx, &e.n_calls, 1);
        assert_int_equal(old.n_calls, 0);
        take_off(&e);
        close(e.fd);
    }
}

/* ---- with other threads ---- */

struct storm {
    struct event *event;
    unsigned over;
};

static void *set_again_and_again(void *opaque)
{
    struct storm *storm = opaque;

    while (!atomic_load_acquire(&storm->over))
        event_set(storm->event);
    return NULL;
}

static void *change_again_and_again(void *opaque)
{
    struct storm *storm = opaque;

    for (int i = 0; i < 2000; i++) {
        assert_int_equal(watch(storm->event), 0);
        take_off(storm->event);
    }
    aio_notify(storm->event->ctx);
    atomic_store_release(&storm->over, 1);
    aio_notify(storm->event->ctx);
    return NULL;
}

static void a_handler_may_be_taken_off_by_a_thread_while_it_fires(void **state)
{
    AioContext *ctx = *state;
    struct event e;
    pthread_t setter, changer;

    event_init(&e, ctx);
    struct storm storm = {.event = &e};
    assert_int_equal(pthread_create(&setter, NULL, set_again_and_again, &storm), 0);
    assert_int_equal(pthread_create(&changer, NULL, change_again_and_again, &storm), 0);
    while (!atomic_load_acquire(&storm.over))
        aio_poll(ctx, false);
    pthread_join(setter, NULL);
    pthread_join(changer, NULL);
    for (int i = 0; i < 3; i++)
        aio_poll(ctx, false);

    unsigned n_calls = e.n_calls;
    event_set(&e);
    poll_for_ns(ctx, 2000000);
    assert_int_equal(e.n_calls, n_calls);
    assert_null(ctx->deleted_handlers); /* each completion came, each node was freed */
    close(e.fd);
}

static void *watch_from_here(void *opaque)
{
    struct event *e = opaque;

    while (atomic_load_relaxed(&e->ctx->bell.words->notify_me) == 0)
        sched_yield(); /* until the loop goes to sleep */
    assert_int_equal(watch(e), 0);
    return NULL;
}

static void a_sleeping_loop_takes_a_threads_change_over(void **state)
{
    AioContext *ctx = *state;
    struct event e;
    pthread_t thread;

    event_init(&e, ctx);
    event_set(&e);
    assert_int_equal(pthread_create(&thread, NULL, watch_from_here, &e), 0);
    poll_until(ctx, &e.n_calls, 1);
    pthread_join(thread, NULL);
    take_off(&e);
    close(e.fd);
}

struct other_home {
    AioContext *ctx;
    struct event event;
};

static void *poll_elsewhere(void *opaque)
{
    struct other_home *home = opaque;

    aio_context_set_current(home->ctx);
    poll_until(home->ctx, &home->event.n_calls, 1);
    take_off(&home->event);
    aio_context_set_current(NULL);
    return NULL;
}

static void a_ring_made_here_works_in_the_thread_that_polls_it(void **state)
{
    struct other_home home;
    pthread_t thread;

    assert_int_equal(new_uring_context(&home.ctx), 0);
    event_init(&home.event, home.ctx);
    assert_int_equal(watch(&home.event), 0);
    event_set(&home.event);
    assert_int_equal(pthread_create(&thread, NULL, poll_elsewhere, &home), 0);
    pthread_join(thread, NULL);
    aio_context_unref(home.ctx);
    close(home.event.fd);
}

/* ---- signals ---- */

static unsigned n_signals;

static void on_signal(int signal_number)
{
    n_signals++;
}

static void *become_home(void *opaque)
{
    aio_context_set_current(opaque);
    return NULL;
}

static void use_a_ring_and_give_it_away(void)
{
    AioContext *ctx;
    pthread_t thread;
    int fd = 0;

    if (new_uring_context(&ctx) < 0)
        return;
    aio_context_set_current(ctx);
    if (aio_register_files(&fd, 1) < 0)
        return;
    aio_context_set_current(NULL);
    pthread_create(&thread, NULL, become_home, ctx);
    pthread_join(thread, NULL);
}

/* The kernel knows one thread that may submit. */
static void a_ring_in_use_has_its_home_for_good(void **state)
{
    assert_bug(use_a_ring_and_give_it_away, "home");
}

static void signals_in_a_wait_cost_neither_events_nor_timers(void **state)
{
    AioContext *ctx = *state;
    struct sigaction action = {.sa_handler = on_signal}, before_alarm, before_continue;
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    struct event e;

    event_init(&e, ctx);
    assert_int_equal(watch(&e), 0);
    n_signals = 0;
    sigaction(SIGALRM, &action, &before_alarm);
    sigaction(SIGCONT, &action, &before_continue);
    setitimer(ITIMER_REAL, &often, NULL);
    for (unsigned i = 1; i <= 50; i++) {
        int64_t begin_ns = aio_clock_ns();

        poll_for_ns(ctx, 1000000);
        assert_true(aio_clock_ns() - begin_ns >= 1000000);
        event_set(&e);
        raise(SIGCONT);
        poll_until(ctx, &e.n_calls, i);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before_alarm, NULL);
    sigaction(SIGCONT, &before_continue, NULL);
    assert_true(n_signals > 20);
    take_off(&e);
    close(e.fd);
}

/* ---- system calls ---- */

static unsigned n_enters;

static int count_enter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    n_enters++;
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void looking_at_a_quiet_ring_costs_no_system_call(void **state)
{
    AioContext *ctx = *state;
    struct disk_kernel counting = disk_kernel_real;
    struct event e;

    event_init(&e, ctx);
    assert_int_equal(watch(&e), 0);
    poll_for_ns(ctx, 1000000);
    aio_poll(ctx, false);

    counting.uring_enter = count_enter;
    ctx->disk.kernel = &counting;
    n_enters = 0;
    for (int i = 0; i < 100; i++)
        aio_poll(ctx, false);
    assert_int_equal(n_enters, 0);
    ctx->disk.kernel = &disk_kernel_real;
    take_off(&e);
    close(e.fd);
}

static void looking_at_a_ring_with_many_idle_fds_costs_no_system_call(void **state)
{
    AioContext *ctx = *state;
    struct disk_kernel counting = disk_kernel_real;
    struct event *events = calloc(1000, sizeof *events);

    if (!may_open(1100)) {
        free(events);
        skip();
    }
    for (unsigned i = 0; i < 1000; i++) {
        event_init(&events[i], ctx);
        assert_int_equal(watch(&events[i]), 0);
    }
    poll_for_ns(ctx, 1000000);
    aio_poll(ctx, false);

    counting.uring_enter = count_enter;
    ctx->disk.kernel = &counting;
    n_enters = 0;
    for (int i = 0; i < 100; i++)
        aio_poll(ctx, false);
    assert_int_equal(n_enters, 0);
    ctx->disk.kernel = &disk_kernel_real;
    for (unsigned i = 0; i < 1000; i++) {
        take_off(&events[i]);
        close(events[i].fd);
    }
    free(events);
}

static unsigned wait_flags; /* of the last wait that could sleep */
static unsigned n_waits;

static int note_flags(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    if (min_complete > 0) {
        wait_flags = flags;
        n_waits++;
    }
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

/* Whether the kernel has it; where it has not, it would refuse a wait that asks for it. */
static bool has_no_iowait(void)
{
    struct io_uring ring;
    struct io_uring_params params = {0};

    assert_int_equal(io_uring_queue_init_params(4, &ring, &params), 0);
    io_uring_queue_exit(&ring);
    return params.features & IORING_FEAT_NO_IOWAIT;
}

static void coroutine_fn sync_it(void *opaque)
{
    struct event *e = opaque;

    assert_int_equal(co_fsync(e->fd), 0);
    e->n_calls = 1;
}

static void an_idle_loop_is_not_shown_as_waiting_for_a_disk(void **state)
{
    AioContext *ctx = *state;
    struct disk_kernel noting = disk_kernel_real;
    char path[] = "/tmp/test_fdmon_uring.XXXXXX";
    struct event file = {.ctx = ctx, .fd = mkostemp(path, O_CLOEXEC)};
    unsigned expected = has_no_iowait() ? IORING_ENTER_NO_IOWAIT : 0;

    unlink(path);
    noting.uring_enter = note_flags;
    ctx->disk.kernel = &noting;
    n_waits = 0;
    poll_for_ns(ctx, 1000000);
    assert_true(n_waits > 0);
    assert_int_equal(wait_flags & IORING_ENTER_NO_IOWAIT, expected);

    /* But one that does wait for a disk is. */
    n_waits = 0;
    coroutine_enter(coroutine_create(sync_it, &file));
    poll_until(ctx, &file.n_calls, 1);
    if (n_waits > 0)
        assert_int_equal(wait_flags & IORING_ENTER_NO_IOWAIT, 0);
    ctx->disk.kernel = &disk_kernel_real;
    close(file.fd);
}

static void an_idle_ring_wakes_nobody(void **state)
{
    AioContext *ctx = *state;
    struct event e;

    event_init(&e, ctx);
    assert_int_equal(watch(&e), 0);
    poll_for_ns(ctx, 1000000);
    uint64_t before = ctx->instruments.counters->sleeps;
    poll_for_ns(ctx, 100000000);
    assert_true(ctx->instruments.counters->sleeps - before <= 2);
    take_off(&e);
    close(e.fd);
}

static unsigned n_refusals;

static int refuse_every_other(int ring_fd, unsigned to_submit, unsigned min_complete,
    unsigned flags, void *arg, size_t arg_bytes)
{
    if (to_submit > 0 && n_refusals++ % 2 == 0)
        return n_refusals % 4 == 1 ? -EAGAIN : -EBUSY;
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void a_ring_that_refuses_now_and_then_reports_all_the_same(void **state)
{
    AioContext *ctx = *state;
    struct disk_kernel refusing = disk_kernel_real;
    struct event e;

    refusing.uring_enter = refuse_every_other;
    ctx->disk.kernel = &refusing;
    n_refusals = 0;
    event_init(&e, ctx);
    assert_int_equal(watch(&e), 0);
    for (unsigned i = 1; i <= 50; i++) {
        event_set(&e);
        poll_until(ctx, &e.n_calls, i);
    }
    assert_true(n_refusals > 50);
    take_off(&e);
    poll_for_ns(ctx, 1000000);
    ctx->disk.kernel = &disk_kernel_real;
    close(e.fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_readable_fd_is_reported_until_it_is_read),
        CASE(a_handler_taken_off_by_another_callback_of_the_turn_is_not_called),
        CASE(a_callback_may_take_off_itself),
        CASE(a_file_that_cannot_be_waited_for_is_refused),
        CASE(more_changes_than_the_submission_queue_holds_all_count),
        CASE(more_events_than_the_completion_queue_holds_all_come),
        CASE(an_fd_closed_and_opened_again_reports_for_the_new_one_only),
        CASE(a_handler_may_be_taken_off_by_a_thread_while_it_fires),
        CASE(a_sleeping_loop_takes_a_threads_change_over),
        cmocka_unit_test(a_ring_made_here_works_in_the_thread_that_polls_it),
        cmocka_unit_test(a_ring_in_use_has_its_home_for_good),
        CASE(signals_in_a_wait_cost_neither_events_nor_timers),
        CASE(looking_at_a_quiet_ring_costs_no_system_call),
        CASE(looking_at_a_ring_with_many_idle_fds_costs_no_system_call),
        CASE(an_idle_loop_is_not_shown_as_waiting_for_a_disk),
        CASE(an_idle_ring_wakes_nobody),
        CASE(a_ring_that_refuses_now_and_then_reports_all_the_same),
    };
    AioContext *probe;
    int r = new_uring_context(&probe);

    if (r < 0) {
        printf("1..0 # SKIP io_uring is not to be had here: %s\n", strerror(-r));
        return 0;
    }
    aio_context_unref(probe);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
