/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * event_fixture - eventfds to watch, one or a crowd of them
 *
 * Use:  struct event event;
 *       event_open(&event, loop->ctx);   a fresh eventfd
 *       watch(&event);                   its callback empties it, unless it keeps
 *       event_set(&event);
 *       loop_until(loop, &event.called);
 *       event_close(&event);
 */
#include <sys/eventfd.h>

#include "tests/unit/runtime/loop_fixture.h"

struct event {
    AioContext *ctx;
    int fd;
    bool keeps; /* its callback leaves it readable */
    unsigned n_calls;
    unsigned *order; /* counts calls of several */
    unsigned place;  /* of its last call among these */
    bool called;
};

static inline void event_open(struct event *event, AioContext *ctx)
{
    *event = (struct event){.ctx = ctx, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    assert_true(event->fd >= 0);
}

static inline void event_set(const struct event *event)
{
    assert_int_equal(eventfd_write(event->fd, 1), 0);
}

static inline void on_event(void *opaque)
{
    struct event *event = opaque;
    eventfd_t count;

    if (!event->keeps)
        eventfd_read(event->fd, &count);
    event->n_calls++;
    if (event->order)
        event->place = ++*event->order;
    set_flag(&event->called);
}

static inline void watch(struct event *event)
{
    assert_int_equal(
        aio_set_fd_handler(event->ctx, event->fd, on_event, NULL, NULL, NULL, event), 0);
}

static inline void take_off(const struct event *event)
{
    assert_int_equal(aio_set_fd_handler(event->ctx, event->fd, NULL, NULL, NULL, NULL, NULL), 0);
}

static inline void event_close(struct event *event)
{
    take_off(event);
    close(event->fd);
}

static inline struct event *open_crowd(AioContext *ctx, unsigned n)
{
    struct event *crowd = calloc(n, sizeof *crowd);

    for (unsigned i = 0; i < n; i++) {
        event_open(&crowd[i], ctx);
        watch(&crowd[i]);
    }
    return crowd;
}

static inline void close_crowd(struct event *crowd, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        event_close(&crowd[i]);
    free(crowd);
}

/* Sets each and sees each called once. */
static inline void use_crowd(struct loop *loop, struct event *crowd, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        crowd[i].called = false;
        crowd[i].n_calls = 0;
        event_set(&crowd[i]);
    }
    for (unsigned i = 0; i < n; i++)
        loop_until(loop, &crowd[i].called);
    while (aio_poll(loop->ctx, false))
        continue;
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(crowd[i].n_calls, 1);
}

/* Turns until there is nothing to do: all is armed. */
static inline void settle(AioContext *ctx)
{
    while (aio_poll(ctx, false))
        continue;
}

/* Turns until all that were taken off are freed. */
static inline void free_handlers(struct loop *loop)
{
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    while (loop->ctx->deleted_handlers) {
        assert_true(aio_clock_ns() < deadline_ns);
        aio_poll(loop->ctx, false);
    }
}

static inline void turn_for_ns(struct loop *loop, int64_t ns)
{
    AioTimer timer;
    bool over = false;

    aio_timer_init(loop->ctx, &timer, set_flag, &over);
    timer_mod_ns(&timer, aio_clock_ns() + ns);
    loop_until(loop, &over);
}

static inline uint64_t n_polls(const struct loop *loop)
{
    return loop->ctx->instruments.counters->polls;
}
