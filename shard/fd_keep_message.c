/* SPDX-License-Identifier: MIT */
/*
 * A message and its fds on a channel: what both ends do. A message of another size, or with more
 * fds than there is room for, is taken off all the same, so that it is not met again.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shard/fd_keep_inside.h"

union fd_space {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(FD_KEEP_FDS_MAX * sizeof(int))];
};

int fd_keep_send_fds(
    int channel, const struct fd_keep_message *message, const int *fds, uint32_t n_fds)
{
    union fd_space space = {.bytes = {0}};
    struct iovec iov = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds > FD_KEEP_FDS_MAX)
        return -EINVAL;
    if (n_fds) {
        msg.msg_control = space.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
    }
    for (;;) {
        if (sendmsg(channel, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

int fd_keep_send(int channel, const struct fd_keep_message *message, int fd)
{
    return fd_keep_send_fds(channel, message, &fd, fd < 0 ? 0 : 1);
}

static uint32_t take_fds(struct msghdr *msg, int fds[FD_KEEP_FDS_MAX])
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++)
        fds[i] = -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = h->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes && n < FD_KEEP_FDS_MAX; at += sizeof(int))
            memcpy(&fds[n++], CMSG_DATA(h) + at, sizeof(int));
    }
    return n;
}

static void close_fds(int fds[FD_KEEP_FDS_MAX])
{
    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

int fd_keep_receive(int channel, struct fd_keep_message *ret_message, int ret_fds[FD_KEEP_FDS_MAX])
{
    union fd_space space;
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
    uint32_t n_fds = take_fds(&msg, ret_fds);
    if (n != (ssize_t)sizeof(message) || msg.msg_flags & MSG_TRUNC) {
        close_fds(ret_fds);
        return -EPROTO;
    }
    *ret_message = message;
    if (msg.msg_flags & MSG_CTRUNC || n_fds < message.n_fds) {
        close_fds(ret_fds);
        return -EMFILE;
    }
    if (n_fds > message.n_fds) {
        close_fds(ret_fds);
        return -EPROTO;
    }
    return 1;
}
