/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * disk_kernel - the system calls that the disk engines make, as a table that a test can replace
 *
 * Why:         EAGAIN, EINTR, short counts, partial submissions and completions out of order are
 *              the kernel's to give and rare; the code for them must be run all the same.
 * Use:         ctx->disk.kernel->preadv(…); a test copies disk_kernel_real, replaces what it wants
 *              and stores its own table in the context before the first request.
 * Concurrency: preadv, pwritev, openat2: worker threads and the owner loop; the rest: owner loop.
 *              The table is constant while requests are in flight.
 * Lifetime:    disk_kernel_real is for ever, a test's table outlives the context.
 * Not here:    what is made of the answers (disk.c, engine_*.c, uring.c)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "runtime/aio.h"

struct disk_request;
struct io_context;
struct iocb;
struct open_how;

struct disk_kernel {
    /* As preadv2(2) and pwritev2(2), but -errno. */
    ssize_t (*preadv)(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags);
    ssize_t (*pwritev)(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags);
    int (*openat2)(int dirfd, const char *path, const struct open_how *how);

    /* As io_submit(2): how many were taken, or -errno of the first. */
    int (*io_submit)(struct io_context *aio, long n, struct iocb **iocbs);

    /* As io_uring_enter2(): how many were submitted, or -errno. */
    int (*uring_enter)(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
        void *arg, size_t arg_bytes);

    /* What linux-aio and io_uring say of a request, on its way to disk_complete(). NULL: as it
     * is. */
    ssize_t (*result)(const struct disk_request *request, ssize_t result);

    /* True: the end of request is held back; whoever holds it calls disk_complete_held(), once.
     * NULL: none is. */
    bool (*hold)(AioContext *ctx, struct disk_request *request, ssize_t result);
};

static inline ssize_t disk_kernel_result(
    const struct disk_kernel *kernel, const struct disk_request *request, ssize_t result)
{
    return kernel->result ? kernel->result(request, result) : result;
}

extern const struct disk_kernel disk_kernel_real;
