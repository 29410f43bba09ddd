/* SPDX-License-Identifier: MIT */
#include "runtime/uring.h"
/*
 * liburing makes and maps the ring; entries are filled and completions read here, because its
 * submit and wait calls hide what this loop must tell apart (EINTR, EAGAIN, how many were taken).
 *
 * The ring is made disabled, in whichever thread makes the context, and enabled by its first use,
 * which is the home thread's: SINGLE_ISSUER binds it to the thread that enables it. Its fd is not
 * registered with the thread (IORING_REGISTER_RING_FDS saves some 10 ns a call): that number is the
 * thread's, and a context freed in another thread would unregister that one's.
 *
 * With DEFER_TASKRUN nothing is completed outside a call with IORING_ENTER_GETEVENTS, so each wait
 * has it. TASKRUN_FLAG makes the kernel say in memory that such a call is due: looking costs no
 * system call. A full completion queue is said there too, and the same call empties the backlog.
 *
 * In somebody else's loop (gsource.c) the ring's fd must become readable with each completion. With
 * DEFER_TASKRUN it does not: the kernel wakes the one that waits in io_uring_enter() and nobody
 * else (Linux 6.18, and an eventfd registered with the ring is signalled once at most for polls of
 * eventfds). So there the ring is opened anew without it, before it has anything under way.
 *
 * The life fd (aio.h) is held by the ring alone, as a registered file: the kernel lets go of its
 * files when the last request has ended, long after the process may be gone. There is one table for
 * all files, and one that is taken off and made anew would let go of it in between, so the table is
 * made once, of a fixed size, and the program's files (aio_register.c) are put into it. A process
 * that dies before the plain fd is closed has nothing in flight.
 *
 * Where the kernel takes nothing (EAGAIN, ENOMEM: no memory; EBUSY: backlog), what was filled
 * stays, and until it takes something waits end after RETRY_NS: nothing else might wake the loop to
 * try again.
 *
 * Orderings   first                then                 ordered by             if broken
 *   SQE       entry filled         tail published       our release, kernel    half an entry run
 *   SQFREE    entry read           head moved on        kernel, our acquire    it is overwritten
 *   CQE       completion written   tail moved on        kernel, our acquire    half of one read
 *   CQFREE    completion copied    head moved on        our release, kernel    it is overwritten
 *   GLANCE    (nothing)            flags, changed       none: a wait that      a turn finds nothing
 *                                                       blocks looks at all    and the next does
 * The kernel is the other site of each, for `changed` fdmon_uring.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/disk_kernel.h"
#include "runtime/kernel.h"

#define LONGEST_PAUSE_MS 128 /* of pauses that double: a quarter of a second in all */
#define SQ_ENTRIES       256
#define CQ_ENTRIES       1024 /* and two for each disk request, where that is more */
#define MOST_CQ_ENTRIES  65536
#define RETRY_NS         ((int64_t)1000 * 1000)
#define N_PROBED         64 /* operations: the bits of supported_ops */

/* From best to plain; the first that the kernel takes. */
static const struct {
    unsigned flags;
    const char *name;
} flavours[] = {
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        "single-issuer defer-taskrun"},
    {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        "coop-taskrun"},
    {IORING_SETUP_SUBMIT_ALL, "submit-all"},
    {0, "plain"},
};

static unsigned n_unsubmitted(const struct uring *u)
{
    return u->sqe_tail - atomic_load_acquire(u->ring.sq.khead); /* SQFREE */
}

static unsigned n_to_collect(const struct uring *u)
{
    return atomic_load_acquire(u->ring.cq.ktail) - *u->ring.cq.khead; /* CQE */
}

static bool kernel_has_more(const struct uring *u)
{
    return atomic_load_relaxed(u->ring.sq.kflags) & /* GLANCE */
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* ---- submitting ---- */

static int enable(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    if (u->enabled)
        return 0;
    /* Debian's liburing does not export io_uring_enable_rings(). */
    int r = io_uring_register(u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (r < 0)
        return r;
    u->enabled = ctx->is_bound = true;
    return 0;
}

/* For now: the same may go well later. */
static bool is_refusal(int r)
{
    return r == -EAGAIN || r == -EBUSY || r == -ENOMEM;
}

/* What is in memory has ended when the call returns. */
static void note_handed(struct uring *u, int r)
{
    u->refused = r == 0 || is_refusal(r);
    if (u->n_disk > 0)
        u->disk_is_slow = u->n_disk > n_to_collect(u);
}

/* io_uring_enter() with what was filled. How many were taken, or -errno. */
static int enter(AioContext *ctx, unsigned to_submit, unsigned min_complete, unsigned flags,
    struct io_uring_getevents_arg *arg)
{
    struct uring *u = uring_of(ctx);
    int r = enable(ctx);

    if (r < 0)
        return r;
    if (to_submit > 0) {
        atomic_store_release(u->ring.sq.ktail, u->sqe_tail); /* SQE */
        counter_add(&ctx->instruments.counters->io_syscalls, 1);
        u->n_filled = 0;
    }
    r = ctx->disk.kernel->uring_enter(
        u->ring.ring_fd, to_submit, min_complete, flags, arg, arg ? sizeof(*arg) : 0);
    if (to_submit > 0)
        note_handed(u, r);
    return r;
}

/* An idle loop is no load on the disks: only a wait for one counts as such. */
static unsigned wait_flags(const struct uring *u)
{
    return IORING_ENTER_GETEVENTS | (u->n_disk == 0 ? u->enter_flags : 0);
}

void uring_submit(AioContext *ctx)
{
    unsigned n = n_unsubmitted(uring_of(ctx));

    if (n > 0)
        enter(ctx, n, 0, 0, NULL);
}

unsigned uring_last_place(const AioContext *ctx)
{
    return uring_of(ctx)->sqe_tail - 1;
}

bool uring_is_taken(const AioContext *ctx, unsigned place)
{
    const struct uring *u = uring_of(ctx);
    unsigned n = n_unsubmitted(u);

    return place - (u->sqe_tail - n) >= n;
}

bool uring_cancel_now(AioContext *ctx, uint64_t tag)
{
    struct uring *u = uring_of(ctx);
    struct io_uring_sync_cancel_reg wanted = {
        .addr = tag, .fd = -1, .timeout = {.tv_sec = -1, .tv_nsec = -1}};
    int r = io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_SYNC_CANCEL, &wanted, 1);

    if (r < 0 && r != -ENOENT)
        return false;
    if (kernel_has_more(u))
        enter(ctx, 0, 0, wait_flags(u), NULL);
    return true;
}

static struct io_uring_sqe *next_sqe(struct uring *u)
{
    if (n_unsubmitted(u) == u->ring.sq.ring_entries)
        return NULL;
    return &u->ring.sq.sqes[u->sqe_tail++ & u->ring.sq.ring_mask];
}

static struct io_uring_sqe *cleared(struct io_uring_sqe *sqe)
{
    return sqe ? memset(sqe, 0, sizeof(*sqe)) : NULL;
}

struct io_uring_sqe *uring_try_sqe(AioContext *ctx)
{
    return cleared(next_sqe(uring_of(ctx)));
}

struct io_uring_sqe *uring_get_used_sqe(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    if (n_unsubmitted(u) == u->ring.sq.ring_entries && !u->refused)
        uring_submit(ctx);
    return next_sqe(u);
}

struct io_uring_sqe *uring_get_sqe(AioContext *ctx)
{
    return cleared(uring_get_used_sqe(ctx));
}

void uring_put_back_sqe(AioContext *ctx)
{
    uring_of(ctx)->sqe_tail--;
}

/* ---- registering ---- */

/* Whether the kernel now has all that was begun. */
static bool submit_all(AioContext *ctx)
{
    const struct uring *u = uring_of(ctx);
    unsigned n;

    do {
        engine_uring_fill(ctx);
        aio_sqe_fill(ctx);
        n = n_unsubmitted(u);
        uring_submit(ctx);
    } while (n_unsubmitted(u) < n);
    return n == 0;
}

int uring_register(AioContext *ctx, unsigned opcode, const void *arg, unsigned n)
{
    struct uring *u = uring_of(ctx);
    int r = enable(ctx);

    if (r < 0)
        return r;
    if (!submit_all(ctx))
        return -EAGAIN;
    return io_uring_register((unsigned)u->ring.ring_fd, opcode, arg, n);
}

/* ---- waiting and collecting ---- */

/* False where the completion must stay in the ring for now. */
static bool collect_one(AioContext *ctx, const struct io_uring_cqe *cqe)
{
    uintptr_t object = (uintptr_t)(cqe->user_data & ~URING_TAG_MASK);

    switch (cqe->user_data & URING_TAG_MASK) {
    case URING_TAG_HANDLER:
        fdmon_uring_collect(ctx, (struct aio_handler *)object, cqe->res, cqe->flags);
        return true;
    case URING_TAG_CQE_HANDLER:
        return aio_sqe_collect(ctx, (AioCqeHandler *)object, cqe->res, cqe->flags);
    default:
        if (object)
            engine_uring_collect(ctx, (struct disk_request *)object, cqe->res);
        return true;
    }
}

/* No callback runs here, and nothing is submitted: the head moves once for all. */
static void collect_all(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);
    unsigned head = *u->ring.cq.khead;
    unsigned tail = atomic_load_acquire(u->ring.cq.ktail); /* CQE */

    if (head == tail)
        return;
    while (head != tail && collect_one(ctx, &u->ring.cq.cqes[head & u->ring.cq.ring_mask]))
        head++;
    atomic_store_release(u->ring.cq.khead, head); /* CQFREE */
}

static int enter_and_wait(AioContext *ctx, int64_t timeout_ns)
{
    struct uring *u = uring_of(ctx);
    unsigned to_submit = n_unsubmitted(u);
    bool blocking = timeout_ns != 0;

    if (u->refused && to_submit > 0 && blocking) {
        /* With something to submit the call would fail again at once instead of waiting. */
        to_submit = 0;
        u->refused = false;
        if (timeout_ns < 0 || timeout_ns > RETRY_NS)
            timeout_ns = RETRY_NS;
    }
    if (!blocking || timeout_ns < 0)
        return enter(ctx, to_submit, blocking, wait_flags(u), NULL);

    struct __kernel_timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
    return enter(ctx, to_submit, 1, wait_flags(u) | IORING_ENTER_EXT_ARG, &arg);
}

static void fill_all(AioContext *ctx)
{
    fdmon_uring_fill(ctx);
    engine_uring_fill(ctx);
    aio_sqe_fill(ctx);
}

int uring_wait(AioContext *ctx, int64_t timeout_ns)
{
    struct uring *u = uring_of(ctx);
    int r = 0;

    fill_all(ctx);
    if (timeout_ns != 0 && (n_to_collect(u) > 0 || context_has_completions(ctx)))
        timeout_ns = 0; /* submitting a batch may have completed it */
    if (timeout_ns != 0 || n_unsubmitted(u) > 0 || kernel_has_more(u))
        r = enter_and_wait(ctx, timeout_ns);
    collect_all(ctx);
    return r >= 0 || r == -ETIME || r == -EINTR || is_refusal(r) ? 0 : r;
}

bool uring_needs_wait(const AioContext *ctx)
{
    const struct uring *u = uring_of(ctx);

    return n_to_collect(u) > 0 || n_unsubmitted(u) > 0 || u->pending.first || u->cancelling ||
           u->sqes_waiting || u->cancels_waiting || kernel_has_more(u) ||
           atomic_load_relaxed(&u->changed); /* GLANCE */
}

int64_t uring_prepare_wait(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    fill_all(ctx);
    uring_submit(ctx);
    if (n_unsubmitted(u) > 0 && u->refused && n_to_collect(u) == 0 && !kernel_has_more(u))
        return RETRY_NS;
    return uring_needs_wait(ctx) ? 0 : -1;
}

bool uring_is_in(const AioContext *ctx)
{
    return ctx->monitor == &fdmon_uring_ops;
}

/* ---- life ---- */

static void make_identity(struct io_uring_sq *sq)
{
    for (unsigned i = 0; i < sq->ring_entries; i++)
        sq->array[i] = i;
}

static unsigned cq_entries(const AioContext *ctx)
{
    uint32_t depth = ctx->disk.depth < MOST_CQ_ENTRIES / 2 ? ctx->disk.depth : MOST_CQ_ENTRIES / 2;

    return depth > CQ_ENTRIES / 2 ? depth * 2 : CQ_ENTRIES;
}

/*
 * What a ring locks counts against RLIMIT_MEMLOCK of an ordinary user, and the kernel takes apart
 * the ring of a context or process that has ended a little after its end. A replacement must not do
 * with a lesser engine, or not start, for that.
 */
static int init_ring(struct io_uring *ring, struct io_uring_params *params)
{
    struct io_uring_params wanted = *params;
    int r = io_uring_queue_init_params(SQ_ENTRIES, ring, params);

    for (long pause_ms = 1; r == -ENOMEM && pause_ms <= LONGEST_PAUSE_MS; pause_ms *= 2) {
        nanosleep(&(struct timespec){.tv_nsec = pause_ms * 1000000}, NULL);
        *params = wanted;
        r = io_uring_queue_init_params(SQ_ENTRIES, ring, params);
    }
    return r;
}

/* Makes the ring with the best flags that the kernel takes; with for_outer_loop, such that its fd
 * tells of each completion. 0 or -errno. */
static int make_ring(AioContext *ctx, struct uring *u, bool for_outer_loop, const char **ret_name)
{
    int r = -EINVAL;

    for (size_t i = ctx->lesser_flags; i < sizeof(flavours) / sizeof(flavours[0]) && r == -EINVAL;
         i++) {
        struct io_uring_params params = {
            .flags = flavours[i].flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE |
                     IORING_SETUP_CLAMP,
            .cq_entries = cq_entries(ctx),
        };

        if (for_outer_loop && (params.flags & IORING_SETUP_DEFER_TASKRUN))
            continue;
        r = init_ring(&u->ring, &params);
        if (r < 0)
            continue;
        *ret_name = flavours[i].name;
        make_identity(&u->ring.sq);
        u->enter_flags = params.features & IORING_FEAT_NO_IOWAIT ? IORING_ENTER_NO_IOWAIT : 0;
        if ((params.features & IORING_FEAT_EXT_ARG) && (params.features & IORING_FEAT_NODROP))
            return 0;
        io_uring_queue_exit(&u->ring);
        return -ENOSYS;
    }
    return r;
}

static int probe_ops(struct io_uring *ring, uint64_t *ret_ops)
{
    struct io_uring_probe *probe = calloc(1, sizeof *probe + N_PROBED * sizeof *probe->ops);
    if (!probe)
        return -ENOMEM;
    int r = io_uring_register_probe(ring, probe, N_PROBED);
    uint64_t ops = 0;

    for (int op = 0; op < N_PROBED; op++)
        ops |= (uint64_t)(io_uring_opcode_supported(probe, op) != 0) << op;
    free(probe);
    if (r >= 0)
        *ret_ops = ops;
    return r;
}

/* A sandbox may let a ring be made, and forbid the calls that use it. The ring is disabled still,
 * which the kernel says (EBADFD) where the call gets through to it. */
static int check_calls(struct uring *u)
{
    int r = io_uring_enter((unsigned)u->ring.ring_fd, 0, 0, 0, NULL);

    return r < 0 && r != -EBADFD ? r : probe_ops(&u->ring, &u->supported_ops);
}

/* The kernel takes no larger table than there may be files open. */
static uint32_t guarded_places(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < AIO_MOST_GUARDED_FILES + 1)
        return (uint32_t)limit.rlim_cur;
    return AIO_MOST_GUARDED_FILES + 1;
}

/* The ring takes the life fd over. It is disabled still, so any thread may do this. */
static int guard(AioContext *ctx, struct uring *u)
{
    uint32_t n = guarded_places();
    struct io_uring_rsrc_register table = {.nr = n, .flags = IORING_RSRC_REGISTER_SPARSE};
    struct io_uring_files_update last = {.offset = n - 1, .fds = (uintptr_t)&ctx->life_fd};
    unsigned ring_fd = (unsigned)u->ring.ring_fd;
    int r;

    if (!ctx->life_fd)
        return 0;
    r = io_uring_register(ring_fd, IORING_REGISTER_FILES2, &table, sizeof(table));
    if (r >= 0)
        r = io_uring_register(ring_fd, IORING_REGISTER_FILES_UPDATE, &last, 1);
    if (r != 1)
        return r < 0 ? r : -ENOMEM;
    u->n_places = n;
    return 0;
}

/* Requests under way, files or buffers that it knows. */
static bool has_more_than_polls(const AioContext *ctx)
{
    const struct uring *u = uring_of(ctx);

    return u->n_disk > 0 || u->n_added > 0 || u->n_places > 0 || ctx->disk.fixed.fds ||
           ctx->disk.fixed.buffers;
}

int uring_open_for_outer_loop(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);
    struct uring fresh = {0};
    const char *name;

    if (!(u->ring.flags & IORING_SETUP_DEFER_TASKRUN))
        return 0;
    if (has_more_than_polls(ctx))
        return -EBUSY;
    int r = make_ring(ctx, &fresh, true, &name);
    if (r < 0)
        return r;
    fresh.supported_ops = u->supported_ops;
    r = ctx->restricted ? uring_restrict(&fresh) : 0;
    if (r < 0) {
        io_uring_queue_exit(&fresh.ring);
        return r;
    }
    /* What was filled is polls alone, which all are made again. */
    collect_all(ctx);
    io_uring_queue_exit(&u->ring);
    u->ring = fresh.ring;
    u->enter_flags = fresh.enter_flags;
    u->sqe_tail = 0;
    u->enabled = u->refused = false;
    fdmon_uring_watch_again(ctx);
    context_add_flags(ctx, name);
    return 0;
}

int fdmon_uring_setup(AioContext *ctx)
{
    const char *name;
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    int r = make_ring(ctx, u, false, &name);
    if (r < 0) {
        free(u);
        return r;
    }
    r = check_calls(u);
    if (r == 0)
        r = guard(ctx, u);
    if (r == 0 && ctx->restricted)
        r = uring_restrict(u);
    if (r < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return r;
    }
    u->sqes_waiting_last = &u->sqes_waiting;

    ctx->monitor = &fdmon_uring_ops;
    ctx->monitor_state = u;
    ctx->engine = &engine_uring_ops;
    ctx->engine_state = u;
    context_add_flags(ctx, name);
    return 0;
}
