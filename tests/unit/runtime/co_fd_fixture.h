/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_fd_fixture - a CoFd whose other end is the test's
 *
 * Use:  struct pair pair;
 *       pair_open(&pair);      pair.f is a CoFd, pair.peer the fd at its other end
 *       fill(pair.f.fd);       until it takes no more; drain(pair.peer) until nothing is left
 *       pair_close(&pair);
 */
#include <sys/socket.h>

#include "tests/unit/runtime/co_task.h"

/* One end is a CoFd, the other the test's. */
struct pair {
    CoFd f;
    int peer;
};

static inline ssize_t coroutine_fn do_write_all(struct co_task *task)
{
    return co_write_all(task->f, task->buf, task->len);
}

static inline void pair_open(struct pair *pair)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(co_fd_init(&pair->f, fds[0]), 0);
    pair->peer = fds[1];
}

static inline void pair_close(struct pair *pair)
{
    co_fd_close(&pair->f);
    if (pair->peer >= 0)
        close(pair->peer);
}

static inline void send_byte(int fd)
{
    assert_int_equal(write(fd, "x", 1), 1);
}

static inline void fill(int fd)
{
    static const char zeros[4096];

    while (write(fd, zeros, sizeof zeros) > 0)
        continue;
}

static inline void drain(int fd)
{
    char buf[4096];

    while (read(fd, buf, sizeof buf) > 0)
        continue;
}
