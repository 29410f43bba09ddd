/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <sys/resource.h>

#include "tests/unit/runtime/event_fixture.h"

/* A context that chooses its monitor for itself: ppoll while it has few fds, then epoll. */

#define MANY 64 /* fds with which epoll takes over */

/* The loop of a case, with a context that chooses for itself. */
static struct loop growing_loop(const struct loop *loop)
{
    struct loop growing = *loop;

    growing.ctx = new_context(AIO_ENGINE_THREADS);
    return growing;
}

static void epoll_takes_over_at_64_fds_and_stays(void **state)
{
    struct loop loop = growing_loop(*state);
    struct event *few = open_crowd(loop.ctx, MANY - 1);

    settle(loop.ctx);
    assert_int_equal(aio_context_monitor(loop.ctx), AIO_MONITOR_PPOLL);
    use_crowd(&loop, few, MANY - 1);

    struct event *more = open_crowd(loop.ctx, MANY);

    use_crowd(&loop, more, MANY);
    assert_int_equal(aio_context_monitor(loop.ctx), AIO_MONITOR_EPOLL);
    use_crowd(&loop, few, MANY - 1);
    close_crowd(more, MANY);
    settle(loop.ctx);
    use_crowd(&loop, few, MANY - 1);
    assert_int_equal(aio_context_monitor(loop.ctx), AIO_MONITOR_EPOLL);
    close_crowd(few, MANY - 1);
    aio_context_unref(loop.ctx);
}

struct crowd {
    AioContext *ctx;
    struct event *events;
    unsigned n;
};

static void *watch_crowd(void *opaque)
{
    struct crowd *crowd = opaque;

    for (unsigned i = 0; i < crowd->n; i++) {
        event_set(&crowd->events[i]);
        watch(&crowd->events[i]);
        if (i % 8 == 7) { /* now and then one that is there for a moment alone */
            take_off(&crowd->events[i]);
            watch(&crowd->events[i]);
        }
    }
    return NULL;
}

static void no_fd_is_lost_that_another_thread_adds_while_epoll_takes_over(void **state)
{
    enum { N = 2 * MANY };

    for (int round = 0; round < 20; round++) {
        struct loop loop = growing_loop(*state);
        struct crowd crowd = {loop.ctx, calloc(N, sizeof *crowd.events), N};
        pthread_t thread;

        for (unsigned i = 0; i < N; i++)
            event_open(&crowd.events[i], loop.ctx);
        assert_int_equal(pthread_create(&thread, NULL, watch_crowd, &crowd), 0);
        for (unsigned i = 0; i < N; i++)
            loop_until(&loop, &crowd.events[i].called);
        pthread_join(thread, NULL);
        settle(loop.ctx);
        assert_int_equal(aio_context_monitor(loop.ctx), AIO_MONITOR_EPOLL);
        for (unsigned i = 0; i < N; i++)
            assert_int_equal(crowd.events[i].n_calls, 1);
        close_crowd(crowd.events, N);
        aio_context_unref(loop.ctx);
    }
}

/* Takes part in a turn within which epoll takes over. */
struct grower {
    struct event event;
    struct loop *loop;
    struct crowd *crowd;
};

static void grow_within(void *opaque)
{
    struct grower *grower = opaque;

    on_event(&grower->event);
    if (grower->crowd->events)
        return;
    grower->crowd->events = open_crowd(grower->loop->ctx, MANY);
    event_set(&grower->crowd->events[0]);
    loop_until(grower->loop, &grower->crowd->events[0].called);
    assert_int_equal(aio_context_monitor(grower->loop->ctx), AIO_MONITOR_EPOLL);
}

static void epoll_may_take_over_in_a_turn_within_a_turn(void **state)
{
    enum { N = 8 };
    struct loop loop = growing_loop(*state);
    struct crowd crowd = {.ctx = loop.ctx};
    struct grower growers[N];

    for (int i = 0; i < N; i++) {
        growers[i] = (struct grower){.loop = &loop, .crowd = &crowd};
        event_open(&growers[i].event, loop.ctx);
        event_set(&growers[i].event);
        assert_int_equal(aio_set_fd_handler(loop.ctx, growers[i].event.fd, grow_within, NULL, NULL,
                             NULL, &growers[i]),
            0);
    }
    for (int i = 0; i < N; i++)
        loop_until(&loop, &growers[i].event.called);
    settle(loop.ctx);
    for (int i = 0; i < N; i++) {
        assert_int_equal(growers[i].event.n_calls, 1);
        event_close(&growers[i].event);
    }
    close_crowd(crowd.events, MANY);
    aio_context_unref(loop.ctx);
}

static void without_an_fd_for_epoll_ppoll_goes_on(void **state)
{
    struct loop loop = growing_loop(*state);
    struct event *crowd = open_crowd(loop.ctx, 2 * MANY);
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){3, limit.rlim_max}), 0);
    aio_poll(loop.ctx, false);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    use_crowd(&loop, crowd, 2 * MANY);
    assert_int_equal(aio_context_monitor(loop.ctx), AIO_MONITOR_PPOLL);
    close_crowd(crowd, 2 * MANY);
    aio_context_unref(loop.ctx);
}

#define GROWING_CASE(f)                                             \
    {                                                               \
#f, f, loop_setup, loop_teardown, (void *)AIO_MONITOR_PPOLL \
    }

int main(void)
{
    static const struct CMUnitTest growing[] = {
        GROWING_CASE(epoll_takes_over_at_64_fds_and_stays),
        GROWING_CASE(no_fd_is_lost_that_another_thread_adds_while_epoll_takes_over),
        GROWING_CASE(epoll_may_take_over_in_a_turn_within_a_turn),
        GROWING_CASE(without_an_fd_for_epoll_ppoll_goes_on),
    };

    return cmocka_run_group_tests(growing, NULL, NULL);
}
