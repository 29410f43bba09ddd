/* SPDX-License-Identifier: MIT */
#include "runtime/disk.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include "runtime/context.h"
#include "runtime/disk_kernel.h"

/*
 * What holds for every engine: a place among those in flight, one yield, the wake, the count, and
 * the continuation of what the kernel did in part.
 *
 * A place is handed from who gives it up to who waits longest, never put back while somebody waits,
 * so nobody overtakes.
 *
 * A request's end may come inside submit(): then its coroutine is still running, and just goes on.
 * Only one that waits is put on the completed list. So each request yields once or not at all, and
 * is woken as often. A coroutine whose requests are all answered at once would keep the loop for
 * itself: after AT_ONCE_BYTES a turn it is put on the list like the others. For the same reason
 * disk_dispatch_completed() runs those that were on the list when it began.
 *
 * Where the kernel says EAGAIN (no memory, no thread) the coroutine sleeps and asks again: longer
 * each time, and but for an open without a limit, as callers are promised not to see it.
 */

/* Most that a turn of the loop does without going round; a request counts as REQUEST_BYTES more
 * than it moves. */
#define AT_ONCE_BYTES ((uint64_t)1 << 20)
#define REQUEST_BYTES ((uint64_t)16 << 10)

/* What the kernel moves in one call at most (MAX_RW_COUNT); io_uring's length has 32 bits. */
#define MOST_AT_ONE_TIME ((size_t)0x7ffff000)

#define FIRST_RETRY_NS   ((int64_t)50 * 1000)
#define NONBLOCK_RETRIES 8
#define LAST_RETRY_NS    ((int64_t)100 * 1000 * 1000)

static struct aio_counters *counters(AioContext *ctx)
{
    return ctx->instruments.counters;
}

void disk_init(AioContext *ctx)
{
    ctx->disk.depth = ctx->io_depth;
    ctx->disk.kernel = &disk_kernel_real;
    co_queue_init(&ctx->disk.waiters);
    ctx->completed = NULL;
    ctx->completed_last = &ctx->completed;
}

/* ---- the completed list ---- */

static void completed_push(AioContext *ctx, struct disk_request *request)
{
    request->next = NULL;
    *ctx->completed_last = request;
    ctx->completed_last = &request->next;
    ctx->disk.n_completed++;
}

static struct disk_request *completed_pop(AioContext *ctx)
{
    struct disk_request *request = ctx->completed;

    ctx->completed = request->next;
    if (!ctx->completed)
        ctx->completed_last = &ctx->completed;
    ctx->disk.n_completed--;
    return request;
}

void disk_complete(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    assert(!request->done);
    request->result = result;
    request->done = true;
    if (request->waits)
        completed_push(ctx, request);
}

bool disk_dispatch_completed(AioContext *ctx)
{
    uint32_t n = ctx->disk.n_completed;
    bool progress = n > 0;

    /* A nested loop may have dispatched some of the n. */
    for (; n > 0 && ctx->completed; n--)
        aio_co_wake(completed_pop(ctx)->co);
    return progress;
}

/* ---- one request ---- */

static int coroutine_fn take_place(struct disk_state *disk)
{
    if (disk->n_in_flight >= disk->depth)
        return co_queue_wait(&disk->waiters, NULL); /* and then has the place of who woke it */
    disk->n_in_flight++;
    return 0;
}

static void give_up_place(struct disk_state *disk)
{
    if (!co_queue_next(&disk->waiters))
        disk->n_in_flight--;
}

static bool moves_data(const struct disk_request *request)
{
    return request->op == DISK_READ || request->op == DISK_WRITE || request->op == DISK_READV ||
           request->op == DISK_WRITEV;
}

static bool is_read(const struct disk_request *request)
{
    return request->op == DISK_READ || request->op == DISK_READV;
}

static void account(AioContext *ctx, const struct disk_request *request)
{
    struct aio_counters *c = counters(ctx);

    counter_add(&c->io_completed, 1);
    if (request->result < 0) {
        counter_add(&c->io_failed, 1);
        recorder_note(
            &ctx->instruments, RECORDER_IO_ERROR, (uint64_t)-request->result, request->op);
    } else if (moves_data(request)) {
        counter_add(is_read(request) ? &c->io_read_bytes : &c->io_write_bytes, request->result);
    }
}

/* Whether what is answered at once has had its share of this turn. */
static bool must_go_round(AioContext *ctx, const struct disk_request *request)
{
    struct disk_state *disk = &ctx->disk;
    uint64_t turn = counters(ctx)->polls;

    if (disk->turn != turn) {
        disk->turn = turn;
        disk->at_once_bytes = 0;
    }
    disk->at_once_bytes += REQUEST_BYTES;
    if (moves_data(request) && request->result > 0)
        disk->at_once_bytes += (uint64_t)request->result;
    return disk->at_once_bytes > AT_ONCE_BYTES;
}

/* Runs request to its end, as the engine gives it. */
static ssize_t coroutine_fn run_once(struct disk_request *request)
{
    AioContext *ctx = aio_context_current();

    assert(ctx && in_coroutine());
    request->co = coroutine_self();
    request->done = false;
    request->waits = false;

    int r = take_place(&ctx->disk);
    if (r < 0)
        return r;
    counter_add(&counters(ctx)->io_submitted, 1);
    ctx->engine->submit(ctx, request);
    if (!request->done || must_go_round(ctx, request)) {
        request->waits = true;
        if (request->done)
            completed_push(ctx, request);
        coroutine_yield_at("disk");
    }
    assert(request->done);
    account(ctx, request);
    give_up_place(&ctx->disk);
    return request->result;
}

/* How often EAGAIN is met by asking again. From an open it may be the answer that was asked for:
 * RESOLVE_CACHED says so of what is not cached, O_NONBLOCK of a lease; but a rename that crosses an
 * open with RESOLVE_BENEATH gives it too, and is over soon. */
static unsigned most_retries(const struct disk_request *request)
{
    if (request->op != DISK_OPENAT2)
        return UINT_MAX;
    if (request->how->resolve & RESOLVE_CACHED)
        return 0;
    return request->how->flags & O_NONBLOCK ? NONBLOCK_RETRIES : UINT_MAX;
}

/* As run_once(), but neither EINTR nor EAGAIN is seen. */
static ssize_t coroutine_fn run(struct disk_request *request)
{
    int64_t wait_ns = FIRST_RETRY_NS;

    for (unsigned n_retries = 0;; n_retries++) {
        ssize_t r = run_once(request);

        /* Linux lets go of the fd also where close says EINTR: asking again would close somebody
         * else's. */
        if (r == -EINTR && request->op == DISK_CLOSE)
            return 0;
        if (r != -EINTR && (r != -EAGAIN || n_retries >= most_retries(request)))
            return r;
        r = co_sleep_ns(wait_ns);
        if (r == -ECANCELED || r == -ETIMEDOUT)
            return r;
        wait_ns = wait_ns * 2 < LAST_RETRY_NS ? wait_ns * 2 : LAST_RETRY_NS;
    }
}

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

/* At least one request is made, so that an fd that is none is noticed with nothing to move too. */
static ssize_t coroutine_fn transfer(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, bool write)
{
    struct rest rest = {.iov = iov, .n_iov = n_iov};
    ssize_t total = total_bytes(iov, n_iov, offset);
    ssize_t moved = 0;

    if (total < 0)
        return total;
    rest_advance(&rest, 0);
    do {
        struct disk_request request = {.fd = fd, .offset = offset + (uint64_t)moved};

        request_for_rest(&request, &rest, write);
        ssize_t n = run(&request);
        if (n < 0)
            return n;
        if (n == 0)
            break;
        moved += n;
        rest_advance(&rest, (size_t)n);
    } while (moved < total);

    /* A file takes nothing more, and the kernel has no error for it. */
    return write && moved < total ? -ENOSPC : moved;
}

ssize_t coroutine_fn co_pread(int fd, void *buf, size_t len, uint64_t offset)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};

    return transfer(fd, &iov, 1, offset, false);
}

ssize_t coroutine_fn co_pwrite(int fd, const void *buf, size_t len, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

    return transfer(fd, &iov, 1, offset, true);
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

    return (int)run(&request);
}

int coroutine_fn co_fdatasync(int fd)
{
    struct disk_request request = {.op = DISK_FDATASYNC, .fd = fd};

    return (int)run(&request);
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
    return (int)run(&request);
}

int coroutine_fn co_openat2(int dirfd, const char *path, const struct open_how *how)
{
    struct disk_request request = {.op = DISK_OPENAT2, .fd = dirfd, .path = path, .how = how};

    return (int)run(&request);
}

int coroutine_fn co_close(int fd)
{
    struct disk_request request = {.op = DISK_CLOSE, .fd = fd};

    return (int)run(&request);
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

    return (int)run(&request);
}
