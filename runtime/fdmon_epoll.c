/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"
/*
 * The set is changed by the thread that asks, under handler_lock, and takes effect in a wait that
 * has begun already. Events carry the handler's pointer: a node is put on the deleted list only
 * after the set has let go of it, and only the thread that waits frees it, after its callbacks; so
 * a pointer that a wait brings back is never stale memory.
 *
 * The clock is epoll_pwait2()'s, in nanoseconds. Some sandboxes know no such call; then the
 * timeout is rounded up to milliseconds.
 *
 * Orderings        first         then         ordered by                  if broken
 *   HAND   a new node    its events   release before epoll_ctl(), the   loop reads a node half made
 *                                     kernel, acquire after the wait
 *   COUNT  (nothing)     n_watched    none: a glance; who changes it    a turn does not look at an
 *                                     nudges, and every wait that       fd that was added meanwhile
 *                                     blocks looks at all
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

#define EVENTS_A_WAIT 128 /* what is ready beyond that comes first in the next */
#define NS_PER_S      1000000000LL
#define NS_PER_MS     1000000LL

static_assert(
    EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLERR == POLLERR && EPOLLHUP == POLLHUP,
    "epoll and poll name events alike");

struct epoll_monitor {
    int fd;
    uint32_t n_watched; /* fds but the doorbell's; written under handler_lock */
    uint32_t
        n_changes; /* likewise; says in C what the kernel does: who adds comes before who waits */
    bool no_pwait2;
};

static struct epoll_monitor *monitor_of(const AioContext *ctx)
{
    return ctx->monitor_state;
}

static int control(const struct epoll_monitor *monitor, int op, struct aio_handler *handler)
{
    struct epoll_event event = {.events = handler->events, .data.ptr = handler};

    return epoll_ctl(monitor->fd, op, handler->fd, &event) < 0 ? -errno : 0;
}

/* Whoever closed an fd without taking it off has taken it out of the set, and the number may be
 * another file by now: what the set holds decides, not what should be there. */
static int watch(const struct epoll_monitor *monitor, struct aio_handler *handler, bool is_there)
{
    int r = control(monitor, is_there ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, handler);

    if (r == -ENOENT)
        r = control(monitor, EPOLL_CTL_ADD, handler);
    else if (r == -EEXIST)
        r = control(monitor, EPOLL_CTL_MOD, handler);
    return r;
}

static int epoll_update(AioContext *ctx, struct aio_handler *old, struct aio_handler *new_handler)
{
    struct epoll_monitor *monitor = monitor_of(ctx);
    int32_t change = !!new_handler - !!old;

    atomic_store_release(&monitor->n_changes, monitor->n_changes + 1); /* HAND */
    if (new_handler) {
        int r = watch(monitor, new_handler, old != NULL);
        if (r < 0)
            return r;
    } else {
        control(
            monitor, EPOLL_CTL_DEL, old); /* fails where fd was closed: it is off all the same */
    }
    if ((new_handler ? new_handler : old)->fd != ctx->bell.fd) {
        atomic_store_relaxed(
            &monitor->n_watched, monitor->n_watched + (uint32_t)change); /* COUNT */
    }
    return 0;
}

static int wait_ms(int epoll_fd, struct epoll_event *events, int64_t timeout_ns)
{
    int64_t timeout_ms = -1;

    if (timeout_ns >= 0)
        timeout_ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return epoll_wait(
        epoll_fd, events, EVENTS_A_WAIT, timeout_ms < INT_MAX ? (int)timeout_ms : INT_MAX);
}

static int wait_ns(struct epoll_monitor *monitor, struct epoll_event *events, int64_t timeout_ns)
{
    if (timeout_ns > 0 && !monitor->no_pwait2) {
        struct timespec timeout = {
            .tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
        int n = epoll_pwait2(monitor->fd, events, EVENTS_A_WAIT, &timeout, NULL);

        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        monitor->no_pwait2 = true;
    }
    return wait_ms(monitor->fd, events, timeout_ns);
}

static int epoll_monitor_wait(AioContext *ctx, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS_A_WAIT];
    struct epoll_monitor *monitor = monitor_of(ctx);
    int n = wait_ns(monitor, events, timeout_ns);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    (void)atomic_load_acquire(&monitor->n_changes); /* HAND */
    for (int i = 0; i < n; i++)
        fdmon_add_ready(ctx, events[i].data.ptr, events[i].events);
    return 0;
}

static bool epoll_need_wait(const AioContext *ctx)
{
    /* Those that io_poll tells of in each turn need no system call. */
    return atomic_load_relaxed(&monitor_of(ctx)->n_watched) > ctx->poll.n_silent; /* COUNT */
}

static bool epoll_keeps_deleted(const AioContext *ctx, const struct aio_handler *handler)
{
    return false;
}

static void epoll_destroy(AioContext *ctx)
{
    struct epoll_monitor *monitor = monitor_of(ctx);

    close(monitor->fd);
    free(monitor);
    ctx->monitor_state = NULL;
}

static const struct fdmon_ops epoll_ops = {
    .name = "epoll",
    .update = epoll_update,
    .wait = epoll_monitor_wait,
    .need_wait = epoll_need_wait,
    .keeps_deleted = epoll_keeps_deleted,
    .destroy = epoll_destroy,
};

int fdmon_epoll_setup(AioContext *ctx)
{
    struct epoll_monitor *monitor = calloc(1, sizeof *monitor);

    if (!monitor)
        return -ENOMEM;
    monitor->fd = epoll_create1(EPOLL_CLOEXEC);
    if (monitor->fd < 0) {
        int r = -errno;

        free(monitor);
        return r;
    }
    ctx->monitor = &epoll_ops;
    ctx->monitor_state = monitor;
    return 0;
}
