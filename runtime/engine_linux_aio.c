/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"
/*
 * linux-aio is asynchronous for files opened with O_DIRECT, and for fsync. For others io_submit()
 * does the work itself and blocks the loop while it does. So reads and writes of an fd with
 * O_DIRECT and the two syncs go to the kernel here; the rest is tried at once or goes to a worker,
 * as with the thread engine.
 *
 * Requests gather in a list until flush() submits them together. Completions raise an eventfd that
 * the monitor watches; they are read from the ring that the kernel maps for the context, without a
 * system call where its layout is the known one.
 *
 * Whenever the list is not empty after a flush, something will flush again: a completion where the
 * kernel has requests, else a timer. An error of io_submit() is the first request's: that one ends
 * with it, the others are submitted.
 *
 * Orderings   first              then              ordered by               if broken
 *   CQE       event written      tail moved on     kernel, our acquire      half of one read
 *   CQFREE    event copied       head moved on     our release, kernel      it is overwritten
 * The kernel is the other site of each.
 */
#include <assert.h>
#include <errno.h>
#include <libaio.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/disk_kernel.h"

#define RETRY_NS   ((int64_t)1000 * 1000)
#define BATCH      64
#define RING_MAGIC 0xa10a10a1u

/* The kernel's completion ring, at the address that is also the context's handle. */
struct aio_ring {
    unsigned id;
    unsigned nr;
    unsigned head;
    unsigned tail;
    unsigned magic;
    unsigned compat_features;
    unsigned incompat_features;
    unsigned header_length;
    struct io_event events[];
};

/* One request that was submitted or is about to be. */
struct slot {
    struct iocb iocb;
    struct disk_request *request;
    struct slot *next; /* free list, then the list to submit */
};

struct linux_aio {
    AioContext *ctx;
    io_context_t aio;
    int event_fd;
    AioTimer retry;
    struct slot *slots; /* as many as requests may be in flight */
    struct slot *free;
    struct slot *pending;
    struct slot **pending_last;
    uint32_t n_pending;
    uint32_t n_in_kernel;
    bool refused; /* the kernel took nothing of what it was handed last */
    bool reads_ring;
};

static struct linux_aio *state_of(AioContext *ctx)
{
    return ctx->engine_state;
}

/* ---- collecting ---- */

static void free_slot(struct linux_aio *s, struct slot *slot)
{
    slot->request = NULL;
    slot->next = s->free;
    s->free = slot;
}

static void collect_one(struct linux_aio *s, const struct io_event *event)
{
    struct slot *slot = (struct slot *)event->obj; /* the iocb is its first member */
    struct disk_request *request = slot->request;

    s->n_in_kernel--;
    free_slot(s, slot);
    ssize_t result = (long)event->res;
    disk_complete(s->ctx, request, disk_kernel_result(s->ctx->disk.kernel, request, result));
}

static void collect_from_ring(struct linux_aio *s)
{
    struct aio_ring *ring = (struct aio_ring *)s->aio;
    unsigned head = ring->head;

    while (head != atomic_load_acquire(&ring->tail)) { /* CQE */
        struct io_event event = ring->events[head];

        head = head + 1 == ring->nr ? 0 : head + 1;
        atomic_store_release(&ring->head, head); /* CQFREE */
        collect_one(s, &event);
    }
}

static void collect_by_call(struct linux_aio *s)
{
    struct io_event events[BATCH];
    struct timespec now = {0};
    int n;

    do {
        n = io_getevents(s->aio, 0, BATCH, events, &now);
        for (int i = 0; i < n; i++)
            collect_one(s, &events[i]);
    } while (n == BATCH);
}

/* ---- submitting ---- */

static struct slot *pending_pop(struct linux_aio *s)
{
    struct slot *slot = s->pending;

    s->pending = slot->next;
    if (!s->pending)
        s->pending_last = &s->pending;
    s->n_pending--;
    return slot;
}

static bool is_sync(const struct disk_request *request)
{
    return request->op == DISK_FSYNC || request->op == DISK_FDATASYNC;
}

/* The first in the list cannot be submitted. */
static void fail_first(struct linux_aio *s, int error)
{
    struct slot *slot = pending_pop(s);
    struct disk_request *request = slot->request;

    free_slot(s, slot);
    if (is_sync(request) && (error == -EINVAL || error == -EOPNOTSUPP))
        disk_submit_to_worker(s->ctx, request); /* a file system without an asynchronous one */
    else
        disk_complete(s->ctx, request, error);
}

/* Submits the first few. How many were taken, or -errno of the first. */
static int submit_batch(struct linux_aio *s)
{
    struct iocb *iocbs[BATCH];
    int n = 0;

    int most = s->ctx->disk.batch < BATCH ? (int)s->ctx->disk.batch : BATCH;
    for (struct slot *slot = s->pending; slot && n < most; slot = slot->next)
        iocbs[n++] = &slot->iocb;
    counter_add(&s->ctx->instruments.counters->io_syscalls, 1);
    int r = s->ctx->disk.kernel->io_submit(s->aio, n, iocbs);
    for (int i = 0; i < r; i++)
        pending_pop(s)->request->place = DISK_IN_KERNEL;
    if (r > 0)
        s->n_in_kernel += (uint32_t)r;
    return r;
}

static void try_again_later(struct linux_aio *s)
{
    timer_mod_ns(&s->retry, aio_clock_ns() + RETRY_NS);
}

static void flush(AioContext *ctx)
{
    struct linux_aio *s = state_of(ctx);

    while (s->pending) {
        int r = submit_batch(s);

        s->refused = r == 0 || r == -EAGAIN || r == -EINTR;
        if (s->refused) {
            if (s->n_in_kernel == 0)
                try_again_later(s);
            return;
        }
        if (r < 0)
            fail_first(s, r);
    }
}

static void on_retry(void *opaque)
{
    struct linux_aio *s = opaque;

    flush(s->ctx);
}

/* The eventfd's handler. */
static void on_events(void *opaque)
{
    struct linux_aio *s = opaque;
    uint64_t count;

    if (read(s->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    if (s->reads_ring)
        collect_from_ring(s);
    else
        collect_by_call(s);
    flush(s->ctx);
    disk_dispatch_completed(s->ctx);
}

static bool is_asynchronous(const struct disk_request *request)
{
    return is_sync(request) || disk_is_direct(request);
}

static void prepare(struct iocb *iocb, const struct disk_request *r)
{
    switch ((enum disk_op)r->op) {
    case DISK_READ:
        io_prep_pread(iocb, r->fd, r->buf, r->len, (long long)r->offset);
        break;
    case DISK_WRITE:
        io_prep_pwrite(iocb, r->fd, r->buf, r->len, (long long)r->offset);
        break;
    case DISK_READV:
        io_prep_preadv(iocb, r->fd, r->iov, r->n_iov, (long long)r->offset);
        break;
    case DISK_WRITEV:
        io_prep_pwritev(iocb, r->fd, r->iov, r->n_iov, (long long)r->offset);
        break;
    case DISK_FSYNC:
        io_prep_fsync(iocb, r->fd);
        break;
    default:
        io_prep_fdsync(iocb, r->fd);
        break;
    }
}

static void submit(AioContext *ctx, struct disk_request *request)
{
    struct linux_aio *s = state_of(ctx);

    if (!is_asynchronous(request)) {
        if (!disk_try_at_once(ctx, request))
            disk_submit_to_worker(ctx, request);
        return;
    }
    struct slot *slot = s->free; /* runtime/disk.c lets no more in flight than there are */
    assert(slot);
    s->free = slot->next;
    slot->request = request;
    slot->next = NULL;
    prepare(&slot->iocb, request);
    io_set_eventfd(&slot->iocb, s->event_fd);
    *s->pending_last = slot;
    s->pending_last = &slot->next;
    request->place = DISK_QUEUED;
    if (++s->n_pending >= ctx->disk.batch && !s->refused)
        flush(ctx);
}

/* The kernel's cannot be had back: it cancels no I/O of files. */
static bool cancel(AioContext *ctx, struct disk_request *request)
{
    struct linux_aio *s = state_of(ctx);
    struct slot **link = &s->pending;

    if (request->place != DISK_QUEUED)
        return false;
    while ((*link)->request != request)
        link = &(*link)->next;
    struct slot *slot = *link;
    *link = slot->next;
    if (!*link)
        s->pending_last = link;
    s->n_pending--;
    free_slot(s, slot);
    return true;
}

/* ---- life ---- */

static void free_state(struct linux_aio *s)
{
    if (s->event_fd >= 0)
        close(s->event_fd);
    if (s->aio)
        io_destroy(s->aio);
    free(s->slots);
    free(s);
}

static void destroy(AioContext *ctx)
{
    struct linux_aio *s = state_of(ctx);

    assert(!s->pending && s->n_in_kernel == 0);
    timer_del(&s->retry);
    aio_set_fd_handler(ctx, s->event_fd, NULL, NULL, NULL, NULL, NULL);
    ctx->engine_state = NULL;
    free_state(s);
}

static const struct engine_ops linux_aio_ops = {
    .engine = AIO_ENGINE_LINUX_AIO,
    .submit = submit,
    .flush = flush,
    .cancel = cancel,
    .destroy = destroy,
};

/* 0 or -errno; what was made stays in s. */
static int make_kernel_side(struct linux_aio *s, uint32_t io_depth)
{
    int r = io_depth <= INT_MAX ? io_setup((int)io_depth, &s->aio) : -EAGAIN;
    if (r == 0)
        r = io_submit(s->aio, 0, NULL); /* a sandbox may forbid this call alone */
    if (r < 0)
        return r;
    s->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->event_fd < 0)
        return -errno;
    const struct aio_ring *ring = (const struct aio_ring *)s->aio;
    s->reads_ring = ring->magic == RING_MAGIC && ring->incompat_features == 0;
    return 0;
}

static int watch_events(struct linux_aio *s)
{
    return aio_set_fd_handler(s->ctx, s->event_fd, on_events, NULL, NULL, NULL, s);
}

int engine_linux_aio_setup(AioContext *ctx, uint32_t io_depth)
{
    struct linux_aio *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->ctx = ctx;
    s->event_fd = -1;
    s->pending_last = &s->pending;
    int r = make_kernel_side(s, io_depth);
    if (r == 0) {
        s->slots = calloc(io_depth, sizeof(*s->slots));
        r = s->slots ? watch_events(s) : -ENOMEM;
    }
    if (r < 0) {
        free_state(s);
        return r;
    }
    for (uint32_t i = 0; i < io_depth; i++)
        free_slot(s, &s->slots[i]);
    aio_timer_init(ctx, &s->retry, on_retry, s);

    ctx->engine = &linux_aio_ops;
    ctx->engine_state = s;
    context_add_flags(ctx, s->reads_ring ? "user-space-reap" : "getevents");
    return 0;
}
