/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/outer_fixture.h"

#include "runtime/co_sleep.h"
#include "runtime/coroutine.h"
#include "runtime/disk.h"

/* Each case turns GLib's loop and never aio_poll(), unless it says so. */

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
    event_open_watched(&event, outer.ctx);
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

        event_open_watched(&event, outer.ctx);
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
        event_open_watched(&events[i], outer.ctx);
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

        event_open_watched(&event, changer->ctx);
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
    event_open_watched(&event, outer.ctx);
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

    wait_for_sleep(timer->ctx);
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

    wait_for_sleep(sender->ctx);
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

/* ---- what it costs ---- */

static void idle_context_does_not_turn(void **state)
{
    struct outer outer;
    struct event events[8];
    AioTimer far, near;
    bool over = false;

    outer_init(&outer, *state);
    for (int i = 0; i < 8; i++)
        event_open_watched(&events[i], outer.ctx);
    aio_timer_init(outer.ctx, &far, loop_fail_late, NULL);
    timer_mod_ns(&far, aio_clock_ns() + 2 * LOOP_DEADLINE_NS);
    while (g_main_context_iteration(outer.main, FALSE))
        continue;

    const struct aio_counters *counters = outer.ctx->instruments.counters;
    uint64_t sleeps = counters->sleeps, polls = counters->polls;

    aio_timer_init(outer.ctx, &near, set_flag, &over);
    timer_mod_ns(&near, aio_clock_ns() + 200 * LOOP_MS);
    turn_until(&outer, &over);
    assert_in_range(counters->sleeps - sleeps, 1, 5);
    assert_in_range(counters->polls - polls, 1, 5);
    timer_del(&far);
    for (int i = 0; i < 8; i++)
        event_close(&events[i]);
    outer_deinit(&outer);
}

/* GLib knows the fds only as they were when the array last changed. */
static void fd_closed_while_watched_does_not_make_the_loop_spin(void **state)
{
    struct outer outer;
    struct event events[2];
    AioTimer timer;
    unsigned n_turns = 0;
    bool over = false;

    outer_init(&outer, *state);
    for (int i = 0; i < 2; i++)
        event_open_watched(&events[i], outer.ctx);
    while (g_main_context_iteration(outer.main, FALSE))
        continue;
    close(events[0].fd);
    aio_timer_init(outer.ctx, &timer, set_flag, &over);
    timer_mod_ns(&timer, aio_clock_ns() + 30 * LOOP_MS);
    while (!over) {
        if (n_turns++ == 4)
            event_close(&events[1]); /* a change tells of it no more than its own */
        g_main_context_iteration(outer.main, TRUE);
    }
    assert_in_range(n_turns, 1, 30);
    assert_in_range(events[0].n_calls, 0, 1);
    if (n_turns <= 4)
        event_close(&events[1]);
    take_off(&events[0]);
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
        LOOP_CASE(idle_context_does_not_turn),
        LOOP_CASE(fd_closed_while_watched_does_not_make_the_loop_spin),
        LOOP_CASE(idle_bottom_half_that_goes_on_for_ever_leaves_time_to_sleep),
    };

    return LOOP_RUN(gsource);
}
