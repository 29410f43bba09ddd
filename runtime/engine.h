/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * engine - how a context does disk I/O: io_uring, linux-aio or worker threads
 *
 * Why:         coroutines call runtime/disk.h and need not know which kernel interface serves them.
 * Use:         runtime/disk.c fills a disk_request on the coroutine's stack; disk_run() calls
 *              submit(), and yields once unless the request is done already. An engine takes a
 *              request whole or refuses it by ending it with an error: a refused one is never left
 *              in a queue.
 * Concurrency: owner loop. A worker thread's completion comes in through a bottom half.
 * Lifetime:    a request belongs to the engine from submit() until disk_complete(), which comes
 *              exactly once, maybe inside submit().
 * Not here:    continuing short reads and writes (runtime/disk.c)
 *
 * No user code runs inside a harvest: disk_complete() puts the request on the context's completed
 * list, which aio_poll() runs (disk_dispatch_completed) before the bottom halves; a nested
 * aio_poll() goes on where the outer one stopped.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "runtime/co_wait.h"
#include "runtime/disk_fixed.h"
#include "runtime/pool_work.h"

struct disk_kernel;
struct open_how;
struct statx;

/* X(name, io_uring's name) */
#define DISK_OPS(X)                   \
    X(READ, IORING_OP_READ)           \
    X(WRITE, IORING_OP_WRITE)         \
    X(READV, IORING_OP_READV)         \
    X(WRITEV, IORING_OP_WRITEV)       \
    X(FSYNC, IORING_OP_FSYNC)         \
    X(FDATASYNC, IORING_OP_FSYNC)     \
    X(FALLOCATE, IORING_OP_FALLOCATE) \
    X(OPENAT2, IORING_OP_OPENAT2)     \
    X(CLOSE, IORING_OP_CLOSE)         \
    X(STATX, IORING_OP_STATX)

enum disk_op {
#define X(name, uring_name) DISK_##name,
    DISK_OPS(X)
#undef X
};

/* Where a request is, from submit() on; only its cancellation must know. */
enum disk_place {
    DISK_NOWHERE,   /* not begun, being submitted, or ended */
    DISK_WAITS,     /* for a place among those in flight */
    DISK_QUEUED,    /* in the engine's own queue */
    DISK_IN_KERNEL, /* the kernel's, or about to be */
    DISK_IN_WORKER, /* the thread pool's */
};

/*
 * Its first cache line is all that a read or write in the ring needs, and of that only the first
 * half from its completion to its wake; no request is cleared as a whole.
 */
struct disk_request {
    uint8_t op;    /* enum disk_op */
    uint8_t place; /* enum disk_place */
    bool done;
    bool waits;                /* co has yielded; else its end came inside submit() */
    bool was_asked;            /* by a scope, to end early */
    bool cancel_waits;         /* io_uring's: on its list of cancellations that found no entry */
    bool to_worker;            /* AIO_WORKER_FD() */
    bool no_worker;            /* it ended with an error because no thread could be made */
    ssize_t result;            /* count, 0 or -errno, once done */
    struct disk_request *next; /* those that wait, engine's queue, then the completed list */
    Coroutine *co;             /* who is woken by disk_dispatch_completed() if it waits */
    int fd;                    /* or dirfd; the plain one */
    int fixed_file;            /* the place where fd was registered when it began, or -1 */
    uint64_t offset;
    union {
        struct {
            void *buf;
            size_t len;
        };
        struct {
            const struct iovec *iov;
            int n_iov;
        };
        struct {
            const char *path;
            const struct open_how *how;
        };
        struct {
            uint64_t fallocate_len;
            int fallocate_mode;
        };
        struct {
            const char *statx_path;
            struct statx *statx;
        };
    };
    int statx_flags;
    unsigned statx_mask;
    struct disk_request *before; /* in a queue that requests may leave early */
    struct co_wait wait;

    /* While a worker has it. */
    struct pool_work work;
    const struct disk_kernel *kernel;
} __attribute__((aligned(64)));

/* Requests in order of coming; zero bytes are the empty queue. */
struct disk_queue {
    struct disk_request *first;
    struct disk_request *last;
};

/* What the disk calls keep in a context. Owner loop. */
struct disk_state {
    uint32_t depth; /* most requests in flight */
    uint32_t n_in_flight;
    uint32_t n_completed;      /* on the completed list */
    uint32_t max_batch;        /* asked for; 0: whatever is best */
    uint32_t batch;            /* requests to gather at most before they are submitted */
    struct disk_queue waiting; /* for a place among those in flight, first come, first served */
    uint64_t turn;             /* the turn that at_once_bytes counts for */
    uint64_t at_once_bytes;
    const struct disk_kernel *kernel;
    struct disk_fixed fixed;
};

struct engine_ops {
    enum aio_engine engine;
    /* Takes request. Submission may be deferred to flush(). */
    void (*submit)(AioContext *ctx, struct disk_request *request);
    /* Hands to the kernel what was deferred: when a turn begins, so before any wait, and after each
     * phase that ran something. NULL: nothing ever is. */
    void (*flush)(AioContext *ctx);
    /* Somebody would like request, which is queued or in the kernel, to end. True: it is the
     * caller's again, and will not be completed. False: it is completed as ever, maybe sooner and
     * with -ECANCELED. */
    bool (*cancel)(AioContext *ctx, struct disk_request *request);
    void (*destroy)(AioContext *ctx);
};

/* Before the engine is set up; ctx->io_depth is set. After it is gone. Context: whoever makes and
 * frees ctx. */
void disk_init(AioContext *ctx);
void disk_deinit(AioContext *ctx);

static inline void disk_queue_push(struct disk_queue *queue, struct disk_request *request)
{
    request->next = NULL;
    if (queue->first)
        queue->last->next = request;
    else
        queue->first = request;
    queue->last = request;
}

/* The same, for a queue that requests may leave early. */
static inline void disk_queue_push_leavable(struct disk_queue *queue, struct disk_request *request)
{
    request->before = queue->last;
    disk_queue_push(queue, request);
}

/* NULL: it is empty. */
static inline struct disk_request *disk_queue_pop(struct disk_queue *queue)
{
    struct disk_request *request = queue->first;

    if (request)
        queue->first = request->next;
    return request;
}

/* Takes out one that is in it, a queue of disk_queue_push_leavable() alone. */
void disk_queue_remove(struct disk_queue *queue, struct disk_request *request);

/* Runs a request of the current context, whose op, fd, offset and arguments are set, to its end:
 * count, 0 or -errno. Neither EINTR nor EAGAIN is seen, but for those that disk.h names. */
ssize_t coroutine_fn disk_run(struct disk_request *request);

/* Whether it is one that moves data, into memory or out of it. */
static inline bool disk_is_read(const struct disk_request *request)
{
    return request->op == DISK_READ || request->op == DISK_READV;
}

static inline bool disk_is_write(const struct disk_request *request)
{
    return request->op == DISK_WRITE || request->op == DISK_WRITEV;
}

/* Ends a request: inside submit() its coroutine just goes on; later it is put on the completed
 * list. Runs no user code. Context: owner loop. */
void disk_complete(AioContext *ctx, struct disk_request *request, ssize_t result);

/* Puts one that is done already on the completed list. Context: owner loop. */
void disk_push_completed(AioContext *ctx, struct disk_request *request);

/* For a test that held one back in disk_kernel.hold(). */
void disk_complete_held(AioContext *ctx, struct disk_request *request, ssize_t result);

/* Wakes whom the requests on the completed list belong to, not those that come meanwhile. Returns
 * progress. Context: owner loop, outside coroutines. */
bool disk_dispatch_completed(AioContext *ctx);

/* Whether request moves data of an fd with O_DIRECT, which is never in memory. */
bool disk_is_direct(const struct disk_request *request);

/* Ends request without a system call that can block, where all it needs is in memory; false where
 * that cannot be told or is not so. Not for one that is direct. Context: owner loop. */
bool disk_try_at_once(AioContext *ctx, struct disk_request *request);

/* Runs request in a worker: what an engine cannot do itself. Context: owner loop. */
void disk_submit_to_worker(AioContext *ctx, struct disk_request *request);

/* Sets ctx->engine. 0 or -errno. io_uring's comes with its monitor. */
int engine_linux_aio_setup(AioContext *ctx, uint32_t io_depth);
int engine_threads_setup(AioContext *ctx);
