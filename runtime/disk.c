/* SPDX-License-Identifier: MIT */
#include "runtime/disk.h"
/*
 * One request's way, the same for every engine: a place among those in flight, one yield, the wake,
 * the count, and another try where the kernel says later. A read or write may take several: what
 * the kernel did in part goes on where it stopped, until it says that there is no more.
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
 * A scope that ends (co_cancel.h) takes a request back while nobody but us has it. One that the
 * kernel has goes on to its end, which the engine may hasten: until then its buffer is not free. A
 * close is never taken back, for the caller could not tell whether its fd is still there.
 *
 * Where the kernel says EAGAIN (no memory) the coroutine sleeps and asks again: longer each time,
 * and without a limit, as callers are promised not to see it. But for opens that ask for it, and
 * for a thread that can't be made: what is missing there may be missing for good (RLIMIT_NPROC).
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>

#include "runtime/context.h"
#include "runtime/coroutine_inside.h"
#include "runtime/probe.h"

/* Most that a turn of the loop does without going round; a request counts as REQUEST_BYTES more
 * than it moves. */
#define AT_ONCE_BYTES ((uint64_t)1 << 20)
#define REQUEST_BYTES ((uint64_t)16 << 10)

#define FIRST_RETRY_NS    ((int64_t)50 * 1000)
#define LAST_RETRY_NS     ((int64_t)100 * 1000 * 1000)
#define NONBLOCK_RETRIES  8
#define NO_WORKER_RETRIES 8

/*
 * A return after a yield is predicted wrongly, for the loop has called others since; each one costs
 * a tenth of what the runtime adds to a read. So the way from the call to the yield is one
 * function, and what is rare stands apart from it.
 */
#define INLINE   inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* What the kernel moves in one call at most (MAX_RW_COUNT); io_uring's length has 32 bits. */
#define MOST_AT_ONE_TIME ((size_t)0x7ffff000)

static struct aio_counters *counters(AioContext *ctx)
{
    return ctx->instruments.counters;
}

/* ---- the end of a scope ---- */

static bool withdraw(struct co_wait *wait)
{
    struct disk_request *request =
        (struct disk_request *)((char *)wait - offsetof(struct disk_request, wait));
    AioContext *ctx = request->co->ctx;

    request->was_asked = true;
    switch ((enum disk_place)request->place) {
    case DISK_WAITS:
        disk_queue_remove(&ctx->disk.waiting, request);
        return true;
    case DISK_IN_WORKER:
        return pool_work_cancel(ctx, &request->work);
    case DISK_QUEUED:
    case DISK_IN_KERNEL:
        return ctx->engine->cancel(ctx, request);
    case DISK_NOWHERE:
        break;
    }
    return false;
}

/* What a request that was asked to end says of it, in the words of the scope. */
static ssize_t coroutine_fn NOINLINE result_in_scope(const struct disk_request *request)
{
    ssize_t r = request->result;
    int over = r == -ECANCELED || r == -EINTR ? co_scope_status() : 0;

    return over < 0 ? over : r;
}

/* 0, or the error of the scope that ended meanwhile: then nobody has the request any more. */
static int coroutine_fn NOINLINE wait_in_scope(struct disk_request *request, const char *why)
{
    request->wait.withdraw = request->op == DISK_CLOSE ? NULL : withdraw;
    return co_wait(&request->wait, why);
}

/* ---- places among those in flight ---- */

/* 0, or the error of the scope that ended meanwhile. */
static int coroutine_fn NOINLINE wait_for_place(
    struct disk_state *disk, struct disk_request *request)
{
    request->place = DISK_WAITS;
    disk_queue_push_leavable(&disk->waiting, request);
    return wait_in_scope(request, "disk queue");
}

static INLINE int coroutine_fn take_place(struct disk_state *disk, struct disk_request *request)
{
    if (disk->n_in_flight >= disk->depth)
        return wait_for_place(disk, request);
    disk->n_in_flight++;
    return 0;
}

static void NOINLINE hand_place_on(struct disk_state *disk)
{
    struct disk_request *next = disk_queue_pop(&disk->waiting);

    next->place = DISK_NOWHERE;
    aio_co_wake(next->co);
}

static INLINE void give_up_place(struct disk_state *disk)
{
    if (disk->waiting.first)
        hand_place_on(disk);
    else
        disk->n_in_flight--;
}

/* ---- one request ---- */

static void NOINLINE account_error(AioContext *ctx, const struct disk_request *request)
{
    counter_add(&counters(ctx)->io_failed, 1);
    recorder_note(&ctx->instruments, RECORDER_IO_ERROR, (uint64_t)-request->result, request->op);
}

static INLINE void account(AioContext *ctx, const struct disk_request *request)
{
    struct aio_counters *c = counters(ctx);

    PROBE3(io_complete, request, request->op, request->result);
    counter_add(&c->io_completed, 1);
    if (request->result < 0)
        account_error(ctx, request);
    else if (disk_is_read(request))
        counter_add(&c->io_read_bytes, request->result);
    else if (disk_is_write(request))
        counter_add(&c->io_write_bytes, request->result);
}

/* Whether what is answered at once has had its share of this turn. */
static bool NOINLINE must_go_round(AioContext *ctx, const struct disk_request *request)
{
    struct disk_state *disk = &ctx->disk;
    uint64_t turn = counters(ctx)->polls;

    if (disk->turn != turn) {
        disk->turn = turn;
        disk->at_once_bytes = 0;
    }
    disk->at_once_bytes += REQUEST_BYTES;
    if ((disk_is_read(request) || disk_is_write(request)) && request->result > 0)
        disk->at_once_bytes += (uint64_t)request->result;
    return disk->at_once_bytes > AT_ONCE_BYTES;
}

static void coroutine_fn NOINLINE wait_for_end_in_scope(struct disk_request *request)
{
    int over = wait_in_scope(request, "disk");

    if (over < 0) {
        request->result = over;
        request->done = true;
    }
}

/* With a place: from submit() to the end. */
static INLINE void coroutine_fn submit_and_wait(AioContext *ctx, struct disk_request *request)
{
    PROBE3(io_submit, request, request->op, request->fd);
    counter_add(&counters(ctx)->io_submitted, 1);
    if (request->to_worker)
        disk_submit_to_worker(ctx, request);
    else
        ctx->engine->submit(ctx, request);
    if (!request->done || must_go_round(ctx, request)) {
        request->waits = true;
        if (request->done)
            disk_push_completed(ctx, request);
        if (request->co->scope)
            wait_for_end_in_scope(request);
        else
            coroutine_yield_at("disk");
    }
    assert(request->done);
    account(ctx, request);
}

/* Runs request to its end, as the engine gives it. */
static INLINE ssize_t coroutine_fn run_once(AioContext *ctx, struct disk_request *request)
{
    request->place = DISK_NOWHERE;
    request->done = request->waits = false;
    request->was_asked = request->cancel_waits = request->no_worker = false;

    int r = take_place(&ctx->disk, request);
    if (r < 0)
        return r;
    submit_and_wait(ctx, request);
    give_up_place(&ctx->disk);
    return request->was_asked ? result_in_scope(request) : request->result;
}

/* How often EAGAIN is met by asking again. From an open it may be the answer that was asked for:
 * RESOLVE_CACHED says so of what is not cached, O_NONBLOCK of a lease; but a rename that crosses an
 * open with RESOLVE_BENEATH gives it too, and is over soon. */
static unsigned most_retries(const struct disk_request *request)
{
    if (request->no_worker)
        return NO_WORKER_RETRIES;
    if (request->op != DISK_OPENAT2)
        return UINT_MAX;
    if (request->how->resolve & RESOLVE_CACHED)
        return 0;
    return request->how->flags & O_NONBLOCK ? NONBLOCK_RETRIES : UINT_MAX;
}

/* As run_once(), but neither EINTR nor EAGAIN is seen: r is the first of either. */
static ssize_t coroutine_fn NOINLINE run_again(
    AioContext *ctx, struct disk_request *request, ssize_t r)
{
    int64_t wait_ns = FIRST_RETRY_NS;

    for (unsigned n_retries = 0;; n_retries++) {
        /* Linux lets go of the fd also where close says EINTR: asking again would close somebody
         * else's. */
        if (r == -EINTR && request->op == DISK_CLOSE)
            return 0;
        if (r != -EINTR && (r != -EAGAIN || n_retries >= most_retries(request)))
            return r;
        int over = co_sleep_ns(wait_ns);
        if ((over == -ECANCELED || over == -ETIMEDOUT) && request->op != DISK_CLOSE)
            return over;
        wait_ns = wait_ns * 2 < LAST_RETRY_NS ? wait_ns * 2 : LAST_RETRY_NS;
        r = run_once(ctx, request);
    }
}

/* The file behind AIO_WORKER_FD(fd), or AIO_FIXED_FD(place). A path's folder goes by its fd on
 * every engine. */
static int NOINLINE resolve_mark(AioContext *ctx, struct disk_request *request)
{
    if (!disk_fd_is_fixed(request->fd)) {
        request->fd -= AIO_WORKER_FD(0);
        request->to_worker = true;
        return request->fd >= 0 || request->fd == AT_FDCWD ? 0 : -EBADF;
    }
    int place = request->fd - AIO_FIXED_FD(0);
    int fd = disk_fixed_fd(&ctx->disk.fixed, request->fd);

    if (fd < 0 || request->op == DISK_CLOSE)
        return -EBADF;
    request->fd = fd;
    if (request->op != DISK_OPENAT2 && request->op != DISK_STATX)
        request->fixed_file = place;
    return 0;
}

static INLINE ssize_t coroutine_fn run(struct disk_request *request)
{
    request->co = coroutine_self();
    assert(request->co && request->co->ctx);
    AioContext *ctx = request->co->ctx;
    request->fixed_file = -1;
    request->to_worker = false;
    if (disk_fd_is_marked(request->fd)) {
        int r = resolve_mark(ctx, request);
        if (r < 0)
            return r;
    }
    ssize_t r = run_once(ctx, request);
    return r == -EINTR || r == -EAGAIN ? run_again(ctx, request, r) : r;
}

ssize_t coroutine_fn disk_run(struct disk_request *request)
{
    return run(request);
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

/* The plain one: a registered file's place may be another's by now. */
static int fd_to_go_on(const struct disk_request *request)
{
    return request->to_worker ? AIO_WORKER_FD(request->fd) : request->fd;
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
        fd = fd_to_go_on(&request);
        moved += n;
        rest_advance(rest, (size_t)n);
    } while (moved < total);

    /* A file takes nothing more, and the kernel has no error for it. */
    return write && moved < total ? -ENOSPC : moved;
}

static ssize_t coroutine_fn NOINLINE transfer(
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
static ssize_t coroutine_fn NOINLINE transfer_more(
    int fd, void *buf, size_t len, uint64_t offset, ssize_t n, bool write)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct rest rest = {.iov = &iov, .n_iov = 1, .skip = (size_t)n};

    return transfer_rest(fd, &rest, offset, n, (ssize_t)len, write);
}

/* One buffer. */
static INLINE ssize_t coroutine_fn transfer_one(
    int fd, void *buf, size_t len, uint64_t offset, bool write)
{
    if (len > MOST_AT_ONE_TIME || offset > INT64_MAX)
        return transfer(fd, &(struct iovec){.iov_base = buf, .iov_len = len}, 1, offset, write);
    struct disk_request request;

    request.op = write ? DISK_WRITE : DISK_READ;
    request.fd = fd;
    request.offset = offset;
    request.buf = buf;
    request.len = len;
    ssize_t n = run(&request);
    if (n == (ssize_t)len || n < 0)
        return n;
    if (n == 0)
        return write ? -ENOSPC : 0;
    return transfer_more(fd_to_go_on(&request), buf, len, offset, n, write);
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
    /* No path at all is an empty one to Linux 6.11, and to its io_uring not yet. */
    struct disk_request request = {
        .op = DISK_STATX,
        .fd = dirfd,
        .statx_path = !path && (flags & AT_EMPTY_PATH) ? "" : path,
        .statx = ret,
        .statx_flags = flags,
        .statx_mask = mask,
    };

    return (int)disk_run(&request);
}
