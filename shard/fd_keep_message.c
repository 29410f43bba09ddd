/* SPDX-License-Identifier: MIT */
/*
 * A message and its fds on a channel: what both ends do. A message of another size, or with more
 * fds than there is room for, is taken off all the same, so that it is not met again.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shard/fd_keep.h"
#include "shard/fd_pass.h"

_Static_assert(FD_KEEP_FDS_MAX == FD_PASS_MAX, "all fds of a key go with one message");

int fd_keep_send(int channel, const struct fd_keep_message *message, int fd)
{
    return fd_pass_send(channel, message, sizeof(*message), &fd, fd >= 0);
}

/* Returns error. */
static int refuse(int fds[FD_KEEP_FDS_MAX], int error)
{
    fd_pass_close(fds);
    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++)
        fds[i] = -1;
    return error;
}

int fd_keep_receive(int channel, struct fd_keep_message *ret_message, int ret_fds[FD_KEEP_FDS_MAX])
{
    union fd_pass_space space;
    struct fd_keep_message message;
    struct iovec iov = {.iov_base = &message, .iov_len = sizeof(message)};
    struct msghdr msg = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = sizeof(space.bytes)};
    ssize_t n;

    do
        n = recvmsg(channel, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    uint32_t n_fds = fd_pass_take(&msg, ret_fds);
    if (n != (ssize_t)sizeof(message) || msg.msg_flags & MSG_TRUNC)
        return refuse(ret_fds, -EPROTO);
    *ret_message = message;
    if (msg.msg_flags & MSG_CTRUNC || n_fds < message.n_fds)
        return refuse(ret_fds, -EMFILE);
    if (n_fds > message.n_fds)
        return refuse(ret_fds, -EPROTO);
    return 1;
}
