/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"
/*
 * The set is changed by the thread that asks, under handler_lock, and takes effect in a wait that
 * has begun already. Events carry the handler's pointer: a node is put on the deleted list only
 * after the set has let go of it, and only the thread that waits frees it, after its callbacks; so
 * a pointer that a wait brings back is never stale memory.
 *
 * The set holds files, not fds. A file whose fd was closed before it was taken off stays in it
 * while another fd (a child's) keeps the file open, and nobody can name it any more to take it off.
 * So where an fd turns out not to be the file that was watched the set is made anew, by the loop,
 * before it waits again; until then no handler is freed, as a lost entry may point to it.
 *
 * The clock is epoll_pwait2()'s, in nanoseconds; where a sandbox knows no such call, ppoll()'s.
 *
 * Orderings        first         then         ordered by                  if broken
 *   HAND   a new node    its events   release before epoll_ctl(), the   loop reads a node half made
 *                                     kernel, acquire after the wait
 *   LOST   (nothing)     lost_one     none: a glance; who sets it       the set is made anew a turn
 *                                     nudges a wait                     later
 *   WHICH  (see fdmon.c)
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
    bool no_pwait2;      /* the owner loop's */
    struct pollfd outer; /* likewise */

    /* Written under handler_lock. */
    uint32_t n_changes; /* says in C what the kernel does: who adds comes before who waits */
    bool lost_one;      /* the set may hold a file that no fd of ours names; also read without it */
    uint32_t n_remade;
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

/* The number may be another file by now: what the set holds decides, not what should be there. */
static int watch(struct epoll_monitor *monitor, struct aio_handler *handler, bool is_there)
{
    int r = control(monitor, is_there ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, handler);

    if (r == -ENOENT) {
        atomic_store_relaxed(&monitor->lost_one, true); /* LOST */
        r = control(monitor, EPOLL_CTL_ADD, handler);
    } else if (r == -EEXIST) {
        r = control(monitor, EPOLL_CTL_MOD, handler);
    }
    return r;
}

static int epoll_update(AioContext *ctx, struct aio_handler *old, struct aio_handler *new_handler)
{
    struct epoll_monitor *monitor = monitor_of(ctx);

    atomic_store_release(&monitor->n_changes, monitor->n_changes + 1); /* HAND */
    if (new_handler)
        return watch(monitor, new_handler, old != NULL);
    if (control(monitor, EPOLL_CTL_DEL, old) < 0)
        atomic_store_relaxed(&monitor->lost_one, true); /* LOST */
    return 0;
}

/* ---- owner loop ---- */

/* 0 or -errno. */
static int watch_all(const AioContext *ctx, struct epoll_monitor *monitor)
{
    for (struct aio_handler *handler = ctx->watched; handler; handler = handler->next) {
        int r = watch(monitor, handler, false);

        /* An fd that was closed, or is another file by now: no set can hold what is gone. */
        if (r < 0 && r != -EBADF && r != -EPERM)
            return r;
    }
    return 0;
}

/* Where the kernel gives no other set now, this one is made anew later. */
static void remake_set(const AioContext *ctx, struct epoll_monitor *monitor)
{
    struct epoll_monitor remade = *monitor;

    remade.fd = epoll_create1(EPOLL_CLOEXEC);
    if (remade.fd < 0)
        return;
    if (watch_all(ctx, &remade) < 0) {
        close(remade.fd);
        return;
    }
    close(monitor->fd);
    monitor->fd = remade.fd;
    monitor->n_remade++;
    monitor->lost_one = false;
}

/* What the next wait needs. */
static void mend_set(AioContext *ctx, struct epoll_monitor *monitor)
{
    if (!atomic_load_relaxed(&monitor->lost_one)) /* LOST */
        return;
    pthread_mutex_lock(&ctx->handler_lock);
    remake_set(ctx, monitor);
    pthread_mutex_unlock(&ctx->handler_lock);
}

/* The end of all precision: ppoll() refuses even one fd where RLIMIT_NOFILE is 0. */
static int wait_ms(int epoll_fd, struct epoll_event *events, int64_t timeout_ns)
{
    int64_t timeout_ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);

    return epoll_wait(
        epoll_fd, events, EVENTS_A_WAIT, timeout_ms < INT_MAX ? (int)timeout_ms : INT_MAX);
}

static int wait_by_ppoll(int epoll_fd, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
    struct pollfd pollfd = {.fd = epoll_fd, .events = POLLIN};
    int n = ppoll(&pollfd, 1, &timeout, NULL);

    if (n < 0 && errno == EINVAL)
        return wait_ms(epoll_fd, events, timeout_ns);
    return n <= 0 ? n : epoll_wait(epoll_fd, events, EVENTS_A_WAIT, 0);
}

static int wait_for_events(
    struct epoll_monitor *monitor, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};

    if (timeout_ns <= 0)
        return epoll_wait(monitor->fd, events, EVENTS_A_WAIT, timeout_ns == 0 ? 0 : -1);
    if (!monitor->no_pwait2) {
        int n = epoll_pwait2(monitor->fd, events, EVENTS_A_WAIT, &timeout, NULL);

        if (n >= 0 || (errno != ENOSYS && errno != EPERM && errno != EACCES))
            return n;
        monitor->no_pwait2 = true;
    }
    return wait_by_ppoll(monitor->fd, events, timeout_ns);
}

static int epoll_monitor_wait(AioContext *ctx, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS_A_WAIT];
    struct epoll_monitor *monitor = monitor_of(ctx);

    mend_set(ctx, monitor);
    int n = wait_for_events(monitor, events, timeout_ns);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    (void)atomic_load_acquire(&monitor->n_changes); /* HAND */
    for (int i = 0; i < n; i++)
        fdmon_add_ready(ctx, events[i].data.ptr, events[i].events);
    return 0;
}

/* Under handler_lock. */
static bool epoll_keeps_deleted(const AioContext *ctx, const struct aio_handler *handler)
{
    return monitor_of(ctx)->lost_one;
}

/* ---- in an outer loop ---- */

static int epoll_outer_setup(AioContext *ctx)
{
    return 0;
}

static int64_t epoll_outer_prepare(AioContext *ctx, struct fdmon_fds *ret_fds)
{
    struct epoll_monitor *monitor = monitor_of(ctx);

    mend_set(ctx, monitor);
    monitor->outer = (struct pollfd){.fd = monitor->fd, .events = POLLIN};
    *ret_fds = (struct fdmon_fds){.fds = &monitor->outer, .n = 1, .generation = monitor->n_remade};
    return -1;
}

static int epoll_outer_check(AioContext *ctx, bool is_ready)
{
    return is_ready ? epoll_monitor_wait(ctx, 0) : 0;
}

/* ---- beginning and end ---- */

static void free_monitor(struct epoll_monitor *monitor)
{
    if (monitor->fd >= 0)
        close(monitor->fd);
    free(monitor);
}

static void epoll_destroy(AioContext *ctx)
{
    free_monitor(monitor_of(ctx));
    ctx->monitor_state = NULL;
}

static const struct fdmon_ops epoll_ops = {
    .monitor = AIO_MONITOR_EPOLL,
    .name = "epoll",
    .update = epoll_update,
    .wait = epoll_monitor_wait,
    .need_wait = fdmon_watches_fds,
    .keeps_deleted = epoll_keeps_deleted,
    .outer_setup = epoll_outer_setup,
    .outer_prepare = epoll_outer_prepare,
    .outer_check = epoll_outer_check,
    .destroy = epoll_destroy,
};

int fdmon_epoll_setup(AioContext *ctx)
{
    struct epoll_monitor *monitor = calloc(1, sizeof *monitor);

    if (!monitor)
        return -ENOMEM;
    monitor->fd = epoll_create1(EPOLL_CLOEXEC);
    int r = monitor->fd < 0 ? -errno : watch_all(ctx, monitor);

    if (r < 0) {
        free_monitor(monitor);
        return r;
    }
    atomic_store_relaxed(&ctx->monitor, &epoll_ops); /* WHICH */
    ctx->monitor_state = monitor;
    return 0;
}
