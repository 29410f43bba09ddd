/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>

#include "runtime/context.h"
#include "runtime/disk_kernel.h"
#include "runtime/probe.h"

/*
 * One request's way, the same for every engine: a place among those in flight, one yield, the wake,
 * the count, and another try where the kernel says later.
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
 * and without a limit, as callers are promised not to see it. But for opens that ask for it, and for
 * a thread that can't be made: what is missing there may be missing for good (RLIMIT_NPROC).
 */

/* Most that a turn of the loop does without going round; a request counts as REQUEST_BYTES more
 * than it moves. */
#define AT_ONCE_BYTES ((uint64_t)1 << 20)
#define REQUEST_BYTES ((uint64_t)16 << 10)

#define DEFAULT_BATCH     32
#define FIRST_RETRY_NS    ((int64_t)50 * 1000)
#define LAST_RETRY_NS     ((int64_t)100 * 1000 * 1000)
#define NONBLOCK_RETRIES  8
#define NO_WORKER_RETRIES 8

static struct aio_counters *counters(AioContext *ctx)
{
    return ctx->instruments.counters;
}

/* ---- queues ---- */

void disk_queue_push(struct disk_queue *queue, struct disk_request *request)
{
    request->next = NULL;
    if (queue->first)
        queue->last->next = request;
    else
        queue->first = request;
    queue->last = request;
}

struct disk_request *disk_queue_pop(struct disk_queue *queue)
{
    struct disk_request *request = queue->first;

    if (request)
        queue->first = request->next;
    return request;
}

void disk_queue_remove(struct disk_queue *queue, struct disk_request *request)
{
    struct disk_request *before = NULL;
    struct disk_request **link = &queue->first;

    while (*link != request) {
        before = *link;
        link = &before->next;
    }
    *link = request->next;
    if (queue->last == request)
        queue->last = before;
}

/* ---- the context's part ---- */

static uint32_t effective_batch(const struct disk_state *disk)
{
    uint32_t batch = disk->max_batch ? disk->max_batch : DEFAULT_BATCH;

    return batch < disk->depth ? batch : disk->depth;
}

void disk_init(AioContext *ctx)
{
    ctx->disk.depth = ctx->io_depth;
    ctx->disk.batch = effective_batch(&ctx->disk);
    ctx->disk.kernel = &disk_kernel_real;
}

void disk_deinit(AioContext *ctx)
{
    disk_fixed_deinit(&ctx->disk.fixed);
}

void aio_context_set_aio_params(AioContext *ctx, uint32_t max_batch)
{
    ctx->disk.max_batch = max_batch;
    ctx->disk.batch = effective_batch(&ctx->disk);
}

uint32_t aio_context_aio_batch(const AioContext *ctx)
{
    return ctx->disk.batch;
}

/* ---- the completed list ---- */

static void completed_push(AioContext *ctx, struct disk_request *request)
{
    disk_queue_push(&ctx->completed, request);
    ctx->disk.n_completed++;
}

void disk_complete_held(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    assert(!request->done);
    request->result = result;
    request->done = true;
    request->place = DISK_NOWHERE;
    if (request->waits)
        completed_push(ctx, request);
}

void disk_complete(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    const struct disk_kernel *kernel = ctx->disk.kernel;

    if (!kernel->hold || !kernel->hold(ctx, request, result))
        disk_complete_held(ctx, request, result);
}

bool disk_dispatch_completed(AioContext *ctx)
{
    uint32_t n = ctx->disk.n_completed;
    bool progress = n > 0;

    /* A nested loop may have dispatched some of the n. */
    for (; n > 0 && ctx->completed.first; n--) {
        ctx->disk.n_completed--;
        aio_co_wake(disk_queue_pop(&ctx->completed)->co);
    }
    return progress;
}

/* ---- places among those in flight ---- */

/* 0, or the error of the scope that ended meanwhile. */
static int coroutine_fn take_place(struct disk_state *disk, struct disk_request *request)
{
    if (disk->n_in_flight < disk->depth) {
        disk->n_in_flight++;
        return 0;
    }
    request->place = DISK_WAITS;
    disk_queue_push(&disk->waiting, request);
    return co_wait(&request->wait, "disk queue");
}

static void give_up_place(struct disk_state *disk)
{
    struct disk_request *next = disk_queue_pop(&disk->waiting);

    if (!next) {
        disk->n_in_flight--;
        return;
    }
    next->place = DISK_NOWHERE;
    aio_co_wake(next->co);
}

/* ---- the end of a scope ---- */

static bool withdraw(struct co_wait *wait)
{
    struct disk_request *request =
        (struct disk_request *)((char *)wait - offsetof(struct disk_request, wait));
    AioContext *ctx = aio_context_current();

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
static ssize_t coroutine_fn result_in_scope(const struct disk_request *request)
{
    ssize_t r = request->result;

    if (request->was_asked && (r == -ECANCELED || r == -EINTR)) {
        int over = co_scope_status();
        return over < 0 ? over : r;
    }
    return r;
}

/* ---- one request ---- */

static void account(AioContext *ctx, const struct disk_request *request)
{
    struct aio_counters *c = counters(ctx);

    PROBE3(io_complete, request, request->op, request->result);
    counter_add(&c->io_completed, 1);
    if (request->result < 0) {
        counter_add(&c->io_failed, 1);
        recorder_note(
            &ctx->instruments, RECORDER_IO_ERROR, (uint64_t)-request->result, request->op);
    } else if (disk_is_read(request)) {
        counter_add(&c->io_read_bytes, request->result);
    } else if (disk_is_write(request)) {
        counter_add(&c->io_write_bytes, request->result);
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
    if ((disk_is_read(request) || disk_is_write(request)) && request->result > 0)
        disk->at_once_bytes += (uint64_t)request->result;
    return disk->at_once_bytes > AT_ONCE_BYTES;
}

/* With a place: from submit() to the end. */
static void coroutine_fn submit_and_wait(AioContext *ctx, struct disk_request *request)
{
    PROBE3(io_submit, request, request->op, request->fd);
    counter_add(&counters(ctx)->io_submitted, 1);
    ctx->engine->submit(ctx, request);
    if (!request->done || must_go_round(ctx, request)) {
        request->waits = true;
        if (request->done)
            completed_push(ctx, request);
        int over = co_wait(&request->wait, "disk");
        if (over < 0) {
            request->result = over;
            request->done = true;
        }
    }
    assert(request->done);
    account(ctx, request);
}

/* Runs request to its end, as the engine gives it. */
static ssize_t coroutine_fn run_once(AioContext *ctx, struct disk_request *request)
{
    request->done = request->waits = false;
    request->was_asked = request->cancel_waits = request->no_worker = false;
    request->place = DISK_NOWHERE;

    int r = take_place(&ctx->disk, request);
    if (r < 0)
        return r;
    submit_and_wait(ctx, request);
    give_up_place(&ctx->disk);
    return result_in_scope(request);
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
static ssize_t coroutine_fn run_again(AioContext *ctx, struct disk_request *request, ssize_t r)
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

/* The file behind AIO_FIXED_FD(place). A path's folder goes by its fd on every engine. */
static int resolve_fixed(AioContext *ctx, struct disk_request *request)
{
    int place = request->fd - AIO_FIXED_FD(0);
    int fd = disk_fixed_fd(&ctx->disk.fixed, request->fd);

    if (fd < 0 || request->op == DISK_CLOSE)
        return -EBADF;
    request->fd = fd;
    if (request->op != DISK_OPENAT2 && request->op != DISK_STATX)
        request->fixed_file = place;
    return 0;
}

ssize_t coroutine_fn disk_run(struct disk_request *request)
{
    AioContext *ctx = aio_context_current();

    request->co = coroutine_self();
    assert(ctx && request->co);
    request->wait.withdraw = request->op == DISK_CLOSE ? NULL : withdraw;
    request->fixed_file = -1;
    if (disk_fd_is_fixed(request->fd)) {
        int r = resolve_fixed(ctx, request);
        if (r < 0)
            return r;
    }
    ssize_t r = run_once(ctx, request);
    return r == -EINTR || r == -EAGAIN ? run_again(ctx, request, r) : r;
}
