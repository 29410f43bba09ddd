/* SPDX-License-Identifier: MIT */
#include "runtime/clock_fd.h"
/*
 * A timerfd, set to an absolute time: the kernel follows the clock, in whichever direction it is
 * set. The fd is set before the clock is read: what jumps in between is seen by the one or by the
 * other. It stays watched once it was set: a change of what is watched would cost the loop a turn,
 * twice for each timer that fires.
 */
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "runtime/aio.h"

#define NS_PER_S 1000000000

static clockid_t clock_id(enum AioClock clock)
{
    return clock == AIO_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_BOOTTIME;
}

void clock_fd_on_ready(void *opaque)
{
    struct clock_fd *clock_fd = opaque;
    uint64_t n_expired;

    while (read(clock_fd->fd, &n_expired, sizeof n_expired) < 0 && errno == EINTR)
        continue;
    clock_fd->set_ns = INT64_MAX;
}

static bool open_fd(struct clock_fd *clock_fd, enum AioClock clock)
{
    if (!clock_fd->is_open) {
        clock_fd->fd = timerfd_create(clock_id(clock), TFD_NONBLOCK | TFD_CLOEXEC);
        clock_fd->is_open = clock_fd->fd >= 0;
        clock_fd->set_ns = INT64_MAX;
    }
    return clock_fd->is_open;
}

static bool watch(AioContext *ctx, struct clock_fd *clock_fd)
{
    if (!clock_fd->is_watched)
        clock_fd->is_watched = aio_set_fd_handler(ctx, clock_fd->fd, clock_fd_on_ready, NULL, NULL,
                                   NULL, clock_fd) == 0;
    return clock_fd->is_watched;
}

static bool set(struct clock_fd *clock_fd, int64_t first_ns)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = first_ns / NS_PER_S, .tv_nsec = first_ns % NS_PER_S}};

    if (clock_fd->set_ns == first_ns)
        return true;
    if (first_ns <= 0)
        spec.it_value.tv_nsec = 1; /* 0 would disarm it */
    if (timerfd_settime(clock_fd->fd, TFD_TIMER_ABSTIME, &spec, NULL) < 0)
        return false;
    clock_fd->set_ns = first_ns;
    return true;
}

static void unset(struct clock_fd *clock_fd)
{
    static const struct itimerspec never;

    if (clock_fd->is_open && clock_fd->set_ns != INT64_MAX)
        timerfd_settime(clock_fd->fd, 0, &never, NULL);
    clock_fd->set_ns = INT64_MAX;
}

bool clock_fd_set(AioContext *ctx, struct clock_fd *clock_fd, enum AioClock clock, int64_t first_ns)
{
    if (first_ns == INT64_MAX) {
        unset(clock_fd);
        return true;
    }
    return open_fd(clock_fd, clock) && watch(ctx, clock_fd) && set(clock_fd, first_ns);
}

void clock_fd_drop(struct clock_fd *clock_fd)
{
    if (clock_fd->is_open)
        close(clock_fd->fd);
}
