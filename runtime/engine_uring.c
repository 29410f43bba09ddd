/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <linux/openat2.h>

#include "runtime/disk_kernel.h"
#include "runtime/uring.h"

/*
 * Requests become entries of the context's ring at once, and are submitted together: by the wait
 * that begins the next turn, or earlier where FLUSH_ENTRIES have gathered. One that finds
 * the queue full, or comes after one that did, waits in a list, so they stay in order.
 *
 * What is in memory is read in the loop (disk_try_at_once): the ring would do the same copy in the
 * same thread, and a turn of the loop on top, which with one small read in flight was a fifth to a
 * third of its time (tests/bench/bench_disk.c). Where it is not in memory the try is a system call
 * in vain, so after misses in a row ever more reads go to the ring untried.
 *
 * What the kernel's probe does not list goes to a worker, and so does what comes back with EAGAIN:
 * a read of a file opened with O_NONBLOCK on a file system that can only block (tmpfs) would get
 * that answer for ever, and the rest (a driver short of memory) does well with a plain call too.
 */

#define FLUSH_ENTRIES 16
#define MOST_MISSES   6 /* 1 read in 64 is tried then */

static const uint8_t opcodes[] = {
#define X(name, uring_name) [DISK_##name] = uring_name,
    DISK_OPS(X)
#undef X
};

static void prepare(struct io_uring_sqe *sqe, const struct disk_request *r)
{
    switch (r->op) {
    case DISK_READ:
        io_uring_prep_read(sqe, r->fd, r->buf, (unsigned)r->len, r->offset);
        break;
    case DISK_WRITE:
        io_uring_prep_write(sqe, r->fd, r->buf, (unsigned)r->len, r->offset);
        break;
    case DISK_READV:
        io_uring_prep_readv(sqe, r->fd, r->iov, (unsigned)r->n_iov, r->offset);
        break;
    case DISK_WRITEV:
        io_uring_prep_writev(sqe, r->fd, r->iov, (unsigned)r->n_iov, r->offset);
        break;
    case DISK_FSYNC:
        io_uring_prep_fsync(sqe, r->fd, 0);
        break;
    case DISK_FDATASYNC:
        io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
        break;
    case DISK_FALLOCATE:
        io_uring_prep_fallocate(
            sqe, r->fd, r->fallocate_mode, (off_t)r->offset, (off_t)r->fallocate_len);
        break;
    case DISK_OPENAT2:
        io_uring_prep_openat2(sqe, r->fd, r->path, (struct open_how *)(uintptr_t)r->how);
        break;
    case DISK_CLOSE:
        io_uring_prep_close(sqe, r->fd);
        break;
    case DISK_STATX:
        io_uring_prep_statx(sqe, r->fd, r->statx_path, r->statx_flags, r->statx_mask, r->statx);
        break;
    }
    sqe->user_data = uring_request_tag(r);
}

static bool fill_one(AioContext *ctx, const struct disk_request *request)
{
    struct io_uring_sqe *sqe = uring_get_sqe(ctx);
    if (!sqe)
        return false;

    prepare(sqe, request);
    uring_of(ctx)->n_disk++;
    uring_of(ctx)->n_filled++;
    return true;
}

void engine_uring_fill(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    while (u->pending && fill_one(ctx, u->pending))
        u->pending = u->pending->next;
    if (!u->pending)
        u->pending_last = &u->pending;
}

static bool is_read(const struct disk_request *request)
{
    return request->op == DISK_READ || request->op == DISK_READV;
}

static bool try_read(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (disk_is_direct(request))
        return false;
    if (u->n_to_skip > 0) {
        u->n_to_skip--;
        return false;
    }
    if (disk_try_at_once(ctx, request)) {
        u->n_misses = 0;
        return true;
    }
    if (u->n_misses < MOST_MISSES)
        u->n_misses++;
    u->n_to_skip = (1u << u->n_misses) - 1;
    return false;
}

static void submit(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (is_read(request) ? try_read(ctx, request) : disk_try_at_once(ctx, request))
        return;
    if (!(u->supported_ops >> opcodes[request->op] & 1)) {
        disk_submit_to_worker(ctx, request);
        return;
    }
    if (!u->pending && fill_one(ctx, request))
        return;
    request->next = NULL;
    *u->pending_last = request;
    u->pending_last = &request->next;
}

void engine_uring_collect(AioContext *ctx, struct disk_request *request, int32_t result)
{
    ssize_t r = ctx->disk.kernel->result(request, result);

    uring_of(ctx)->n_disk--;
    if (r == -EAGAIN && request->op != DISK_OPENAT2)
        disk_submit_to_worker(ctx, request);
    else
        disk_complete(ctx, request, r);
}

static void flush(AioContext *ctx)
{
    engine_uring_fill(ctx);
    if (uring_of(ctx)->n_filled >= FLUSH_ENTRIES)
        uring_submit(ctx);
}

/* The monitor frees what they share. */
static void destroy(AioContext *ctx)
{
    assert(ctx->disk.n_in_flight == 0);
}

const struct engine_ops engine_uring_ops = {
    .engine = AIO_ENGINE_IO_URING,
    .submit = submit,
    .flush = flush,
    .destroy = destroy,
};
