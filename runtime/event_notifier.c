/* SPDX-License-Identifier: MIT */
#include "runtime/event_notifier.h"
/*
 * The counter of an eventfd only says whether it is 0. It is full after 2^64 - 2 sets without a
 * clear; a write then fails with EAGAIN, and the fd is as readable as it should be.
 */
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int event_notifier_init(EventNotifier *e, bool active)
{
    e->fd = eventfd(active, EFD_NONBLOCK | EFD_CLOEXEC);
    return e->fd < 0 ? -errno : 0;
}

void event_notifier_cleanup(EventNotifier *e)
{
    if (e->fd >= 0)
        close(e->fd);
    e->fd = -1;
}

int event_notifier_set(EventNotifier *e)
{
    const uint64_t one = 1;
    int saved_errno = errno;
    ssize_t n;

    if (e->fd < 0)
        return -EBADF;
    do
        n = write(e->fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
    int r = n < 0 && errno != EAGAIN ? -errno : 0;

    errno = saved_errno;
    return r;
}

bool event_notifier_test_and_clear(EventNotifier *e)
{
    uint64_t count;
    int saved_errno = errno;
    ssize_t n;

    if (e->fd < 0)
        return false;
    do
        n = read(e->fd, &count, sizeof count);
    while (n < 0 && errno == EINTR);
    errno = saved_errno;
    return n == sizeof count;
}

int event_notifier_get_fd(const EventNotifier *e)
{
    return e->fd;
}

int aio_set_event_notifier(AioContext *ctx, EventNotifier *e, EventNotifierHandler *io_read,
    AioPollFn *io_poll, EventNotifierHandler *io_poll_ready)
{
    return aio_set_fd_handler(ctx, e->fd, io_read, NULL, io_poll, io_poll_ready, e);
}

int aio_set_event_notifier_poll(AioContext *ctx, EventNotifier *e,
    EventNotifierHandler *io_poll_begin, EventNotifierHandler *io_poll_end)
{
    return aio_set_fd_poll(ctx, e->fd, io_poll_begin, io_poll_end);
}
