/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_SOCKET_H
#define SHERD_CO_SOCKET_H
/*
 * co_socket - sockets for coroutines
 *
 * Why:         a coroutine a connection reads like a thread a connection, and costs a stack's
 *              pages.
 * Use:         int fd = co_accept(&listener, NULL, NULL);
 *              CoFd peer;
 *              int r = co_fd_init(&peer, fd);
 *              while ((n = co_recv(&peer, buf, sizeof buf, 0)) > 0)
 *                  if ((r = co_send_all(&peer, buf, n)) < 0) break;
 *              co_fd_close(&peer);
 * Concurrency: as a CoFd. One coroutine may receive while another sends; two that send long
 *              messages at once mix them, but for a CoMutex.
 * Lifetime:    buffers and addresses stay valid until the call returns
 * Not here:    making, binding, options, shutdown(): the system calls, none of which blocks
 *
 * Each tries its system call and waits only where that would block, so it ends in scopes and
 * returns errors as a CoFd does (sherd/co_fd.h); a timeout is a scope around it. Beside those it
 * returns what the system call says, as -errno, never -EINTR, and -EAGAIN only with MSG_DONTWAIT
 * among flags, which then does not wait. SIGPIPE is never raised: to send where nobody receives is
 * -EPIPE.
 */
#include <sys/socket.h>
#include <sys/uio.h>

#include "runtime/co_fd.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The next connection, non-blocking and close-on-exec, for co_fd_init(); its address as accept()
 * gives it where addr is not NULL. Errors of two kinds need the caller's thought:
 * -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: the connection stays where it is, so to accept again at once
 *   would spin: close something, or sleep a little, first;
 * -ECONNABORTED, -EPROTO, -ENETDOWN and the like (see accept(2)): that one is lost, not the next.
 */
int coroutine_fn co_accept(CoFd *listener, struct sockaddr *addr, socklen_t *addr_len);

/*
 * Connects: 0, or why not (-ECONNREFUSED, -ETIMEDOUT, -ENOENT …; -ETIMEDOUT is the peer's silence
 * as well as a scope's deadline). Where a Unix socket's queue is full, which nothing reports the
 * end of, it tries again from time to time until a scope ends. After an error the socket can only
 * be closed.
 */
int coroutine_fn co_connect(CoFd *f, const struct sockaddr *addr, socklen_t addr_len);

/* As recv(), send(), recvmsg(), sendmsg(): some bytes, or a message; 0 at the end of a stream.
 * MSG_WAITALL does nothing: that is co_recv_all(). */
ssize_t coroutine_fn co_recv(CoFd *f, void *buf, size_t len, int flags);
ssize_t coroutine_fn co_send(CoFd *f, const void *buf, size_t len, int flags);
ssize_t coroutine_fn co_recvmsg(CoFd *f, struct msghdr *msg, int flags);
ssize_t coroutine_fn co_sendmsg(CoFd *f, const struct msghdr *msg, int flags);

/* All of it, on a stream: receiving is short only at its end, sending returns the whole count.
 * After an error some may have come or gone. iov is left as it is; -EINVAL: more than SSIZE_MAX
 * bytes. */
ssize_t coroutine_fn co_recv_all(CoFd *f, void *buf, size_t len);
ssize_t coroutine_fn co_send_all(CoFd *f, const void *buf, size_t len);
ssize_t coroutine_fn co_recvv_all(CoFd *f, const struct iovec *iov, int n_iov);
ssize_t coroutine_fn co_sendv_all(CoFd *f, const struct iovec *iov, int n_iov);

#ifdef __cplusplus
}
#endif
#endif
