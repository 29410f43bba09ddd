/* SPDX-License-Identifier: MIT */
#include "runtime/co_socket.h"
/*
 * Each function is a system call that does not block, for co_fd_call() to repeat. Readiness is used
 * on every monitor, on io_uring too: a receive as an entry of the ring, measured in its place, took
 * 8.2 us for an echo where readiness and the call take 6.1 (tests/bench/bench_socket, one Unix
 * connection, least of the rounds). What is there is had at once, without a turn of the loop.
 *
 * MSG_DONTWAIT and MSG_NOSIGNAL stand on every call. Where the caller gave MSG_DONTWAIT, -EAGAIN is
 * the answer, and the call is made once.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>

/* What does not use up the bytes that are there, or counts others. */
#define NO_COUNT (MSG_PEEK | MSG_OOB | MSG_TRUNC | MSG_ERRQUEUE)

/* ---- connections ---- */

struct address {
    struct sockaddr *addr;
    socklen_t *len;
};

static ssize_t call_accept(int fd, void *opaque)
{
    const struct address *to = opaque;
    int r = accept4(fd, to->addr, to->len, SOCK_NONBLOCK | SOCK_CLOEXEC);

    return r < 0 ? -errno : r;
}

int coroutine_fn co_accept(CoFd *listener, struct sockaddr *addr, socklen_t *addr_len)
{
    struct address to = {.addr = addr, .len = addr_len};

    return (int)co_fd_call(listener, POLLIN, call_accept, &to);
}

/* What became of a connection under way: -EAGAIN where nothing did yet. */
static ssize_t call_outcome(int fd, void *opaque)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;
    int n = poll(&ready, 1, 0);

    if (n <= 0)
        return n < 0 ? -errno : -EAGAIN;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? -errno : -error;
}

/* Tries until the queue of a Unix socket has room. */
static int coroutine_fn connect_now(CoFd *f, const struct sockaddr *addr, socklen_t addr_len)
{
    for (uint32_t n_pauses = 0; connect(f->fd, addr, addr_len) < 0; n_pauses++) {
        if (errno != EAGAIN)
            return -errno;
        int r = co_fd_back_off(f, n_pauses);
        if (r < 0)
            return r;
    }
    return 0;
}

int coroutine_fn co_connect(CoFd *f, const struct sockaddr *addr, socklen_t addr_len)
{
    int r = connect_now(f, addr, addr_len);

    /* An interrupted connect goes on by itself. */
    if (r == -EINPROGRESS || r == -EINTR)
        r = (int)co_fd_call(f, POLLOUT, call_outcome, NULL);
    return r;
}

/* ---- messages ---- */

struct transfer {
    void *buf; /* or a struct msghdr */
    size_t len;
    int flags;
};

static ssize_t call_recv(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = recv(fd, t->buf, t->len, t->flags | MSG_DONTWAIT);

    return n < 0 ? -errno : n;
}

static ssize_t call_send(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = send(fd, t->buf, t->len, t->flags | MSG_DONTWAIT | MSG_NOSIGNAL);

    return n < 0 ? -errno : n;
}

static ssize_t call_recvmsg(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = recvmsg(fd, t->buf, t->flags | MSG_DONTWAIT);

    return n < 0 ? -errno : n;
}

static ssize_t call_sendmsg(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = sendmsg(fd, t->buf, t->flags | MSG_DONTWAIT | MSG_NOSIGNAL);

    return n < 0 ? -errno : n;
}

static ssize_t call_once(int fd, CoFdCall *call, void *opaque)
{
    ssize_t n;

    do
        n = call(fd, opaque);
    while (n == -EINTR);
    return n;
}

static ssize_t coroutine_fn transfer(CoFd *f, uint32_t event, CoFdCall *call, struct transfer *t)
{
    if (t->flags & MSG_DONTWAIT)
        return call_once(f->fd, call, t);
    ssize_t n = co_fd_call(f, event, call, t);
    if (!(t->flags & NO_COUNT))
        co_fd_note(f, event, n, t->len);
    return n;
}

ssize_t coroutine_fn co_recv(CoFd *f, void *buf, size_t len, int flags)
{
    struct transfer t = {.buf = buf, .len = len, .flags = flags};

    return transfer(f, POLLIN, call_recv, &t);
}

ssize_t coroutine_fn co_send(CoFd *f, const void *buf, size_t len, int flags)
{
    struct transfer t = {.buf = (void *)buf, .len = len, .flags = flags};

    return transfer(f, POLLOUT, call_send, &t);
}

/* len 0: how much a message was to hold is not looked at, so that it is never short. */
ssize_t coroutine_fn co_recvmsg(CoFd *f, struct msghdr *msg, int flags)
{
    struct transfer t = {.buf = msg, .flags = flags};

    return transfer(f, POLLIN, call_recvmsg, &t);
}

ssize_t coroutine_fn co_sendmsg(CoFd *f, const struct msghdr *msg, int flags)
{
    struct transfer t = {.buf = (void *)msg, .flags = flags};

    return transfer(f, POLLOUT, call_sendmsg, &t);
}

/* ---- all of it ---- */

/* A place in an iovec. */
struct cursor {
    const struct iovec *iov;
    int n_iov;
    size_t skip; /* bytes of the first that are done */
};

static int total_bytes(const struct iovec *iov, int n_iov, size_t *ret_bytes)
{
    size_t bytes = 0;

    for (int i = 0; i < n_iov; i++)
        if (__builtin_add_overflow(bytes, iov[i].iov_len, &bytes) || bytes > SSIZE_MAX)
            return -EINVAL;
    *ret_bytes = bytes;
    return 0;
}

static void advance(struct cursor *at, size_t bytes)
{
    bytes += at->skip;
    while (at->n_iov > 0 && bytes >= at->iov->iov_len) {
        bytes -= at->iov->iov_len;
        at->iov++;
        at->n_iov--;
    }
    at->skip = bytes;
}

/* The next piece: what is left of an element that is partly done, else as many as the kernel
 * takes. */
static ssize_t coroutine_fn transfer_some(CoFd *f, uint32_t event, const struct cursor *at)
{
    bool is_recv = event == POLLIN;

    if (at->skip > 0 || at->n_iov == 1) {
        char *buf = (char *)at->iov->iov_base + at->skip;
        size_t len = at->iov->iov_len - at->skip;

        return is_recv ? co_recv(f, buf, len, 0) : co_send(f, buf, len, 0);
    }
    struct msghdr msg = {.msg_iov = (struct iovec *)at->iov,
        .msg_iovlen = (size_t)(at->n_iov < IOV_MAX ? at->n_iov : IOV_MAX)};
    return is_recv ? co_recvmsg(f, &msg, 0) : co_sendmsg(f, &msg, 0);
}

static ssize_t coroutine_fn transfer_all(
    CoFd *f, uint32_t event, const struct iovec *iov, int n_iov)
{
    struct cursor at = {.iov = iov, .n_iov = n_iov};
    size_t bytes;
    size_t done = 0;
    int r = total_bytes(iov, n_iov, &bytes);

    if (r < 0)
        return r;
    advance(&at, 0);
    while (done < bytes) {
        ssize_t n = transfer_some(f, event, &at);

        if (n < 0)
            return n;
        if (n == 0)
            break;
        advance(&at, (size_t)n);
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t coroutine_fn co_recvv_all(CoFd *f, const struct iovec *iov, int n_iov)
{
    return transfer_all(f, POLLIN, iov, n_iov);
}

ssize_t coroutine_fn co_sendv_all(CoFd *f, const struct iovec *iov, int n_iov)
{
    return transfer_all(f, POLLOUT, iov, n_iov);
}

ssize_t coroutine_fn co_recv_all(CoFd *f, void *buf, size_t len)
{
    return co_recvv_all(f, &(struct iovec){.iov_base = buf, .iov_len = len}, 1);
}

ssize_t coroutine_fn co_send_all(CoFd *f, const void *buf, size_t len)
{
    return co_sendv_all(f, &(struct iovec){.iov_base = (void *)buf, .iov_len = len}, 1);
}
