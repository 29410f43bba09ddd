/* SPDX-License-Identifier: MIT */
/*
 * Orderings     first                 then                     ordered by         if broken
 *   WOKEN   what the waker did    its user's look at it   release, exchange  a wake tells nothing
 */
#include "ipc/client/waiter.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"

int64_t waiter_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int waiter_init(struct waiter *waiter)
{
    *waiter = (struct waiter){.armed_ns = INT64_MAX};
    waiter->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    waiter->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    waiter->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (waiter->epoll_fd < 0 || waiter->event_fd < 0 || waiter->timer_fd < 0)
        return -errno;
    int r = waiter_watch(waiter, waiter->event_fd, 0);
    return r < 0 ? r : waiter_watch(waiter, waiter->timer_fd, 0);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void waiter_deinit(struct waiter *waiter)
{
    close_fd(waiter->epoll_fd);
    close_fd(waiter->event_fd);
    close_fd(waiter->timer_fd);
    waiter->epoll_fd = waiter->event_fd = waiter->timer_fd = -1;
}

int waiter_watch(struct waiter *waiter, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};

    return epoll_ctl(waiter->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void waiter_unwatch(struct waiter *waiter, int fd)
{
    epoll_ctl(waiter->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void waiter_ring(struct waiter *waiter)
{
    if (waiter->rung)
        return;
    waiter->rung = true;
    /* Fails only where the counter is full, and then it is readable. */
    (void)!eventfd_write(waiter->event_fd, 1);
}

void waiter_quiet(struct waiter *waiter)
{
    uint64_t count;

    /* Both fail only where it is quiet already. */
    (void)!eventfd_read(waiter->event_fd, &count);
    if (read(waiter->timer_fd, &count, sizeof(count)) == sizeof(count))
        waiter->armed_ns = INT64_MAX;
    waiter->rung = false;
}

void waiter_arm(struct waiter *waiter, int64_t when_ns)
{
    struct itimerspec when = {};

    if (when_ns == waiter->armed_ns)
        return;
    if (when_ns != INT64_MAX) {
        int64_t at_ns = when_ns > 0 ? when_ns : 1;
        when.it_value.tv_sec = at_ns / 1000000000;
        when.it_value.tv_nsec = at_ns % 1000000000;
    }
    if (timerfd_settime(waiter->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0)
        waiter->armed_ns = when_ns;
}

int waiter_wait(struct waiter *waiter, int64_t until_ns, struct epoll_event *ret_events, int n)
{
    int timeout_ms = -1;

    if (until_ns != INT64_MAX) {
        int64_t left_ns = until_ns - waiter_now_ns();
        int64_t left_ms = left_ns > 0 ? (left_ns + 999999) / 1000000 : 0;
        timeout_ms = left_ms < INT32_MAX ? (int)left_ms : INT32_MAX;
    }
    int r = epoll_wait(waiter->epoll_fd, ret_events, n, timeout_ms);
    return r < 0 ? -errno : r;
}

void waiter_wake(struct waiter *waiter)
{
    int before = errno;

    atomic_store_release(&waiter->woken, 1); /* WOKEN */
    (void)!eventfd_write(waiter->event_fd, 1);
    errno = before; /* a signal handler leaves no trace */
}

bool waiter_take_wake(struct waiter *waiter)
{
    return atomic_load_relaxed(&waiter->woken) && /* a hint */
           atomic_xchg_seq(&waiter->woken, 0);    /* WOKEN */
}
