/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_pass - fds that travel with a message over a Unix socket
 *
 * Why:         the kernel's way of saying it is long, and each end of it easily wrong by an fd.
 * Use:         fd_pass_send(socket, &message, sizeof(message), fds, n);
 *              the other end: n = fd_pass_take(&msg, fds), after recvmsg() with a union
 *              fd_pass_space
 * Concurrency: any thread; nothing waits
 * Lifetime:    what was sent stays the sender's too; what was taken is the taker's to close
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define FD_PASS_MAX 4u /* with one message */

union fd_pass_space {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
};

/* 0; -EINVAL: more than FD_PASS_MAX; -EAGAIN: there is no room now; -errno. */
int fd_pass_send(int socket, const void *message, size_t len, const int *fds, uint32_t n_fds);

/* Those that came with a message that recvmsg() received; the others of ret_fds are -1. Returns how
 * many. */
uint32_t fd_pass_take(struct msghdr *msg, int ret_fds[FD_PASS_MAX]);

/* Closes those that are not -1. */
void fd_pass_close(const int fds[FD_PASS_MAX]);
