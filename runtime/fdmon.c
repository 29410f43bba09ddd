/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"
/*
 * What monitors share, and which one a context has.
 *
 * A context may change its monitor (ppoll gives way to epoll), in the owner loop and under
 * handler_lock: a thread that changes what is watched meets the one or the other, whole. No frame
 * of an outer turn holds anything of a monitor, since no user code runs inside a wait, so a nested
 * turn may change it too.
 *
 * Orderings        first      then             ordered by           if broken
 *   WHICH  (nothing)          ctx->monitor     none: a glance; ops  aio_context_monitor() tells
 *                                              are constants        what was
 *   COUNT  (nothing)          n_watched        none: a glance; who  a turn does not look at an fd
 *                                              changes it nudges,   that was added meanwhile
 *                                              and every wait that
 *                                              blocks looks at all
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

int fdmon_setup(AioContext *ctx, enum aio_monitor monitor)
{
    switch (monitor) {
    case AIO_MONITOR_AUTO:
        return fdmon_ppoll_setup(ctx, true);
    case AIO_MONITOR_PPOLL:
        return fdmon_ppoll_setup(ctx, false);
    case AIO_MONITOR_EPOLL:
        return fdmon_epoll_setup(ctx);
    case AIO_MONITOR_IO_URING:
        return fdmon_uring_setup(ctx);
    }
    return -EINVAL;
}

enum aio_monitor aio_context_monitor(const AioContext *ctx)
{
    return atomic_load_relaxed(&ctx->monitor)->monitor; /* WHICH */
}

const char *aio_monitor_name(enum aio_monitor monitor)
{
    static const char *const names[] = {
        [AIO_MONITOR_AUTO] = "auto",
        [AIO_MONITOR_PPOLL] = "ppoll",
        [AIO_MONITOR_EPOLL] = "epoll",
        [AIO_MONITOR_IO_URING] = "io_uring",
    };

    return names[monitor];
}

bool fdmon_watches_fds(const AioContext *ctx)
{
    /* Those that io_poll tells of in each turn need no system call. */
    return atomic_load_relaxed(&ctx->n_watched) > ctx->poll.n_silent; /* COUNT */
}

/* What poll(2) says of a file that has no poll operation; of others, rarely. */
#define EVERYTHING (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

/* Whether the file may have no poll operation, and be called ready always, or not be open for use
 * at all (O_PATH). */
static bool seems_ready_always(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = EVERYTHING};

    return poll(&pollfd, 1, 0) == 1 &&
           (pollfd.revents == POLLNVAL || (pollfd.revents & EVERYTHING) == EVERYTHING);
}

/* What epoll says of it; it looks at whether the file has a poll operation. */
static int ask_epoll(int fd)
{
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    if (epoll_fd < 0)
        return -errno;
    int r =
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = 0}) < 0 ? -errno : 0;

    close(epoll_fd);
    return r;
}

int fdmon_check_fd(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    /* These are made to be waited for; of the others some are, as an eventfd, a terminal and
     * /proc/mounts. */
    if (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode))
        return 0;
    return seems_ready_always(fd) ? ask_epoll(fd) : 0;
}
