/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "tests/unit/runtime/death.h"

#define LONG_NS (3600 * AIO_SCALE_S) /* a test that polls so long has failed */

static const struct aio_counters *counters(const struct loop *loop)
{
    return loop->ctx->instruments.counters;
}

/* As if events had come in time for long. */
static void poll_for_long(AioContext *ctx)
{
    assert_int_equal(aio_context_set_poll_params(ctx, LONG_NS, 0, 0), 0);
    aio_poll(ctx, false);
    ctx->poll.own_ns = LONG_NS;
}

static int new_eventfd(unsigned value)
{
    int fd = eventfd(value, EFD_NONBLOCK | EFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* ---- parameters ---- */

static void polling_is_off_by_default_and_takes_no_nonsense(void **state)
{
    struct loop *loop = *state;

    assert_false(poll_mode_is_on(loop->ctx));
    assert_int_equal(aio_context_set_poll_params(loop->ctx, -1, 0, 0), -EINVAL);
    assert_int_equal(aio_context_set_poll_params(loop->ctx, 1, -1, 0), -EINVAL);
    assert_int_equal(aio_context_set_poll_params(loop->ctx, 1, 0, -1), -EINVAL);
    assert_false(poll_mode_is_on(loop->ctx));
    assert_int_equal(aio_context_set_poll_params(loop->ctx, 1, 0, 0), 0);
    assert_true(poll_mode_is_on(loop->ctx));
}

/* A wait of that length which the doorbell has ended. */
static int64_t own_after(AioContext *ctx, int64_t block_ns)
{
    aio_notify(ctx);
    ctx->poll.began_ns = 1;
    ctx->poll.now_ns = 1 + block_ns;
    poll_mode_learn(ctx);
    return ctx->poll.own_ns;
}

static void while_grows_to_the_limit_and_shrinks_beyond_it(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = loop->ctx;

    aio_context_set_poll_params(ctx, 30000, 0, 0);
    assert_int_equal(own_after(ctx, 20000), 4000);
    assert_int_equal(own_after(ctx, 4000), 4000);
    assert_int_equal(own_after(ctx, 4001), 8000);
    aio_context_set_poll_params(ctx, 30000, 3, 4);
    assert_int_equal(own_after(ctx, 30000), 24000);
    assert_int_equal(own_after(ctx, 30000), 30000);
    assert_int_equal(own_after(ctx, 30001), 7500);
    aio_context_set_poll_params(ctx, 30000, 3, 0);
    assert_int_equal(own_after(ctx, 30001), 0);
}

static void while_that_grows_beyond_all_numbers_stays_at_the_limit(void **state)
{
    struct loop *loop = *state;

    aio_context_set_poll_params(loop->ctx, INT64_MAX, INT64_MAX, 0);
    assert_int_equal(own_after(loop->ctx, 5000), 4000);
    assert_int_equal(own_after(loop->ctx, 5000), INT64_MAX);
}

static int64_t handler_after(AioContext *ctx, int fd, int64_t block_ns)
{
    struct aio_handler *handler = ctx->handlers[fd];

    fdmon_add_ready(ctx, handler, POLLIN);
    ctx->poll.began_ns = 1;
    ctx->poll.now_ns = 1 + block_ns;
    poll_mode_learn(ctx);
    aio_poll(ctx, false);
    return handler->poll.while_ns;
}

static void each_handler_has_a_while_of_its_own(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = loop->ctx;
    int busy = new_eventfd(0), quiet = new_eventfd(0);
    int calls = 0;

    aio_set_fd_handler(ctx, busy, count_call, NULL, NULL, NULL, &calls);
    aio_set_fd_handler(ctx, quiet, count_call, NULL, NULL, NULL, &calls);
    aio_context_set_poll_params(ctx, 100000, 0, 0);
    aio_poll(ctx, false); /* takes the notification */
    assert_int_equal(handler_after(ctx, busy, 50000), 4000);
    assert_int_equal(handler_after(ctx, busy, 50000), 8000);
    assert_int_equal(handler_after(ctx, quiet, 6000), 4000);
    assert_int_equal(ctx->handlers[busy]->poll.while_ns, 8000);
    assert_int_equal(ctx->poll.own_ns, 0);
    /* A wait beyond the limit was in vain for all. */
    assert_int_equal(handler_after(ctx, quiet, 100001), 0);
    assert_int_equal(ctx->handlers[busy]->poll.while_ns, 0);
    assert_null(ctx->poll.polled);
    aio_set_fd_handler(ctx, busy, NULL, NULL, NULL, NULL, NULL);
    aio_set_fd_handler(ctx, quiet, NULL, NULL, NULL, NULL, NULL);
    close(busy);
    close(quiet);
}

/* ---- what ends a busy wait ---- */

/* A source that tells that the loop looks busily. */
struct watch {
    AioContext *ctx;
    bool looks;    /* atomic: it has looked with notify_me down */
    bool has_work; /* atomic */
};

static bool watch_pending(void *opaque)
{
    struct watch *watch = opaque;

    if (watch->ctx->bell.words->notify_me == 0)
        atomic_store_release(&watch->looks, true);
    return atomic_load_acquire(&watch->has_work);
}

static bool watch_dispatch(void *opaque)
{
    struct watch *watch = opaque;
    bool had_work = atomic_load_acquire(&watch->has_work);

    atomic_store_release(&watch->has_work, false);
    return had_work;
}

static void watch_flush(void *opaque)
{
}

/* What another thread does while the loop looks busily. */
struct visit {
    struct watch watch;
    struct aio_source source;
    pthread_t thread;
    void (*act)(struct visit *visit);
    BH *bh;
    AioTimer timer;
    int fd;
    uint64_t rings_sent; /* by that thread */
};

static void *visit_thread(void *opaque)
{
    struct visit *visit = opaque;
    AioContext *sender = new_context(AIO_ENGINE_THREADS);

    aio_context_set_current(sender);
    while (!atomic_load_acquire(&visit->watch.looks))
        sched_yield();
    visit->act(visit);
    visit->rings_sent = sender->instruments.counters->rings_sent;
    aio_context_set_current(NULL);
    aio_context_unref(sender);
    return NULL;
}

static void visit_begin(struct visit *visit, struct loop *loop, void (*act)(struct visit *visit))
{
    visit->watch.ctx = loop->ctx;
    visit->source =
        (struct aio_source){watch_pending, watch_dispatch, watch_flush, &visit->watch, NULL};
    visit->act = act;
    poll_for_long(loop->ctx);
    aio_add_source(loop->ctx, &visit->source);
    assert_int_equal(pthread_create(&visit->thread, NULL, visit_thread, visit), 0);
}

/* The loop has not slept, and nobody paid for waking it. */
static void visit_end(struct visit *visit, struct loop *loop)
{
    pthread_join(visit->thread, NULL);
    aio_remove_source(loop->ctx, &visit->source);
    assert_int_equal(visit->rings_sent, 0);
    assert_int_equal(counters(loop)->sleeps, 0);
}

static void schedule_bh(struct visit *visit)
{
    bh_schedule(visit->bh);
}

static void bottom_half_of_another_thread_ends_it_without_a_ring(void **state)
{
    struct loop *loop = *state;
    bool ran = false;
    struct visit visit = {.bh = aio_bh_new(loop->ctx, set_flag, &ran)};

    visit_begin(&visit, loop, schedule_bh);
    assert_true(aio_poll(loop->ctx, true));
    assert_true(ran);
    visit_end(&visit, loop);
    bh_delete(visit.bh);
}

static void schedule_idle(struct visit *visit)
{
    bh_schedule_idle(visit->bh);
}

static void idle_bottom_half_of_another_thread_is_run(void **state)
{
    struct loop *loop = *state;
    bool ran = false;
    struct visit visit = {.bh = aio_bh_new(loop->ctx, set_flag, &ran)};

    visit_begin(&visit, loop, schedule_idle);
    assert_false(aio_poll(loop->ctx, true));
    assert_true(ran);
    visit_end(&visit, loop);
    bh_delete(visit.bh);
}

static void notify(struct visit *visit)
{
    aio_notify(visit->watch.ctx);
}

static void notification_ends_it_and_is_no_progress(void **state)
{
    struct loop *loop = *state;
    struct visit visit = {.fd = -1};

    visit_begin(&visit, loop, notify);
    assert_false(aio_poll(loop->ctx, true));
    assert_false(doorbell_is_rung(&loop->ctx->bell));
    visit_end(&visit, loop);
}

static void give_work(struct visit *visit)
{
    atomic_store_release(&visit->watch.has_work, true);
}

static void source_that_has_work_ends_it(void **state)
{
    struct loop *loop = *state;
    struct visit visit = {.fd = -1};

    visit_begin(&visit, loop, give_work);
    assert_true(aio_poll(loop->ctx, true));
    visit_end(&visit, loop);
}

static void arm_timer(struct visit *visit)
{
    timer_mod_ns(&visit->timer, aio_clock_ns() + AIO_SCALE_MS);
}

static void timer_that_another_thread_arms_ends_it(void **state)
{
    struct loop *loop = *state;
    bool ran = false;
    struct visit visit = {.fd = -1};

    aio_timer_init(loop->ctx, &visit.timer, set_flag, &ran);
    visit_begin(&visit, loop, arm_timer);
    while (!ran)
        aio_poll(loop->ctx, true);
    visit_end(&visit, loop);
}

static void write_fd(struct visit *visit)
{
    const uint64_t one = 1;

    assert_int_equal(write(visit->fd, &one, sizeof one), sizeof one);
}

static void drain(void *opaque)
{
    struct visit *visit = opaque;
    uint64_t value;

    assert_int_equal(read(visit->fd, &value, sizeof value), sizeof value);
}

static void plain_fd_that_becomes_readable_ends_it(void **state)
{
    struct loop *loop = *state;
    struct visit visit = {.fd = new_eventfd(0)};

    aio_set_fd_handler(loop->ctx, visit.fd, drain, NULL, NULL, NULL, &visit);
    visit_begin(&visit, loop, write_fd);
    while (!aio_poll(loop->ctx, true))
        ;
    visit_end(&visit, loop);
    aio_set_fd_handler(loop->ctx, visit.fd, NULL, NULL, NULL, NULL, NULL);
    close(visit.fd);
}

/* ---- a device that signals its fd only while nobody looks ---- */

struct device {
    AioContext *ctx;
    int fd;
    int queued; /* atomic: put in by another thread */
    int taken;
    bool silent; /* atomic: between begin and end */
    int n_begins;
    int n_ends;
    int n_asked;
    bool queue_at_end; /* as if put in after the last look, before the end */
    bool polls_in_poll;
    bool nests;
    int depth;
    int deepest;
};

static void device_put(struct device *device)
{
    const uint64_t one = 1;

    atomic_add_seq(&device->queued, 1);
    atomic_full_fence();
    if (!atomic_load_acquire(&device->silent))
        assert_int_equal(write(device->fd, &one, sizeof one), sizeof one);
}

static void device_take(struct device *device)
{
    device->taken = atomic_load_acquire(&device->queued);
}

static void device_readable(void *opaque)
{
    struct device *device = opaque;
    uint64_t value;

    if (read(device->fd, &value, sizeof value) < 0)
        assert_int_equal(errno, EAGAIN);
    device_take(device);
}

static bool device_poll(void *opaque)
{
    struct device *device = opaque;

    device->n_asked++;
    if (device->polls_in_poll)
        aio_poll(device->ctx, false);
    return atomic_load_acquire(&device->queued) > device->taken;
}

static void device_poll_ready(void *opaque)
{
    struct device *device = opaque;

    if (++device->depth > device->deepest)
        device->deepest = device->depth;
    if (device->nests)
        aio_poll(device->ctx, false);
    device_take(device);
    device->depth--;
}

static void device_begin(void *opaque)
{
    struct device *device = opaque;

    assert_int_equal(device->n_begins, device->n_ends);
    device->n_begins++;
    atomic_store_release(&device->silent, true);
}

static void device_end(void *opaque)
{
    struct device *device = opaque;

    device->n_ends++;
    assert_int_equal(device->n_begins, device->n_ends);
    if (device->queue_at_end) {
        device->queue_at_end = false;
        device_put(device);
    }
    atomic_store_release(&device->silent, false);
    atomic_full_fence();
}

/* Registered, and polled for while_ns from now on, for it was ready in time once. */
static void device_open(struct device *device, AioContext *ctx, int64_t while_ns)
{
    device->ctx = ctx;
    device->fd = new_eventfd(0);
    assert_int_equal(aio_set_fd_handler(ctx, device->fd, device_readable, NULL, device_poll,
                         device_poll_ready, device),
        0);
    assert_int_equal(aio_set_fd_poll(ctx, device->fd, device_begin, device_end), 0);
    aio_context_set_poll_params(ctx, while_ns, 0, 0);
    assert_true(handler_after(ctx, device->fd, 1) > 0);
    ctx->handlers[device->fd]->poll.while_ns = while_ns;
    device->n_asked = 0;
}

static void device_close(struct device *device)
{
    aio_set_fd_handler(device->ctx, device->fd, NULL, NULL, NULL, NULL, NULL);
    aio_poll(device->ctx, false);
    close(device->fd);
}

static void poll_callbacks_need_a_handler_with_io_poll(void **state)
{
    struct loop *loop = *state;
    int fd = new_eventfd(0);

    assert_int_equal(aio_set_fd_poll(loop->ctx, fd, device_begin, device_end), -ENOENT);
    aio_set_fd_handler(loop->ctx, fd, count_call, NULL, NULL, NULL, NULL);
    assert_int_equal(aio_set_fd_poll(loop->ctx, fd, device_begin, device_end), -ENOENT);
    assert_int_equal(aio_set_fd_poll(loop->ctx, -1, device_begin, device_end), -ENOENT);
    aio_set_fd_handler(loop->ctx, fd, NULL, NULL, NULL, NULL, NULL);
    close(fd);
}

static void handler_is_first_asked_after_its_fd_was_ready_in_time(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};

    poll_for_long(loop->ctx);
    loop->ctx->poll.own_ns = 0;
    device.ctx = loop->ctx;
    device.fd = new_eventfd(0);
    aio_set_fd_handler(
        loop->ctx, device.fd, device_readable, NULL, device_poll, device_poll_ready, &device);
    aio_poll(loop->ctx, false);
    assert_int_equal(device.n_asked, 0);
    device_put(&device);
    while (device.taken < 1)
        aio_poll(loop->ctx, true);
    assert_int_equal(device.n_asked, 0);
    handler_after(loop->ctx, device.fd, 1);
    aio_poll(loop->ctx, false);
    assert_true(device.n_asked > 0);
    device_close(&device);
}

static void what_came_between_the_last_look_and_the_end_is_seen_before_the_sleep(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queue_at_end = true};

    device_open(&device, loop->ctx, 1000);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(device.taken, 1);
    assert_int_equal(device.n_begins, 1);
    assert_int_equal(device.n_ends, 1);
    assert_int_equal(counters(loop)->sleeps, 0);
    device_close(&device);
}

static void loop_that_finds_something_stays_in_poll_mode(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};

    device_open(&device, loop->ctx, LONG_NS);
    for (int i = 1; i <= 3; i++) {
        if (i > 1)
            assert_true(device.silent);
        device.queued++;
        assert_true(aio_poll(loop->ctx, true));
        assert_int_equal(device.taken, i);
    }
    assert_int_equal(device.n_begins, 1);
    assert_int_equal(device.n_ends, 0);
    assert_int_equal(counters(loop)->sleeps, 0);
    device_close(&device);
}

/* Its fd is silent, so a turn that does not wait must ask too. */
static void turn_that_does_not_block_asks_what_is_polled(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 1};

    device_open(&device, loop->ctx, LONG_NS);
    device.queued++;
    assert_true(aio_poll(loop->ctx, true));
    device.queued++;
    assert_true(aio_poll(loop->ctx, false));
    assert_int_equal(device.taken, 3);
    device_close(&device);
}

static void switching_polling_off_ends_it_for_each(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};
    AioTimer timer;
    bool fired = false;

    device_open(&device, loop->ctx, LONG_NS);
    device.queued++;
    assert_true(aio_poll(loop->ctx, true));
    assert_true(device.silent);
    aio_context_set_poll_params(loop->ctx, 0, 0, 0);
    aio_timer_init(loop->ctx, &timer, set_flag, &fired);
    timer_mod_ns(&timer, aio_clock_ns() + 2 * AIO_SCALE_MS);
    loop_until(loop, &fired);
    assert_false(device.silent);
    assert_int_equal(device.n_ends, 1);
    assert_false(poll_mode_is_on(loop->ctx));
    device_close(&device);
}

static void handler_taken_off_while_polled_is_asked_and_told_nothing_more(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};

    device_open(&device, loop->ctx, LONG_NS);
    device.queued++;
    assert_true(aio_poll(loop->ctx, true));
    aio_set_fd_handler(loop->ctx, device.fd, NULL, NULL, NULL, NULL, NULL);
    int n_asked = device.n_asked;
    device.queued++;
    assert_false(aio_poll(loop->ctx, false));
    aio_bh_schedule_oneshot(loop->ctx, count_call, &device.taken);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(device.n_asked, n_asked);
    assert_int_equal(device.n_ends, 0);
    assert_null(loop->ctx->poll.polled);
    assert_int_equal(loop->ctx->poll.n_silent, 0);
    close(device.fd);
}

static void io_poll_ready_that_turns_the_loop_is_not_called_within_itself(void **state)
{
    struct loop *loop = *state;
    struct device device = {.nests = true};

    device_open(&device, loop->ctx, LONG_NS);
    device.queued++;
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(device.deepest, 1);
    assert_int_equal(device.taken, 1);
    device_close(&device);
}

static void poll_in_callback(void)
{
    AioContext *ctx;
    struct device device = {.polls_in_poll = true};

    aio_context_set_current(NULL); /* the fixture's */
    if (aio_context_new(NULL, &ctx) == 0) {
        device_open(&device, ctx, LONG_NS);
        aio_poll(ctx, true);
    }
}

static void io_poll_that_turns_the_loop_aborts(void **state)
{
    assert_bug(poll_in_callback, "in_callback");
}

static void handler_that_is_quiet_for_long_is_told_the_end_and_asked_no_more(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};
    int64_t now_ns = aio_clock_ns();

    device_open(&device, loop->ctx, LONG_NS);
    device.queued++;
    assert_true(aio_poll(loop->ctx, true));
    assert_true(device.silent);
    poll_mode_tidy(loop->ctx, now_ns += POLL_MODE_QUIET_NS);
    poll_mode_tidy(loop->ctx, now_ns += POLL_MODE_QUIET_NS - 1);
    assert_true(device.silent);
    /* One that is ready after all stays, for the time. */
    device.queue_at_end = true;
    poll_mode_tidy(loop->ctx, now_ns += 1);
    assert_false(device.silent);
    assert_true(aio_poll(loop->ctx, false));
    assert_int_equal(device.taken, 2);
    assert_non_null(loop->ctx->poll.polled);
    poll_mode_tidy(loop->ctx, now_ns += POLL_MODE_QUIET_NS);
    poll_mode_tidy(loop->ctx, now_ns += POLL_MODE_QUIET_NS);
    assert_null(loop->ctx->poll.polled);
    assert_int_equal(device.n_begins, device.n_ends);
    device_close(&device);
}

/* ---- beside plain fds ---- */

static bool always(void *opaque)
{
    return true;
}

static void plain_fd_is_not_starved_by_one_that_is_always_ready(void **state)
{
    struct loop *loop = *state;
    struct visit plain = {.fd = new_eventfd(1)};
    int polled = new_eventfd(0);
    int calls = 0, plain_calls = 0;

    aio_set_fd_handler(loop->ctx, polled, count_call, NULL, always, count_call, &calls);
    aio_context_set_poll_params(loop->ctx, LONG_NS, 0, 0);
    handler_after(loop->ctx, polled, 1);
    aio_set_fd_handler(loop->ctx, plain.fd, count_call, NULL, NULL, NULL, &plain_calls);
    for (int turn = 0; turn < 4 && plain_calls == 0; turn++)
        assert_true(aio_poll(loop->ctx, true));
    assert_true(plain_calls > 0);
    assert_true(calls > 0);
    aio_set_fd_handler(loop->ctx, polled, NULL, NULL, NULL, NULL, NULL);
    aio_set_fd_handler(loop->ctx, plain.fd, NULL, NULL, NULL, NULL, NULL);
    close(polled);
    close(plain.fd);
}

/* ---- under load ---- */

#define N_PUTS 20000

static void *put_many(void *opaque)
{
    struct device *device = opaque;

    for (int i = 0; i < N_PUTS; i++) {
        device_put(device);
        if (i % 64 == 0)
            sched_yield();
    }
    return NULL;
}

static void device_that_is_silent_while_polled_loses_nothing(void **state)
{
    struct loop *loop = *state;
    struct device device = {.queued = 0};
    pthread_t thread;

    device_open(&device, loop->ctx, 2000);
    assert_int_equal(pthread_create(&thread, NULL, put_many, &device), 0);
    while (device.taken < N_PUTS)
        aio_poll(loop->ctx, true);
    pthread_join(thread, NULL);
    assert_true(device.n_begins > 0);
    device_close(&device);
}

int main(void)
{
    static const struct CMUnitTest poll_mode[] = {
        LOOP_CASE(polling_is_off_by_default_and_takes_no_nonsense),
        LOOP_CASE(while_grows_to_the_limit_and_shrinks_beyond_it),
        LOOP_CASE(while_that_grows_beyond_all_numbers_stays_at_the_limit),
        LOOP_CASE(each_handler_has_a_while_of_its_own),
        LOOP_CASE(bottom_half_of_another_thread_ends_it_without_a_ring),
        LOOP_CASE(idle_bottom_half_of_another_thread_is_run),
        LOOP_CASE(notification_ends_it_and_is_no_progress),
        LOOP_CASE(source_that_has_work_ends_it),
        LOOP_CASE(timer_that_another_thread_arms_ends_it),
        LOOP_CASE(plain_fd_that_becomes_readable_ends_it),
        LOOP_CASE(poll_callbacks_need_a_handler_with_io_poll),
        LOOP_CASE(handler_is_first_asked_after_its_fd_was_ready_in_time),
        LOOP_CASE(what_came_between_the_last_look_and_the_end_is_seen_before_the_sleep),
        LOOP_CASE(loop_that_finds_something_stays_in_poll_mode),
        LOOP_CASE(turn_that_does_not_block_asks_what_is_polled),
        LOOP_CASE(switching_polling_off_ends_it_for_each),
        LOOP_CASE(handler_taken_off_while_polled_is_asked_and_told_nothing_more),
        LOOP_CASE(io_poll_ready_that_turns_the_loop_is_not_called_within_itself),
        LOOP_CASE(io_poll_that_turns_the_loop_aborts),
        LOOP_CASE(handler_that_is_quiet_for_long_is_told_the_end_and_asked_no_more),
        LOOP_CASE(plain_fd_is_not_starved_by_one_that_is_always_ready),
        LOOP_CASE(device_that_is_silent_while_polled_loses_nothing),
    };

    return LOOP_RUN(poll_mode);
}
