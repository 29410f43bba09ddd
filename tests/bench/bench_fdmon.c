/* SPDX-License-Identifier: MIT */
/*
 * bench_fdmon - what watching many fds costs, on each monitor
 *
 * A turn that finds nothing, and a turn that finds one event, with few fds and with a thousand that
 * are idle; the latter stands beside the former, and the event beside a bare epoll set.
 *
 * usage: bench_fdmon
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "tests/bench/compare.h"

#define FEW  4
#define MANY 1000

/* A context with so many eventfds, or a bare epoll set with them. */
struct crowd {
    AioContext *ctx;
    int epoll_fd;
    int fds[MANY];
    unsigned n;
};

/* What the row at hand measures. */
static struct crowd few, many, bare;

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "bench_fdmon: %s: %s\n", what, strerror(-r));
    exit(1);
}

static void on_event(void *opaque)
{
    eventfd_t count;

    eventfd_read(*(int *)opaque, &count);
}

static void open_fds(struct crowd *crowd, unsigned n)
{
    crowd->n = n;
    for (unsigned i = 0; i < n; i++) {
        crowd->fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        check(crowd->fds[i], "eventfd");
    }
}

static void watch_crowd(struct crowd *crowd, enum aio_monitor monitor, unsigned n)
{
    struct aio_config config = {.monitor = monitor};

    check(aio_context_new(&config, &crowd->ctx), "context");
    open_fds(crowd, n);
    for (unsigned i = 0; i < n; i++)
        check(aio_set_fd_handler(
                  crowd->ctx, crowd->fds[i], on_event, NULL, NULL, NULL, &crowd->fds[i]),
            "watch");
    while (aio_poll(crowd->ctx, false))
        continue;
}

static void watch_bare(struct crowd *crowd, unsigned n)
{
    crowd->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    open_fds(crowd, n);
    for (unsigned i = 0; i < n; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &crowd->fds[i]};

        check(epoll_ctl(crowd->epoll_fd, EPOLL_CTL_ADD, crowd->fds[i], &event), "epoll_ctl");
    }
}

static void drop_crowd(struct crowd *crowd)
{
    for (unsigned i = 0; i < crowd->n; i++) {
        if (crowd->ctx)
            aio_set_fd_handler(crowd->ctx, crowd->fds[i], NULL, NULL, NULL, NULL, NULL);
        close(crowd->fds[i]);
    }
    if (crowd->ctx)
        aio_context_unref(crowd->ctx);
    else
        close(crowd->epoll_fd);
    memset(crowd, 0, sizeof *crowd);
}

static void turn(const struct crowd *crowd, uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        aio_poll(crowd->ctx, false);
}

static void turn_few(uint64_t repeats)
{
    turn(&few, repeats);
}

static void turn_many(uint64_t repeats)
{
    turn(&many, repeats);
}

static void event_among_many(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++) {
        eventfd_write(many.fds[i % many.n], 1);
        while (!aio_poll(many.ctx, true))
            continue;
    }
}

static void event_in_bare_epoll(uint64_t repeats)
{
    struct epoll_event event;

    for (uint64_t i = 0; i < repeats; i++) {
        eventfd_write(bare.fds[i % bare.n], 1);
        if (epoll_wait(bare.epoll_fd, &event, 1, -1) == 1)
            on_event(event.data.ptr);
    }
}

static void measure(enum aio_monitor monitor)
{
    /* ppoll alone looks at each fd in each turn. */
    const char *goal = monitor == AIO_MONITOR_PPOLL ? NULL : "about 1";
    char what[64];

    watch_crowd(&few, monitor, FEW);
    watch_crowd(&many, monitor, MANY);
    snprintf(what, sizeof what, "%s: turn, 1,000 idle fds", aio_monitor_name(monitor));
    compare_row(&(struct compare){.what = what,
        .run = turn_many,
        .baseline_name = "4 idle fds",
        .baseline = turn_few,
        .repeats = 2000,
        .goal = {.text = goal}});
    snprintf(what, sizeof what, "%s: event among 1,000 fds", aio_monitor_name(monitor));
    compare_row(&(struct compare){.what = what,
        .run = event_among_many,
        .baseline_name = "bare epoll",
        .baseline = event_in_bare_epoll,
        .repeats = 2000});
    drop_crowd(&few);
    drop_crowd(&many);
}

int main(void)
{
    static const enum aio_monitor monitors[] = {
        AIO_MONITOR_PPOLL, AIO_MONITOR_EPOLL, AIO_MONITOR_IO_URING};
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    watch_bare(&bare, MANY);
    compare_head();
    for (size_t i = 0; i < sizeof monitors / sizeof monitors[0]; i++)
        measure(monitors[i]);
    drop_crowd(&bare);
    return 0;
}
