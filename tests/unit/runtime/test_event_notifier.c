/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "runtime/event_notifier.h"

#define FULL (UINT64_MAX - 1) /* as far as an eventfd counts */

struct listener {
    EventNotifier e; /* first, so that its address is the callback's opaque */
    int n_calls;
    bool was_set;
    bool called;
};

static void on_event(void *opaque)
{
    struct listener *listener = opaque;

    listener->n_calls++;
    listener->was_set = event_notifier_test_and_clear(&listener->e);
    set_flag(&listener->called);
}

static void listen_to(struct loop *loop, struct listener *listener, bool active)
{
    *listener = (struct listener){0};
    assert_int_equal(event_notifier_init(&listener->e, active), 0);
    assert_int_equal(aio_set_event_notifier(loop->ctx, &listener->e, on_event, NULL, NULL), 0);
}

static void ignore(struct loop *loop, struct listener *listener)
{
    assert_int_equal(aio_set_event_notifier(loop->ctx, &listener->e, NULL, NULL, NULL), 0);
    event_notifier_cleanup(&listener->e);
}

static bool is_readable(const EventNotifier *e)
{
    struct pollfd pfd = {.fd = event_notifier_get_fd(e), .events = POLLIN};

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLIN);
}

static void what_is_set_is_set_until_it_is_cleared_once(void **state)
{
    EventNotifier e;

    assert_int_equal(event_notifier_init(&e, false), 0);
    assert_false(is_readable(&e));
    assert_false(event_notifier_test_and_clear(&e));
    for (int i = 0; i < 3; i++)
        assert_int_equal(event_notifier_set(&e), 0);
    assert_true(is_readable(&e));
    assert_true(event_notifier_test_and_clear(&e));
    assert_false(event_notifier_test_and_clear(&e));
    assert_false(is_readable(&e));
    event_notifier_cleanup(&e);
}

static void one_made_active_is_set_from_the_start(void **state)
{
    EventNotifier e;

    assert_int_equal(event_notifier_init(&e, true), 0);
    assert_true(event_notifier_test_and_clear(&e));
    assert_false(event_notifier_test_and_clear(&e));
    event_notifier_cleanup(&e);
}

static void a_full_counter_is_success_and_blocks_nobody(void **state)
{
    EventNotifier e;

    assert_int_equal(event_notifier_init(&e, false), 0);
    assert_int_equal(eventfd_write(event_notifier_get_fd(&e), FULL), 0);
    errno = EDOM;
    assert_int_equal(event_notifier_set(&e), 0);
    assert_int_equal(errno, EDOM);
    assert_true(event_notifier_test_and_clear(&e));
    assert_false(event_notifier_test_and_clear(&e));
    assert_int_equal(errno, EDOM);
    event_notifier_cleanup(&e);
}

static void after_cleanup_nothing_is_done_to_an_fd_of_that_number(void **state)
{
    struct loop *loop = *state;
    EventNotifier e;

    assert_int_equal(event_notifier_init(&e, false), 0);
    int number = event_notifier_get_fd(&e);

    event_notifier_cleanup(&e);
    int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    assert_int_equal(other, number);
    assert_int_equal(event_notifier_get_fd(&e), -1);
    assert_int_equal(event_notifier_set(&e), -EBADF);
    assert_int_equal(eventfd_write(other, 1), 0);
    assert_false(event_notifier_test_and_clear(&e));
    assert_int_equal(aio_set_event_notifier(loop->ctx, &e, on_event, NULL, NULL), -EBADF);
    event_notifier_cleanup(&e);
    eventfd_t count;

    assert_int_equal(eventfd_read(other, &count), 0);
    assert_int_equal(count, 1);
    close(other);
}

static void a_set_notifier_runs_its_callback_until_it_is_cleared(void **state)
{
    struct loop *loop = *state;
    struct listener listener;

    listen_to(loop, &listener, false);
    assert_false(aio_poll(loop->ctx, false));
    event_notifier_set(&listener.e);
    event_notifier_set(&listener.e);
    loop_until(loop, &listener.called);
    assert_true(listener.was_set);
    for (int i = 0; i < 3; i++)
        assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(listener.n_calls, 1);
    ignore(loop, &listener);
}

static void one_that_was_set_before_it_was_watched_is_reported(void **state)
{
    struct loop *loop = *state;
    struct listener listener;

    listen_to(loop, &listener, true);
    loop_until(loop, &listener.called);
    ignore(loop, &listener);
}

static void *set_it(void *opaque)
{
    assert_int_equal(event_notifier_set(opaque), 0);
    return NULL;
}

static void a_thread_wakes_a_loop_that_sleeps(void **state)
{
    struct loop *loop = *state;
    struct listener listener;
    pthread_t thread;

    for (int i = 0; i < 20; i++) {
        listen_to(loop, &listener, false);
        assert_int_equal(pthread_create(&thread, NULL, set_it, &listener.e), 0);
        loop_until(loop, &listener.called);
        pthread_join(thread, NULL);
        assert_true(listener.was_set);
        ignore(loop, &listener);
    }
}

static EventNotifier *of_signal_handler;

static void on_signal(int number)
{
    event_notifier_set(of_signal_handler);
}

static void a_signal_handler_wakes_the_loop_and_spares_errno(void **state)
{
    struct loop *loop = *state;
    struct sigaction action = {.sa_handler = on_signal}, before;
    struct listener listener;

    listen_to(loop, &listener, false);
    of_signal_handler = &listener.e;
    sigaction(SIGUSR1, &action, &before);
    assert_int_equal(eventfd_write(event_notifier_get_fd(&listener.e), FULL), 0);
    errno = EDOM;
    raise(SIGUSR1);
    assert_int_equal(errno, EDOM);
    loop_until(loop, &listener.called);
    sigaction(SIGUSR1, &before, NULL);
    ignore(loop, &listener);
}

static bool look(void *opaque)
{
    return ((struct listener *)opaque)->called;
}

/* What then happens is tested with poll_mode.c. */
static void begin_and_end_of_polling_are_those_of_its_fd(void **state)
{
    struct loop *loop = *state;
    struct listener listener;

    listen_to(loop, &listener, false);
    assert_int_equal(aio_set_event_notifier_poll(loop->ctx, &listener.e, count_call, set_flag),
        -ENOENT); /* has no io_poll */
    assert_int_equal(aio_set_event_notifier(loop->ctx, &listener.e, on_event, look, on_event), 0);
    assert_int_equal(aio_set_event_notifier_poll(loop->ctx, &listener.e, count_call, set_flag), 0);
    const struct aio_handler *handler = loop->ctx->handlers[event_notifier_get_fd(&listener.e)];

    assert_ptr_equal(handler->io_poll, look);
    assert_ptr_equal(handler->poll.begin, count_call);
    assert_ptr_equal(handler->poll.end, set_flag);
    assert_ptr_equal(handler->opaque, &listener.e);
    ignore(loop, &listener);
}

int main(void)
{
    static const struct CMUnitTest event_notifier[] = {
        LOOP_CASE(what_is_set_is_set_until_it_is_cleared_once),
        LOOP_CASE(one_made_active_is_set_from_the_start),
        LOOP_CASE(a_full_counter_is_success_and_blocks_nobody),
        LOOP_CASE(after_cleanup_nothing_is_done_to_an_fd_of_that_number),
        LOOP_CASE(a_set_notifier_runs_its_callback_until_it_is_cleared),
        LOOP_CASE(one_that_was_set_before_it_was_watched_is_reported),
        LOOP_CASE(a_thread_wakes_a_loop_that_sleeps),
        LOOP_CASE(begin_and_end_of_polling_are_those_of_its_fd),
        LOOP_CASE(a_signal_handler_wakes_the_loop_and_spares_errno),
    };

    return LOOP_RUN(event_notifier);
}
