/* SPDX-License-Identifier: MIT */
#include "shard/fd_pass.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void attach_fds(
    struct msghdr *msg, union fd_pass_space *space, const int *fds, uint32_t n_fds)
{
    msg->msg_control = space->bytes;
    msg->msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(msg);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
}

int fd_pass_send(int socket, const void *message, size_t len, const int *fds, uint32_t n_fds)
{
    union fd_pass_space space = {.bytes = {0}};
    struct iovec iov = {.iov_base = (void *)message, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds > FD_PASS_MAX)
        return -EINVAL;
    if (n_fds)
        attach_fds(&msg, &space, fds, n_fds);
    while (sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

uint32_t fd_pass_take(struct msghdr *msg, int ret_fds[FD_PASS_MAX])
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < FD_PASS_MAX; i++)
        ret_fds[i] = -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = h->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes && n < FD_PASS_MAX; at += sizeof(int))
            memcpy(&ret_fds[n++], CMSG_DATA(h) + at, sizeof(int));
    }
    return n;
}

void fd_pass_close(const int fds[FD_PASS_MAX])
{
    for (uint32_t i = 0; i < FD_PASS_MAX; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}
