/* SPDX-License-Identifier: MIT */
#include "runtime/disk.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#include "runtime/engine.h"

/*
 * The calls, each a request or several: what the kernel did in part goes on where it stopped, until
 * it says that there is no more. A read or write of one buffer, which mostly is whole at once, takes
 * a short way to its request.
 */

/* What the kernel moves in one call at most (MAX_RW_COUNT); io_uring's length has 32 bits. */
#define MOST_AT_ONE_TIME ((size_t)0x7ffff000)

/* ---- reads and writes, which the kernel may do in part ---- */

/* What is left of a vector: whole elements from iov on, less the first skip bytes of the first. */
struct rest {
    const struct iovec *iov;
    int n_iov;
    size_t skip;
};

static void rest_advance(struct rest *rest, size_t n)
{
    rest->skip += n;
    while (rest->n_iov > 0 && rest->skip >= rest->iov->iov_len) {
        rest->skip -= rest->iov->iov_len;
        rest->iov++;
        rest->n_iov--;
    }
}

/* A request for as much of the rest as one may cover. The caller's vector is not to be written to,
 * so an element that was done in part goes alone, by its address. */
static void request_for_rest(struct disk_request *request, const struct rest *rest, bool write)
{
    if (rest->n_iov > 1 && rest->skip == 0 && rest->iov->iov_len < MOST_AT_ONE_TIME) {
        request->op = write ? DISK_WRITEV : DISK_READV;
        request->iov = rest->iov;
        request->n_iov = rest->n_iov < IOV_MAX ? rest->n_iov : IOV_MAX;
        return;
    }
    size_t len = rest->n_iov > 0 ? rest->iov->iov_len - rest->skip : 0;
    request->op = write ? DISK_WRITE : DISK_READ;
    request->buf = rest->n_iov > 0 ? (char *)rest->iov->iov_base + rest->skip : NULL;
    request->len = len < MOST_AT_ONE_TIME ? len : MOST_AT_ONE_TIME;
}

/* -EINVAL where the kernel would say so of the whole, though not of each part. */
static ssize_t total_bytes(const struct iovec *iov, int n_iov, uint64_t offset)
{
    size_t total = 0;

    /* io_uring takes offset -1 for the file's own position. */
    if (n_iov < 0 || offset > INT64_MAX)
        return -EINVAL;
    for (int i = 0; i < n_iov; i++) {
        if (iov[i].iov_len > (size_t)SSIZE_MAX - total)
            return -EINVAL;
        total += iov[i].iov_len;
    }
    return (ssize_t)total;
}

/* The rest of a transfer of total bytes, of which some were moved. At least one request is made, so
 * that an fd that is none is noticed with nothing to move too. */
static ssize_t coroutine_fn transfer_rest(
    int fd, struct rest *rest, uint64_t offset, ssize_t moved, ssize_t total, bool write)
{
    do {
        struct disk_request request;

        request.fd = fd;
        request.offset = offset + (uint64_t)moved;
        request_for_rest(&request, rest, write);
        ssize_t n = disk_run(&request);
        if (n < 0)
            return n;
        if (n == 0)
            break;
        moved += n;
        rest_advance(rest, (size_t)n);
    } while (moved < total);

    /* A file takes nothing more, and the kernel has no error for it. */
    return write && moved < total ? -ENOSPC : moved;
}

static ssize_t coroutine_fn transfer(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, bool write)
{
    struct rest rest = {.iov = iov, .n_iov = n_iov};
    ssize_t total = total_bytes(iov, n_iov, offset);

    if (total < 0)
        return total;
    rest_advance(&rest, 0);
    return transfer_rest(fd, &rest, offset, 0, total, write);
}

/* Goes on with one buffer after n bytes of it. */
static ssize_t coroutine_fn transfer_more(
    int fd, void *buf, size_t len, uint64_t offset, ssize_t n, bool write)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct rest rest = {.iov = &iov, .n_iov = 1, .skip = (size_t)n};

    return transfer_rest(fd, &rest, offset, n, (ssize_t)len, write);
}

/* One buffer. */
static inline ssize_t coroutine_fn transfer_one(
    int fd, void *buf, size_t len, uint64_t offset, bool write)
{
    struct disk_request request;

    if (len > MOST_AT_ONE_TIME || offset > INT64_MAX)
        return transfer(fd, &(struct iovec){.iov_base = buf, .iov_len = len}, 1, offset, write);
    request.op = write ? DISK_WRITE : DISK_READ;
    request.fd = fd;
    request.offset = offset;
    request.buf = buf;
    request.len = len;
    ssize_t n = disk_run(&request);
    if (n == (ssize_t)len || n < 0)
        return n;
    if (n == 0)
        return write ? -ENOSPC : 0;
    return transfer_more(fd, buf, len, offset, n, write);
}

ssize_t coroutine_fn co_pread(int fd, void *buf, size_t len, uint64_t offset)
{
    return transfer_one(fd, buf, len, offset, false);
}

ssize_t coroutine_fn co_pwrite(int fd, const void *buf, size_t len, uint64_t offset)
{
    return transfer_one(fd, (void *)(uintptr_t)buf, len, offset, true);
}

ssize_t coroutine_fn co_preadv(int fd, const struct iovec *iov, int n_iov, uint64_t offset)
{
    return transfer(fd, iov, n_iov, offset, false);
}

ssize_t coroutine_fn co_pwritev(int fd, const struct iovec *iov, int n_iov, uint64_t offset)
{
    return transfer(fd, iov, n_iov, offset, true);
}

/* ---- the rest, which the kernel does whole or not at all ---- */

int coroutine_fn co_fsync(int fd)
{
    struct disk_request request = {.op = DISK_FSYNC, .fd = fd};

    return (int)disk_run(&request);
}

int coroutine_fn co_fdatasync(int fd)
{
    struct disk_request request = {.op = DISK_FDATASYNC, .fd = fd};

    return (int)disk_run(&request);
}

int coroutine_fn co_fallocate(int fd, int mode, uint64_t offset, uint64_t len)
{
    struct disk_request request = {
        .op = DISK_FALLOCATE,
        .fd = fd,
        .offset = offset,
        .fallocate_len = len,
        .fallocate_mode = mode,
    };

    if (offset > INT64_MAX || len > INT64_MAX)
        return -EINVAL;
    return (int)disk_run(&request);
}

int coroutine_fn co_openat2(int dirfd, const char *path, const struct open_how *how)
{
    struct disk_request request = {.op = DISK_OPENAT2, .fd = dirfd, .path = path, .how = how};

    return (int)disk_run(&request);
}

int coroutine_fn co_close(int fd)
{
    struct disk_request request = {.op = DISK_CLOSE, .fd = fd};

    return (int)disk_run(&request);
}

int coroutine_fn co_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *ret)
{
    struct disk_request request = {
        .op = DISK_STATX,
        .fd = dirfd,
        .statx_path = path,
        .statx = ret,
        .statx_flags = flags,
        .statx_mask = mask,
    };

    return (int)disk_run(&request);
}
