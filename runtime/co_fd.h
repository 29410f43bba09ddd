/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_FD_H
#define SHERD_CO_FD_H
/*
 * co_fd - coroutines that wait for an fd: pipes, terminals, eventfds, sockets
 *
 * Why:         straight-line code for what comes in pieces, while its thread serves others.
 * Use:         CoFd pipe;
 *              int r = co_fd_init(&pipe, fd);
 *              while ((n = co_read(&pipe, buf, sizeof buf)) > 0) …
 *              co_fd_close(&pipe);
 *              or, for one wait with nothing to set up: r = co_wait_fd(fd, POLLIN);
 * Concurrency: a CoFd is used in one context at a time, where it is first waited for. Any number of
 *              its coroutines may wait for it at once, some to read and some to write; each event
 *              wakes the one that has waited longest. Between contexts: co_fd_detach().
 * Lifetime:    from co_fd_init() to co_fd_deinit() or co_fd_close(), before its context ends.
 *              Whoever waits then gets -EBADF.
 * Not here:    sockets (sherd/co_socket.h), files (sherd/disk.h)
 *
 * Scopes (sherd/co_cancel.h) end every wait here, with -ECANCELED or -ETIMEDOUT: a timeout is a
 * scope around the call. What need not wait does not look at them, but about every 64th success
 * goes round through the loop, so that an fd that never runs dry neither starves others nor
 * outlives its scope for long.
 *
 * Every function but co_fd_init() may also return what keeps an fd from being watched: -ENOMEM,
 * -EPERM (it cannot be waited for), -EBUSY (a handler of aio_set_fd_handler(), or another CoFd, has
 * it in this context), -EBADF. Close an fd through its CoFd: of a close() behind its back nobody is
 * told, and a coroutine that waits would wait on.
 */
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct co_fd_waiter;

struct co_fd_queue {
    struct co_fd_waiter *first;
    struct co_fd_waiter **last;
};

/* Embed it; the fields are its own, but fd may be read: -1 once it is over. */
typedef struct CoFd {
    int fd;
    uint32_t watched;  /* POLLIN and POLLOUT, as registered with ctx */
    uint32_t used_up;  /* likewise: the next call would find nothing */
    uint32_t in_a_row; /* successes since this fd last let others run */
    uint32_t n_users;  /* co_wait_fd()'s: those who share it; else 0 */
    bool is_stream;    /* a short read says that there is no more now */
    AioContext *ctx;   /* of those who wait; NULL: nobody has yet */
    struct co_fd_queue readers;
    struct co_fd_queue writers;
    struct co_fd_queue resting; /* those who wait for no event */
} CoFd;

/*
 * Makes fd non-blocking (for all who share it) and does not watch it yet. 0; or, with fd left to
 * the caller: -EPERM: it is always ready and can't be waited for: a file, a folder (sherd/disk.h
 * reads those), /dev/null; -EBADF, -EMFILE, -ENFILE, -ENOMEM. Context: any thread.
 */
int co_fd_init(CoFd *f, int fd);

/* fd is watched no more, and whoever waits for it gets -EBADF. The fd itself is left as it is. A
 * second call does nothing. Context: owner loop | coroutine. */
void co_fd_deinit(CoFd *f);

/* co_fd_deinit(), then close(fd). Context: as above. */
void co_fd_close(CoFd *f);

/* Takes f off its context, so that the next wait may be in another. Aborts where somebody waits.
 * Context: owner loop | coroutine. */
void co_fd_detach(CoFd *f);

/* Waits until f is ready for event: POLLIN or POLLOUT; hang-up and errors count as both. As with
 * poll(), that may be over by the time of the call that follows. 0; -ECANCELED, -ETIMEDOUT,
 * -EBADF. */
int coroutine_fn co_fd_wait(CoFd *f, uint32_t event);

/* Sleeps for ns nanoseconds, but no longer than f is open: 0; -ECANCELED, -ETIMEDOUT, -EBADF,
 * -ENOMEM. For what is to be tried again, and has no event. */
int coroutine_fn co_fd_pause(CoFd *f, int64_t ns);

/* The same, for 1 ms, twice as long for each pause before, 50 ms at most. */
int coroutine_fn co_fd_back_off(CoFd *f, uint32_t n_before);

/* co_fd_wait() in the running coroutine's context for an fd without CoFd, which costs a
 * registration each time. Several coroutines may wait for one fd so; not beside a CoFd or handler:
 * -EBUSY. */
int coroutine_fn co_wait_fd(int fd, uint32_t event);

/* Does something with fd without blocking: a count or 0, or -errno. */
typedef ssize_t CoFdCall(int fd, void *opaque);

/*
 * Calls until that gives anything but -EAGAIN and -EINTR, waiting for event after each -EAGAIN, and
 * returns it. Where f is ready and the call says -EAGAIN all the same, it is made again after
 * pauses as co_fd_back_off()'s: nothing reports when it would succeed. For system calls and
 * libraries that have no function here: splice, sendfile, TLS.
 */
ssize_t coroutine_fn co_fd_call(CoFd *f, uint32_t event, CoFdCall *call, void *opaque);

/* What came of such a call that wanted so many bytes: a stream that took or gave fewer is waited
 * for before the next try, which spares a call that would find nothing. Context: owner loop |
 * coroutine. */
void co_fd_note(CoFd *f, uint32_t event, ssize_t got, size_t wanted);

/*
 * As read() and write(): some bytes, 0 at the end of what is read, or -errno. A write to a pipe
 * that nobody reads raises SIGPIPE, which the program ignores, and is -EPIPE.
 */
ssize_t coroutine_fn co_read(CoFd *f, void *buf, size_t len);
ssize_t coroutine_fn co_write(CoFd *f, const void *buf, size_t len);

/* All of it: co_read_all() is short only at the end, co_write_all() returns len. After an error
 * some may have been read or written. Two coroutines that write so at once mix their bytes. */
ssize_t coroutine_fn co_read_all(CoFd *f, void *buf, size_t len);
ssize_t coroutine_fn co_write_all(CoFd *f, const void *buf, size_t len);

#ifdef __cplusplus
}
#endif
#endif
