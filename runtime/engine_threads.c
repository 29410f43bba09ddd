/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"
/*
 * Each request is one blocking system call in a worker. The other engines come here too, for what
 * their kernel interface cannot do.
 *
 * Before the way through a worker and back, which costs two wake-ups, the loop tries what the
 * kernel can answer from memory: preadv2(RWF_NOWAIT) for reads, openat2(RESOLVE_CACHED) for opens,
 * statx() of an open file with AT_STATX_DONT_SYNC.
 * - Not with O_DIRECT: RWF_NOWAIT then waits for the disk, and only not for locks.
 * - A file system that knows no RWF_NOWAIT says EOPNOTSUPP; what is not cached is EAGAIN: any error
 *   goes to a worker, whose answer counts.
 * - 0 is believed to be the end only of a regular file that fstat() says is no longer than that.
 * - RESOLVE_CACHED speaks of the path alone: the open itself may still block (a FIFO, a lease).
 *   So it is tried only where the caller asked for O_NONBLOCK or O_PATH.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/context.h"
#include "runtime/disk_kernel.h"

/* The request's buffers as an array; single is the place for one that has no array. */
static const struct iovec *request_iov(
    const struct disk_request *request, struct iovec *single, int *ret_n)
{
    if (request->op == DISK_READV || request->op == DISK_WRITEV) {
        *ret_n = request->n_iov;
        return request->iov;
    }
    single->iov_base = request->buf;
    single->iov_len = request->len;
    *ret_n = 1;
    return single;
}

static ssize_t read_now(
    const struct disk_kernel *kernel, const struct disk_request *request, int flags)
{
    struct iovec single;
    int n;
    const struct iovec *iov = request_iov(request, &single, &n);

    return kernel->preadv(request->fd, iov, n, request->offset, flags);
}

static ssize_t write_now(const struct disk_kernel *kernel, const struct disk_request *request)
{
    struct iovec single;
    int n;
    const struct iovec *iov = request_iov(request, &single, &n);

    return kernel->pwritev(request->fd, iov, n, request->offset, 0);
}

static ssize_t or_errno(int r)
{
    return r < 0 ? -errno : r;
}

static ssize_t request_now(const struct disk_kernel *kernel, struct disk_request *request)
{
    switch ((enum disk_op)request->op) {
    case DISK_READ:
    case DISK_READV:
        return read_now(kernel, request, 0);
    case DISK_WRITE:
    case DISK_WRITEV:
        return write_now(kernel, request);
    case DISK_FSYNC:
        return or_errno(fsync(request->fd));
    case DISK_FDATASYNC:
        return or_errno(fdatasync(request->fd));
    case DISK_FALLOCATE:
        return or_errno(fallocate(request->fd, request->fallocate_mode, (off_t)request->offset,
            (off_t)request->fallocate_len));
    case DISK_OPENAT2:
        return kernel->openat2(request->fd, request->path, request->how);
    case DISK_CLOSE:
        return or_errno(close(request->fd));
    case DISK_STATX:
        return or_errno(statx(request->fd, request->statx_path, request->statx_flags,
            request->statx_mask, request->statx));
    }
    return -EINVAL;
}

static void count_call(AioContext *ctx)
{
    counter_add(&ctx->instruments.counters->io_syscalls, 1);
}

/* ---- in a worker ---- */

static struct disk_request *request_of(struct pool_work *work)
{
    return (struct disk_request *)((char *)work - offsetof(struct disk_request, work));
}

static int run_in_worker(void *opaque)
{
    struct disk_request *request = opaque;

    request->result = request_now(request->kernel, request);
    return 0;
}

static void collect(AioContext *ctx, struct pool_work *work)
{
    struct disk_request *request = request_of(work);

    disk_complete(ctx, request, request->result);
}

void disk_submit_to_worker(AioContext *ctx, struct disk_request *request)
{
    request->kernel = ctx->disk.kernel;
    request->work = (struct pool_work){
        .func = run_in_worker,
        .opaque = request,
        .finish = collect,
    };
    request->place = DISK_IN_WORKER;
    int r = pool_work_submit(ctx, &request->work);
    if (r < 0) {
        request->no_worker = true;
        disk_complete(ctx, request, r);
    } else {
        count_call(ctx);
    }
}

/* ---- at once, in the loop ---- */

bool disk_is_direct(const struct disk_request *request)
{
    switch ((enum disk_op)request->op) {
    case DISK_READ:
    case DISK_READV:
    case DISK_WRITE:
    case DISK_WRITEV: {
        int flags = fcntl(request->fd, F_GETFL);
        return flags >= 0 && (flags & O_DIRECT);
    }
    default:
        return false;
    }
}

static bool is_at_end(const struct disk_request *request)
{
    struct stat st;

    return fstat(request->fd, &st) == 0 && S_ISREG(st.st_mode) &&
           request->offset >= (uint64_t)st.st_size;
}

static bool read_at_once(AioContext *ctx, struct disk_request *request)
{
    count_call(ctx);
    ssize_t n = read_now(ctx->disk.kernel, request, RWF_NOWAIT);

    if (n < 0 || (n == 0 && !is_at_end(request)))
        return false;
    disk_complete(ctx, request, n);
    return true;
}

static bool open_at_once(AioContext *ctx, struct disk_request *request)
{
    struct open_how how = *request->how;

    if (!(how.flags & (O_NONBLOCK | O_PATH)))
        return false;
    how.resolve |= RESOLVE_CACHED;
    count_call(ctx);
    int fd = ctx->disk.kernel->openat2(request->fd, request->path, &how);
    if (fd < 0)
        return false;
    disk_complete(ctx, request, fd);
    return true;
}

/* What is known of an open file, if the caller wants no more than that. */
static bool statx_at_once(AioContext *ctx, struct disk_request *request)
{
    if (!(request->statx_flags & AT_EMPTY_PATH) || !(request->statx_flags & AT_STATX_DONT_SYNC) ||
        request->statx_path[0] != '\0')
        return false;
    count_call(ctx);
    disk_complete(ctx, request, request_now(ctx->disk.kernel, request));
    return true;
}

bool disk_try_at_once(AioContext *ctx, struct disk_request *request)
{
    switch ((enum disk_op)request->op) {
    case DISK_READ:
    case DISK_READV:
        return read_at_once(ctx, request);
    case DISK_OPENAT2:
        return open_at_once(ctx, request);
    case DISK_STATX:
        return statx_at_once(ctx, request);
    default:
        return false;
    }
}

/* ---- the engine ---- */

static void threads_submit(AioContext *ctx, struct disk_request *request)
{
    if (disk_is_direct(request) || !disk_try_at_once(ctx, request))
        disk_submit_to_worker(ctx, request);
}

/* A worker's, or ended: this engine has no queue of its own. */
static bool threads_cancel(AioContext *ctx, struct disk_request *request)
{
    return false;
}

static void threads_destroy(AioContext *ctx)
{
}

static const struct engine_ops threads_ops = {
    .engine = AIO_ENGINE_THREADS,
    .submit = threads_submit,
    .cancel = threads_cancel,
    .destroy = threads_destroy,
};

int engine_threads_setup(AioContext *ctx)
{
    char flags[32];

    ctx->engine = &threads_ops;
    snprintf(flags, sizeof(flags), "max-threads %u", ctx->max_threads);
    context_add_flags(ctx, flags);
    return 0;
}
