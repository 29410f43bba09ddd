/* SPDX-License-Identifier: MIT */
#include "runtime/disk_kernel.h"

#include <errno.h>
#include <libaio.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

static ssize_t real_preadv(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    ssize_t n = preadv2(fd, iov, n_iov, (off_t)offset, flags);

    return n < 0 ? -errno : n;
}

static ssize_t real_pwritev(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    ssize_t n = pwritev2(fd, iov, n_iov, (off_t)offset, flags);

    return n < 0 ? -errno : n;
}

/* Debian 12's glibc has no wrapper. */
static int real_openat2(int dirfd, const char *path, const struct open_how *how)
{
    long fd = syscall(SYS_openat2, dirfd, path, how, sizeof(*how));

    return fd < 0 ? -errno : (int)fd;
}

static int real_uring_enter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    long r = syscall(SYS_io_uring_enter, ring_fd, to_submit, min_complete, flags, arg, arg_bytes);

    return r < 0 ? -errno : (int)r;
}

const struct disk_kernel disk_kernel_real = {
    .preadv = real_preadv,
    .pwritev = real_pwritev,
    .openat2 = real_openat2,
    .io_submit = io_submit,
    .uring_enter = real_uring_enter,
};
