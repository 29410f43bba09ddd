/* SPDX-License-Identifier: MIT */
#include "runtime/gsource.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "runtime/co_sleep.h"
#include "runtime/coroutine.h"
#include "runtime/disk.h"
#include "tests/unit/runtime/loop_fixture.h"

/* Each case turns GLib's loop and never aio_poll(), unless it says so. */

#define DEADLINE_MS 20000

struct outer {
    struct loop *loop;
    AioContext *ctx;
    GMainContext *main;
    GSource *deadline;
};

static gboolean fail_at_deadline(gpointer opaque)
{
    loop_fail_late(opaque);
    return G_SOURCE_REMOVE;
}

static void attach(AioContext *ctx, GMainContext *main)
{
    GSource *source = aio_get_g_source(ctx);

    assert_non_null(source);
    g_source_attach(source, main);
    g_source_unref(source);
}

static void outer_init(struct outer *outer, struct loop *loop)
{
    *outer = (struct outer){.loop = loop, .ctx = loop->ctx, .main = g_main_context_new()};
    outer->deadline = g_timeout_source_new(DEADLINE_MS);
    g_source_set_callback(outer->deadline, fail_at_deadline, NULL, NULL);
    g_source_attach(outer->deadline, outer->main);
    attach(outer->ctx, outer->main);
}

static void outer_deinit(struct outer *outer)
{
    GSource *source = aio_get_g_source(outer->ctx);

    g_source_destroy(source);
    g_source_unref(source);
    g_source_destroy(outer->deadline);
    g_source_unref(outer->deadline);
    g_main_context_unref(outer->main);
}

static void turn_until(struct outer *outer, const bool *done)
{
    while (!atomic_load_acquire(done))
        g_main_context_iteration(outer->main, TRUE);
}

static void turn_until_count(struct outer *outer, const unsigned *count, unsigned target)
{
    while (atomic_load_acquire(count) < target)
        g_main_context_iteration(outer->main, TRUE);
}

/* ---- what runs ---- */

static void bottom_half_of_this_thread_runs(void **state)
{
    struct outer outer;
    bool done = false;

    outer_init(&outer, *state);
    assert_int_equal(aio_bh_schedule_oneshot(outer.ctx, set_flag, &done), 0);
    turn_until(&outer, &done);
    outer_deinit(&outer);
}

struct player {
    AioContext *ctx;
    unsigned n_scheduled;
    unsigned n_run;
};

#define N_ROUNDS 1000

static void answer(void *opaque)
{
    struct player *player = opaque;

    atomic_store_release(&player->n_run, player->n_run + 1);
}

/* Each time only when the last one has run, so that a wake-up that is lost is not made good. */
static void *schedule_again_and_again(void *opaque)
{
    struct player *player = opaque;

    for (unsigned i = 0; i < N_ROUNDS; i++) {
        while (atomic_load_acquire(&player->n_run) < i)
            sched_yield();
        if (i % 16 == 0)
            while (atomic_load_acquire(&player->ctx->bell.words->notify_me) == 0)
                sched_yield(); /* until the loop goes to sleep */
        assert_int_equal(aio_bh_schedule_oneshot(player->ctx, answer, player), 0);
    }
    return NULL;
}

static void no_bottom_half_of_another_thread_is_lost(void **state)
{
    struct outer outer;
    pthread_t thread;

    outer_init(&outer, *state);
    struct player player = {.ctx = outer.ctx};

    assert_int_equal(pthread_create(&thread, NULL, schedule_again_and_again, &player), 0);
    turn_until_count(&outer, &player.n_run, N_ROUNDS);
    pthread_join(thread, NULL);
    outer_deinit(&outer);
}

struct event {
    AioContext *ctx;
    int fd;
    unsigned n_calls;
    bool called;
};

static void on_event(void *opaque)
{
    struct event *event = opaque;
    eventfd_t count;

    eventfd_read(event->fd, &count);
    event->n_calls++;
    set_flag(&event->called);
}

static void event_open(struct event *event, AioContext *ctx)
{
    *event = (struct event){.ctx = ctx, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    assert_true(event->fd >= 0);
    assert_int_equal(aio_set_fd_handler(ctx, event->fd, on_event, NULL, NULL, NULL, event), 0);
}

static void event_close(struct event *event)
{
    assert_int_equal(aio_set_fd_handler(event->ctx, event->fd, NULL, NULL, NULL, NULL, NULL), 0);
    close(event->fd);
}

static void *set_event(void *opaque)
{
    eventfd_write(((struct event *)opaque)->fd, 1);
    return NULL;
}

static void fd_that_another_thread_makes_ready_is_reported(void **state)
{
    struct outer outer;
    struct event event;
    pthread_t thread;

    outer_init(&outer, *state);
    event_open(&event, outer.ctx);
    for (unsigned i = 1; i <= 50; i++) {
        assert_int_equal(pthread_create(&thread, NULL, set_event, &event), 0);
        turn_until_count(&outer, &event.n_calls, i);
        pthread_join(thread, NULL);
    }
    event_close(&event);
    outer_deinit(&outer);
}

static void completion_that_comes_with_its_submission_is_not_missed(void **state)
{
    struct outer outer;

    outer_init(&outer, *state);
    for (int i = 0; i < 20; i++) {
        struct event event;

        event_open(&event, outer.ctx);
        eventfd_write(event.fd, 1); /* ready before the monitor asks for the first time */
        turn_until(&outer, &event.called);
        event_close(&event);
    }
    outer_deinit(&outer);
}

static void crowd_of_fds_is_watched_and_let_go(void **state)
{
    struct outer outer;
    struct event events[100];
    unsigned n_calls = 0;

    outer_init(&outer, *state);
    for (int i = 0; i < 100; i++)
        event_open(&events[i], outer.ctx);
    for (int i = 0; i < 100; i++)
        eventfd_write(events[i].fd, 1);
    for (int i = 0; i < 100; i++)
        turn_until(&outer, &events[i].called);
    for (int i = 0; i < 100; i++) {
        n_calls += events[i].n_calls;
        event_close(&events[i]);
    }
    assert_int_equal(n_calls, 100);
    while (g_main_context_iteration(outer.main, FALSE))
        continue;
    outer_deinit(&outer);
}

struct changer {
    AioContext *ctx;
    bool over;
};

/* Each number stands for one file after the other. */
static void *open_and_close(void *opaque)
{
    struct changer *changer = opaque;

    for (int i = 0; i < 500; i++) {
        struct event event;

        event_open(&event, changer->ctx);
        event_close(&event);
    }
    atomic_store_release(&changer->over, true);
    aio_notify(changer->ctx);
    return NULL;
}

static void fds_changed_by_another_thread_leave_nothing_behind(void **state)
{
    struct outer outer;
    struct event event;
    pthread_t thread;

    outer_init(&outer, *state);
    struct changer changer = {.ctx = outer.ctx};

    assert_int_equal(pthread_create(&thread, NULL, open_and_close, &changer), 0);
    turn_until(&outer, &changer.over);
    pthread_join(thread, NULL);
    event_open(&event, outer.ctx);
    eventfd_write(event.fd, 1);
    turn_until(&outer, &event.called);
    event_close(&event);
    outer_deinit(&outer);
}

static void timer_fires_and_not_before_its_time(void **state)
{
    struct outer outer;
    AioTimer timer;

    outer_init(&outer, *state);
    for (int64_t wait_ns = 1; wait_ns < 4 * LOOP_MS; wait_ns += LOOP_MS / 3) {
        bool fired = false;
        int64_t expire_ns = aio_clock_ns() + wait_ns;

        aio_timer_init(outer.ctx, &timer, set_flag, &fired);
        timer_mod_ns(&timer, expire_ns);
        turn_until(&outer, &fired);
        assert_true(aio_clock_ns() >= expire_ns);
    }
    outer_deinit(&outer);
}

static void *arm_timer(void *opaque)
{
    AioTimer *timer = opaque;

    while (atomic_load_acquire(&timer->ctx->bell.words->notify_me) == 0)
        sched_yield();
    timer_mod_ns(timer, aio_clock_ns());
    return NULL;
}

static void timer_that_another_thread_arms_shortens_the_sleep(void **state)
{
    struct outer outer;
    AioTimer timer;
    bool fired = false;
    pthread_t thread;

    outer_init(&outer, *state);
    aio_timer_init(outer.ctx, &timer, set_flag, &fired);
    assert_int_equal(pthread_create(&thread, NULL, arm_timer, &timer), 0);
    turn_until(&outer, &fired);
    pthread_join(thread, NULL);
    outer_deinit(&outer);
}

struct queue {
    struct aio_source source;
    bool has_work;
    bool done;
};

static bool queue_pending(void *opaque)
{
    return atomic_load_acquire(&((struct queue *)opaque)->has_work);
}

static bool queue_dispatch(void *opaque)
{
    struct queue *queue = opaque;

    if (!queue_pending(queue))
        return false;
    atomic_store_release(&queue->has_work, false);
    set_flag(&queue->done);
    return true;
}

static void queue_flush(void *opaque)
{
}

struct sender {
    AioContext *ctx;
    struct queue *queue;
};

static void *send_to_queue(void *opaque)
{
    struct sender *sender = opaque;

    while (atomic_load_acquire(&sender->ctx->bell.words->notify_me) == 0)
        sched_yield();
    atomic_store_release(&sender->queue->has_work, true);
    aio_notify(sender->ctx);
    return NULL;
}

static void work_in_a_source_of_the_contexts_is_done(void **state)
{
    struct outer outer;
    struct queue queue = {.has_work = true};
    pthread_t thread;

    queue.source = (struct aio_source){.pending = queue_pending,
        .dispatch = queue_dispatch,
        .flush = queue_flush,
        .opaque = &queue};
    outer_init(&outer, *state);
    struct sender sender = {outer.ctx, &queue};

    aio_add_source(outer.ctx, &queue.source);
    turn_until(&outer, &queue.done);
    queue.done = false;
    assert_int_equal(pthread_create(&thread, NULL, send_to_queue, &sender), 0);
    turn_until(&outer, &queue.done);
    pthread_join(thread, NULL);
    aio_remove_source(outer.ctx, &queue.source);
    outer_deinit(&outer);
}

/* ---- coroutines and the disk ---- */

#define FILE_BYTES 8192

struct copy {
    int fd;
    uint8_t bytes[FILE_BYTES];
    bool done;
};

static void coroutine_fn write_sleep_read(void *opaque)
{
    struct copy *copy = opaque;

    memset(copy->bytes, 'x', FILE_BYTES);
    assert_int_equal(co_pwrite(copy->fd, copy->bytes, FILE_BYTES, 0), FILE_BYTES);
    assert_int_equal(co_fdatasync(copy->fd), 0);
    assert_int_equal(co_sleep_ns(LOOP_MS), 0);
    memset(copy->bytes, 0, FILE_BYTES);
    assert_int_equal(co_pread(copy->fd, copy->bytes, FILE_BYTES, 0), FILE_BYTES);
    for (int i = 0; i < FILE_BYTES; i++)
        assert_int_equal(copy->bytes[i], 'x');
    set_flag(&copy->done);
}

static int open_unnamed(void)
{
    char path[] = "/tmp/test_gsource.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);

    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

static void use_disk(struct outer *outer)
{
    struct copy copy = {.fd = open_unnamed()};
    Coroutine *co = coroutine_create(write_sleep_read, &copy);

    coroutine_enter(co);
    turn_until(outer, &copy.done);
    close(copy.fd);
}

static void coroutine_sleeps_and_does_disk_io(void **state)
{
    struct outer outer;

    outer_init(&outer, *state);
    for (int i = 0; i < 5; i++)
        use_disk(&outer);
    outer_deinit(&outer);
}

static void coroutine_does_disk_io_by_linux_aio(void **state)
{
    struct loop *loop = *state;
    struct loop with_aio = *loop;
    struct aio_config config = {.engine = AIO_ENGINE_LINUX_AIO, .monitor = loop->monitor};
    struct outer outer;

    if (aio_context_new(&config, &with_aio.ctx) < 0)
        skip();
    aio_context_set_current(NULL);
    aio_context_set_current(with_aio.ctx);
    outer_init(&outer, &with_aio);
    use_disk(&outer);
    outer_deinit(&outer);
    aio_context_set_current(NULL);
    aio_context_unref(with_aio.ctx);
    aio_context_set_current(loop->ctx);
}

/* ---- among other sources ---- */

static gboolean count_and_go_on(gpointer opaque)
{
    count_call(opaque);
    return G_SOURCE_CONTINUE;
}

static void context_behind_a_busy_source_goes_on_when_that_ends(void **state)
{
    struct outer outer;
    pthread_t thread;
    int n_busy = 0;

    outer_init(&outer, *state);
    struct player player = {.ctx = outer.ctx};
    GSource *busy = g_idle_source_new();

    g_source_set_priority(busy, G_PRIORITY_HIGH);
    g_source_set_callback(busy, count_and_go_on, &n_busy, NULL);
    g_source_attach(busy, outer.main);
    assert_int_equal(aio_bh_schedule_oneshot(outer.ctx, answer, &player), 0);
    while (n_busy < 100)
        g_main_context_iteration(outer.main, TRUE);
    assert_int_equal(player.n_run, 0);
    g_source_destroy(busy);
    g_source_unref(busy);
    turn_until_count(&outer, &player.n_run, 1);

    player.n_run = 0;
    assert_int_equal(pthread_create(&thread, NULL, schedule_again_and_again, &player), 0);
    turn_until_count(&outer, &player.n_run, N_ROUNDS);
    pthread_join(thread, NULL);
    outer_deinit(&outer);
}

static void note_current(void *opaque)
{
    atomic_store_release((AioContext **)opaque, aio_context_current());
}

static void contexts_that_share_a_loop_are_each_current_in_their_own_callbacks(void **state)
{
    struct loop *loop = *state;
    AioContext *other = new_monitored_context(loop->engine, loop->monitor);
    AioContext *seen = NULL, *other_seen = NULL;
    struct outer outer;

    outer_init(&outer, loop);
    attach(other, outer.main);
    assert_int_equal(aio_bh_schedule_oneshot(loop->ctx, note_current, &seen), 0);
    assert_int_equal(aio_bh_schedule_oneshot(other, note_current, &other_seen), 0);
    while (!seen || !other_seen)
        g_main_context_iteration(outer.main, TRUE);
    assert_ptr_equal(seen, loop->ctx);
    assert_ptr_equal(other_seen, other);
    assert_ptr_equal(aio_context_current(), loop->ctx);
    outer_deinit(&outer);
    aio_context_unref(other);
}

struct nested {
    struct outer *outer;
    struct event event;
    bool by_aio_poll;
    bool done;
};

static void turn_within(void *opaque)
{
    struct nested *nested = opaque;

    eventfd_write(nested->event.fd, 1);
    while (!nested->event.called)
        if (nested->by_aio_poll)
            aio_poll(nested->outer->ctx, true);
        else
            g_main_context_iteration(nested->outer->main, TRUE);
    set_flag(&nested->done);
}

static void callback_may_turn_either_loop_within(void **state)
{
    struct outer outer;

    outer_init(&outer, *state);
    for (int i = 0; i < 4; i++) {
        struct nested nested = {.outer = &outer, .by_aio_poll = i % 2};

        event_open(&nested.event, outer.ctx);
        assert_int_equal(aio_bh_schedule_oneshot(outer.ctx, turn_within, &nested), 0);
        turn_until(&outer, &nested.done);
        event_close(&nested.event);
    }
    outer_deinit(&outer);
}

/* ---- what it costs ---- */

static void idle_context_does_not_turn(void **state)
{
    struct outer outer;
    struct event events[8];
    AioTimer far, near;
    bool over = false;

    outer_init(&outer, *state);
    for (int i = 0; i < 8; i++)
        event_open(&events[i], outer.ctx);
    aio_timer_init(outer.ctx, &far, loop_fail_late, NULL);
    timer_mod_ns(&far, aio_clock_ns() + 2 * LOOP_DEADLINE_NS);
    while (g_main_context_iteration(outer.main, FALSE))
        continue;

    const struct aio_counters *counters = outer.ctx->instruments.counters;
    uint64_t sleeps = counters->sleeps, polls = counters->polls;

    aio_timer_init(outer.ctx, &near, set_flag, &over);
    timer_mod_ns(&near, aio_clock_ns() + 50 * LOOP_MS);
    turn_until(&outer, &over);
    assert_in_range(counters->sleeps - sleeps, 1, 5);
    assert_in_range(counters->polls - polls, 1, 5);
    timer_del(&far);
    for (int i = 0; i < 8; i++)
        event_close(&events[i]);
    outer_deinit(&outer);
}

struct idler {
    BH *bh;
    unsigned n_runs;
};

static void idle_again(void *opaque)
{
    struct idler *idler = opaque;

    idler->n_runs++;
    bh_schedule_idle(idler->bh);
}

static void idle_bottom_half_that_goes_on_for_ever_leaves_time_to_sleep(void **state)
{
    struct outer outer;
    struct idler idler = {0};

    outer_init(&outer, *state);
    idler.bh = aio_bh_new(outer.ctx, idle_again, &idler);
    bh_schedule_idle(idler.bh);
    uint64_t sleeps = outer.ctx->instruments.counters->sleeps;
    int64_t begin_ns = aio_clock_ns();

    turn_until_count(&outer, &idler.n_runs, 6);
    assert_true(aio_clock_ns() - begin_ns >= 40 * LOOP_MS);
    assert_true(outer.ctx->instruments.counters->sleeps > sleeps);
    bh_delete(idler.bh);
    outer_deinit(&outer);
}

/* ---- a device that is quiet while it is polled ---- */

struct device {
    struct event event;
    bool has_event;
    bool is_polled; /* says nothing by its fd meanwhile */
    bool seen;
};

static void device_event(struct device *device)
{
    atomic_store_release(&device->has_event, true);
    if (!device->is_polled)
        eventfd_write(device->event.fd, 1);
}

static bool device_poll(void *opaque)
{
    return atomic_load_acquire(&((struct device *)opaque)->has_event);
}

static void device_ready(void *opaque)
{
    struct device *device = opaque;
    eventfd_t count;

    eventfd_read(device->event.fd, &count);
    if (device->has_event)
        device->seen = true;
    device->has_event = false;
}

static void device_begin(void *opaque)
{
    ((struct device *)opaque)->is_polled = true;
}

static void device_end(void *opaque)
{
    ((struct device *)opaque)->is_polled = false;
}

/* Leaves the loop as a turn does that found something while it polled. */
static void poll_busily(struct outer *outer, struct device *device)
{
    assert_int_equal(aio_context_set_poll_params(outer->ctx, LOOP_DEADLINE_NS, 0, 0), 0);
    while (!device->is_polled) {
        bool done = false;

        device_event(device);
        assert_int_equal(aio_bh_schedule_oneshot(outer->ctx, set_flag, &done), 0);
        while (!done || device->has_event)
            aio_poll(outer->ctx, false);
        device_event(device);
        aio_poll(outer->ctx, true);
    }
}

static void polled_device_is_told_that_glib_sleeps(void **state)
{
    struct outer outer;
    struct device device = {0};

    outer_init(&outer, *state);
    event_open(&device.event, outer.ctx);
    assert_int_equal(aio_set_fd_handler(outer.ctx, device.event.fd, device_ready, NULL, device_poll,
                         device_ready, &device),
        0);
    assert_int_equal(aio_set_fd_poll(outer.ctx, device.event.fd, device_begin, device_end), 0);
    poll_busily(&outer, &device);
    device.seen = false;
    /* Nothing is signalled yet: what comes before the end must be found by looking. */
    device_event(&device);
    while (!device.seen)
        g_main_context_iteration(outer.main, TRUE);
    assert_false(device.is_polled);
    event_close(&device.event);
    outer_deinit(&outer);
}

/* ---- beginning and end ---- */

static void each_call_returns_the_same_source(void **state)
{
    struct loop *loop = *state;
    GSource *a = aio_get_g_source(loop->ctx), *b = aio_get_g_source(loop->ctx);

    assert_ptr_equal(a, b);
    g_source_unref(a);
    g_source_unref(b);
}

static void end_of_the_context_takes_its_source_off(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = new_monitored_context(loop->engine, loop->monitor);
    GMainContext *main = g_main_context_new();
    GSource *source = aio_get_g_source(ctx);

    g_source_attach(source, main);
    g_main_context_iteration(main, FALSE);
    aio_context_unref(ctx);
    assert_true(g_source_is_destroyed(source));
    assert_false(g_main_context_iteration(main, FALSE));
    g_source_unref(source);
    g_main_context_unref(main);
}

static void context_that_has_turned_already_is_taken_over_with_its_fds(void **state)
{
    struct loop *loop = *state;
    struct outer outer;
    struct event before, gone;

    event_open(&before, loop->ctx);
    event_open(&gone, loop->ctx);
    while (aio_poll(loop->ctx, false))
        continue;
    event_close(&gone);
    outer_init(&outer, loop);
    for (unsigned i = 1; i <= 3; i++) {
        eventfd_write(before.fd, 1);
        turn_until_count(&outer, &before.n_calls, i);
    }
    assert_int_equal(gone.n_calls, 0);
    while (g_main_context_iteration(outer.main, FALSE))
        continue;
    assert_null(loop->ctx->deleted_handlers);
    event_close(&before);
    outer_deinit(&outer);
}

static void coroutine_fn sync_file(void *opaque)
{
    struct copy *copy = opaque;

    assert_int_equal(co_fsync(copy->fd), 0);
    set_flag(&copy->done);
}

static void ring_with_a_request_under_way_is_refused_until_that_has_ended(void **state)
{
    struct loop *loop = *state;

    if (!strstr(aio_context_engine_flags(loop->ctx), "defer-taskrun"))
        skip(); /* GLib can wait for any other */
    struct copy copy = {.fd = open_unnamed()};
    Coroutine *co = coroutine_create(sync_file, &copy);

    coroutine_enter(co);
    errno = 0;
    assert_null(aio_get_g_source(loop->ctx));
    assert_int_equal(errno, EBUSY);
    loop_until(loop, &copy.done);
    close(copy.fd);
    GSource *source = aio_get_g_source(loop->ctx);

    assert_non_null(source);
    g_source_unref(source);
}

static void source_has_one_fd_unless_ppoll_was_asked_for(void **state)
{
    struct aio_config config = {.engine = AIO_ENGINE_THREADS};
    AioContext *ctx;

    assert_int_equal(aio_context_new(&config, &ctx), 0);
    assert_int_equal(aio_context_monitor(ctx), AIO_MONITOR_PPOLL);
    g_source_unref(aio_get_g_source(ctx));
    assert_int_equal(aio_context_monitor(ctx), AIO_MONITOR_EPOLL);
    aio_context_unref(ctx);

    config.monitor = AIO_MONITOR_PPOLL;
    assert_int_equal(aio_context_new(&config, &ctx), 0);
    g_source_unref(aio_get_g_source(ctx));
    assert_int_equal(aio_context_monitor(ctx), AIO_MONITOR_PPOLL);
    aio_context_unref(ctx);
}

int main(void)
{
    static const struct CMUnitTest gsource[] = {
        LOOP_CASE(bottom_half_of_this_thread_runs),
        LOOP_CASE(no_bottom_half_of_another_thread_is_lost),
        LOOP_CASE(fd_that_another_thread_makes_ready_is_reported),
        LOOP_CASE(completion_that_comes_with_its_submission_is_not_missed),
        LOOP_CASE(crowd_of_fds_is_watched_and_let_go),
        LOOP_CASE(fds_changed_by_another_thread_leave_nothing_behind),
        LOOP_CASE(timer_fires_and_not_before_its_time),
        LOOP_CASE(timer_that_another_thread_arms_shortens_the_sleep),
        LOOP_CASE(work_in_a_source_of_the_contexts_is_done),
        LOOP_CASE(coroutine_sleeps_and_does_disk_io),
        LOOP_CASE(coroutine_does_disk_io_by_linux_aio),
        LOOP_CASE(context_behind_a_busy_source_goes_on_when_that_ends),
        LOOP_CASE(contexts_that_share_a_loop_are_each_current_in_their_own_callbacks),
        LOOP_CASE(callback_may_turn_either_loop_within),
        LOOP_CASE(idle_context_does_not_turn),
        LOOP_CASE(idle_bottom_half_that_goes_on_for_ever_leaves_time_to_sleep),
        LOOP_CASE(polled_device_is_told_that_glib_sleeps),
        LOOP_CASE(each_call_returns_the_same_source),
        LOOP_CASE(end_of_the_context_takes_its_source_off),
        LOOP_CASE(context_that_has_turned_already_is_taken_over_with_its_fds),
        LOOP_CASE(ring_with_a_request_under_way_is_refused_until_that_has_ended),
        LOOP_CASE(source_has_one_fd_unless_ppoll_was_asked_for),
    };

    return LOOP_RUN(gsource);
}
