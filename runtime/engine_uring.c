/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"
/*
 * Requests become entries of the context's ring at once, and are submitted together: when a batch
 * has gathered, by the wait that begins the next turn, or at the end of a phase that left more than
 * a few. While the disk has some that take their time a batch is a small one: the disk would be
 * idle while many gather, and the loop while the disk has them all (32 reads of 4 KiB in flight
 * with O_DIRECT: a quarter fewer a second). One that finds the queue full, or comes after one that
 * did, waits in a list, so they stay in order.
 *
 * A read with next to none in flight is tried in the loop (disk_try_at_once): the ring would do the
 * same copy in the same thread, and a turn of the loop on top. With more in flight the ring is the
 * faster way, for one system call serves many; but not for large reads, where the copy is all, and
 * a batch would keep the loop for long and push what was read first out of the cache. Where the
 * data is not in memory the try is a system call in vain, so after misses in a row ever more reads
 * go to the ring untried.
 *
 * A request that shall end is cancelled by an entry of its own; one that finds no room for that is
 * put on a list, from which its completion takes it.
 *
 * A registered file or buffer is named in the entry by its place, where it is still there by then:
 * a table may change between a request's begin and its entry, not between its entry and the kernel
 * (uring_register).
 *
 * What the kernel's probe does not list goes to a worker, and so does what comes back with EAGAIN:
 * a read of a file opened with O_NONBLOCK on a file system that can only block (tmpfs) would get
 * that answer for ever, and the rest (a driver short of memory) does well with a plain call too.
 */
#include <assert.h>
#include <errno.h>
#include <linux/openat2.h>

#include "runtime/disk_kernel.h"
#include "runtime/uring.h"

#define FLUSH_ENTRIES 16
#define SLOW_BATCH    4 /* of requests that take many times what a system call does */
#define MOST_MISSES   6 /* 1 read in 64 is tried then */
#define MOST_TO_TRY   2 /* requests in flight, from which on the ring is the faster way */
#define LARGE_BYTES   ((size_t)32 << 10) /* a read for which a system call of its own is nothing */

static const uint8_t opcodes[] = {
#define X(name, uring_name) [DISK_##name] = uring_name,
    DISK_OPS(X)
#undef X
};

static void prepare_data(AioContext *ctx, struct io_uring_sqe *sqe, const struct disk_request *r)
{
    int buffer = disk_fixed_buffer(&ctx->disk.fixed, r->buf, r->len);
    bool read = r->op == DISK_READ;

    if (buffer < 0) {
        io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, r->fd, r->buf,
            (unsigned)r->len, r->offset);
        return;
    }
    io_uring_prep_rw(read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED, sqe, r->fd, r->buf,
        (unsigned)r->len, r->offset);
    sqe->buf_index = (uint16_t)buffer;
}

/* Sets every field: the entry was used before. */
static void prepare(AioContext *ctx, struct io_uring_sqe *sqe, const struct disk_request *r)
{
    switch ((enum disk_op)r->op) {
    case DISK_READ:
    case DISK_WRITE:
        prepare_data(ctx, sqe, r);
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
    if (disk_fixed_is_at(&ctx->disk.fixed, r->fixed_file, r->fd)) {
        sqe->fd = r->fixed_file;
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    sqe->user_data = uring_request_tag(r);
}

static bool fill_one(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);
    struct io_uring_sqe *sqe = uring_get_used_sqe(ctx);
    if (!sqe)
        return false;

    prepare(ctx, sqe, request);
    request->place = DISK_IN_KERNEL;
    u->n_disk++;
    u->n_filled++;
    return true;
}

/* ---- cancelling ---- */

static bool fill_cancel(AioContext *ctx, const struct disk_request *request)
{
    struct io_uring_sqe *sqe = uring_get_sqe(ctx);
    if (!sqe)
        return false;

    io_uring_prep_cancel64(sqe, uring_request_tag(request), 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = 0;
    return true;
}

static bool cancel(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (request->place == DISK_QUEUED) {
        disk_queue_remove(&u->pending, request);
        return true;
    }
    if (!fill_cancel(ctx, request)) {
        request->cancel_waits = true;
        request->next = u->cancelling;
        u->cancelling = request;
    }
    return false;
}

static void forget_cancel(struct uring *u, struct disk_request *request)
{
    struct disk_request **link = &u->cancelling;

    while (*link != request)
        link = &(*link)->next;
    *link = request->next;
    request->cancel_waits = false;
}

void engine_uring_fill(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    while (u->pending.first) {
        struct disk_request *next = u->pending.first->next;

        if (!fill_one(ctx, u->pending.first))
            return;
        u->pending.first = next;
    }
    while (u->cancelling && fill_cancel(ctx, u->cancelling))
        forget_cancel(u, u->cancelling);
}

/* ---- submitting ---- */

static bool is_large(const struct disk_request *request)
{
    if (request->op == DISK_READ)
        return request->len >= LARGE_BYTES;
    size_t bytes = 0;
    for (int i = 0; i < request->n_iov && bytes < LARGE_BYTES; i++)
        bytes += request->iov[i].iov_len;
    return bytes >= LARGE_BYTES;
}

/* Whether the way through the ring would be the slower one, if the data is in memory. */
static bool is_worth_a_try(AioContext *ctx, const struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (ctx->disk.n_in_flight > MOST_TO_TRY && !is_large(request))
        return false;
    if (u->n_to_skip > 0) {
        u->n_to_skip--;
        return false;
    }
    return !disk_is_direct(request);
}

static bool try_read(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (!is_worth_a_try(ctx, request))
        return false;
    if (disk_try_at_once(ctx, request)) {
        u->n_misses = 0;
        return true;
    }
    if (u->n_misses < MOST_MISSES)
        u->n_misses++;
    u->n_to_skip = (1u << u->n_misses) - 1;
    return false;
}

static bool try_at_once(AioContext *ctx, struct disk_request *request)
{
    if (disk_is_write(request))
        return false;
    return disk_is_read(request) ? try_read(ctx, request) : disk_try_at_once(ctx, request);
}

static uint32_t batch_now(const AioContext *ctx)
{
    uint32_t batch = ctx->disk.batch;

    return uring_of(ctx)->disk_is_slow && batch > SLOW_BATCH ? SLOW_BATCH : batch;
}

static void submit(AioContext *ctx, struct disk_request *request)
{
    struct uring *u = uring_of(ctx);

    if (try_at_once(ctx, request))
        return;
    if (!(u->supported_ops >> opcodes[request->op] & 1)) {
        disk_submit_to_worker(ctx, request);
        return;
    }
    if (u->pending.first || !fill_one(ctx, request)) {
        request->place = DISK_QUEUED;
        disk_queue_push_leavable(&u->pending, request);
    } else if (u->n_filled >= batch_now(ctx) && !u->refused) {
        uring_submit(ctx);
    }
}

void engine_uring_collect(AioContext *ctx, struct disk_request *request, int32_t result)
{
    ssize_t r = disk_kernel_result(ctx->disk.kernel, request, result);

    uring_of(ctx)->n_disk--;
    if (request->cancel_waits)
        forget_cancel(uring_of(ctx), request);
    /* The kernel says ECANCELED unasked where it can make no thread of its own. */
    if ((r == -EAGAIN && request->op != DISK_OPENAT2) || (r == -ECANCELED && !request->was_asked))
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
    .cancel = cancel,
    .destroy = destroy,
};
