/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/outer_fixture.h"

#include "runtime/coroutine.h"
#include "runtime/disk.h"
#include "runtime/source.h"

/* A context's place in GLib's loop: beside other sources, in other loops, its beginning and its
 * end. */

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

static bool expect_current(void *opaque)
{
    assert_ptr_equal(aio_context_current(), opaque);
    return false;
}

static void flush_where_current(void *opaque)
{
    expect_current(opaque);
}

static void contexts_that_share_a_loop_are_each_current_in_their_own_callbacks(void **state)
{
    struct loop *loop = *state;
    AioContext *other = new_monitored_context(loop->engine, loop->monitor);
    AioContext *seen = NULL, *other_seen = NULL;
    struct aio_source source = {.pending = expect_current,
        .dispatch = expect_current,
        .flush = flush_where_current,
        .opaque = other};
    struct outer outer;

    outer_init(&outer, loop);
    attach(other, outer.main);
    aio_add_source(other, &source);
    assert_int_equal(aio_bh_schedule_oneshot(loop->ctx, note_current, &seen), 0);
    assert_int_equal(aio_bh_schedule_oneshot(other, note_current, &other_seen), 0);
    while (!seen || !other_seen)
        g_main_context_iteration(outer.main, TRUE);
    assert_ptr_equal(seen, loop->ctx);
    assert_ptr_equal(other_seen, other);
    assert_ptr_equal(aio_context_current(), loop->ctx);
    aio_remove_source(other, &source);
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

        event_open_watched(&nested.event, outer.ctx);
        assert_int_equal(aio_bh_schedule_oneshot(outer.ctx, turn_within, &nested), 0);
        turn_until(&outer, &nested.done);
        event_close(&nested.event);
    }
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
    event_open_watched(&device.event, outer.ctx);
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

    event_open_watched(&before, loop->ctx);
    event_open_watched(&gone, loop->ctx);
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

struct sync {
    int fd;
    bool done;
};

static void coroutine_fn sync_file(void *opaque)
{
    struct sync *sync = opaque;

    assert_int_equal(co_fsync(sync->fd), 0);
    set_flag(&sync->done);
}

static void ring_with_a_request_under_way_is_refused_until_that_has_ended(void **state)
{
    struct loop *loop = *state;

    if (!strstr(aio_context_engine_flags(loop->ctx), "defer-taskrun"))
        skip(); /* GLib can wait for any other */
    struct sync sync = {.fd = open_unnamed()};
    Coroutine *co = coroutine_create(sync_file, &sync);

    coroutine_enter(co);
    errno = 0;
    assert_null(aio_get_g_source(loop->ctx));
    assert_int_equal(errno, EBUSY);
    loop_until(loop, &sync.done);
    close(sync.fd);
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
    static const struct CMUnitTest gsource_place[] = {
        LOOP_CASE(context_behind_a_busy_source_goes_on_when_that_ends),
        LOOP_CASE(contexts_that_share_a_loop_are_each_current_in_their_own_callbacks),
        LOOP_CASE(callback_may_turn_either_loop_within),
        LOOP_CASE(polled_device_is_told_that_glib_sleeps),
        LOOP_CASE(each_call_returns_the_same_source),
        LOOP_CASE(end_of_the_context_takes_its_source_off),
        LOOP_CASE(context_that_has_turned_already_is_taken_over_with_its_fds),
        LOOP_CASE(ring_with_a_request_under_way_is_refused_until_that_has_ended),
        LOOP_CASE(source_has_one_fd_unless_ppoll_was_asked_for),
    };

    return LOOP_RUN(gsource_place);
}
