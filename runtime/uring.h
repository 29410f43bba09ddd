/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * uring - the one io_uring of a context: fds and disk in one wait
 *
 * Why:         a loop that waits for both sleeps in one call, and hands over in that call what it
 *              has gathered since the last.
 * Use:         sqe = uring_get_sqe(ctx); fill it; sqe->user_data = uring_handler_tag(handler), or
 *              uring_request_tag(request), or 0 for what nobody asks about. It is submitted by the
 *              next uring_wait(), or by uring_submit().
 * Concurrency: owner loop, but for the list of changed handlers, which any thread pushes to.
 * Lifetime:    made with the context in any thread; bound to the home thread by its first use.
 * Not here:    what a completion means (fdmon_uring.c, engine_uring.c)
 */
#include <liburing.h>
#include <poll.h>

#include "runtime/aio_sqe.h"
#include "runtime/context.h"

/* A completion of an entry of the program's. */
struct uring_cqe {
    AioCqeHandler *handler;
    int32_t result;
    uint32_t flags;
};

/* Those collected and not yet dispatched: a queue in an array, whose size is a power of two. */
struct uring_ready {
    struct uring_cqe *cqes;
    uint32_t capacity;
    uint32_t head;
    uint32_t tail;
};

struct uring {
    struct io_uring ring; /* for its mapping; its own counters are not used */
    unsigned sqe_tail;    /* entries filled, published or not */
    unsigned enter_flags; /* that this kernel knows */
    bool enabled;
    uint32_t n_places;               /* of its table of files, where life_fd has the last; or 0 */
    bool refused;                    /* the kernel took nothing of what it was handed last */
    bool disk_is_slow;               /* it had disk requests to wait for when it was handed some */
    uint32_t n_disk;                 /* disk requests in the ring or the kernel */
    uint32_t n_filled;               /* of those and the program's, since the last submission */
    uint32_t n_added;                /* entries of the program's that have not ended */
    uint32_t n_misses;               /* reads tried at once in vain, in a row, up to a few */
    uint32_t n_to_skip;              /* reads not to be tried at once */
    uint64_t supported_ops;          /* a bit for each IORING_OP_ below 64 */
    struct disk_queue pending;       /* requests that found the submission queue full */
    struct disk_request *cancelling; /* in the kernel, whose cancellation found it full */
    struct aio_handler *changed;     /* atomic: handlers to watch or to take off */
    struct pollfd outer;             /* the ring's fd, for an outer loop */

    /* aio_sqe.c's */
    struct uring_ready ready;
    AioCqeHandler *sqes_waiting; /* found the submission queue full */
    AioCqeHandler **sqes_waiting_last;
    AioCqeHandler *cancels_waiting;
};

/* Whether ctx has a ring. */
bool uring_is_in(const AioContext *ctx);

static inline struct uring *uring_of(const AioContext *ctx)
{
    return ctx->monitor_state;
}

/* An entry, all zero; NULL where the queue is full. Submits nothing. */
struct io_uring_sqe *uring_try_sqe(AioContext *ctx);

/* As above, but makes room by submitting; NULL where the kernel takes none now. */
struct io_uring_sqe *uring_get_sqe(AioContext *ctx);

/* As that, with whatever an earlier one left in it: for who sets every field. */
struct io_uring_sqe *uring_get_used_sqe(AioContext *ctx);

/* The entry got last is not to be used. */
void uring_put_back_sqe(AioContext *ctx);

/* Submits what was filled, without waiting. */
void uring_submit(AioContext *ctx);

/* The place in the submission queue of the entry got last, and whether the kernel has taken the one
 * that was there: places are used anew after 2^32 entries, and an older one may then seem not to
 * be. */
unsigned uring_last_place(const AioContext *ctx);
bool uring_is_taken(const AioContext *ctx, unsigned place);

/* Ends what the kernel has under way with this tag, and whatever that held, without submitting
 * anything; its completion is collected by the next wait. False where it can't. */
bool uring_cancel_now(AioContext *ctx, uint64_t tag);

/* io_uring_register(), in the home thread, once all that was begun is submitted: the kernel looks
 * up a place of a table when it takes the entry. A count or 0, or -errno; -EAGAIN where it takes
 * none now. */
int uring_register(AioContext *ctx, unsigned opcode, const void *arg, unsigned n);

/* How many files the program may register in a table that is there from the start, or 0: none
 * is. */
static inline uint32_t uring_guarded_places(const struct uring *u)
{
    return u->n_places ? u->n_places - 1 : 0;
}

/* Submits, waits up to timeout_ns (-1: for ever) for a completion, and collects all there are. 0 or
 * -errno; a signal and the end of the time are 0. */
int uring_wait(AioContext *ctx, int64_t timeout_ns);

/* Submits what was filled, for a wait elsewhere on the ring's fd; see fdmon_ops.outer_prepare. */
int64_t uring_prepare_wait(AioContext *ctx);

/* Makes the ring's fd tell of each completion. 0, or -errno: -EBUSY where requests are under way,
 * or files or buffers registered. Context: owner loop, or before its first turn. */
int uring_open_for_outer_loop(AioContext *ctx);

/* Whether uring_wait() has something to do or to collect. No system call. */
bool uring_needs_wait(const AioContext *ctx);

/* While the ring is disabled: it takes only what is on a list, and supported_ops says so. 0 or
 * -errno. */
int uring_restrict(struct uring *u);

/* What a completion is for. All three kinds of object are aligned, so two bits are free. */
#define URING_TAG_HANDLER     1ULL
#define URING_TAG_CQE_HANDLER 2ULL
#define URING_TAG_MASK        3ULL

static inline uint64_t uring_handler_tag(const struct aio_handler *handler)
{
    return (uint64_t)(uintptr_t)handler | URING_TAG_HANDLER;
}

static inline uint64_t uring_cqe_handler_tag(const AioCqeHandler *handler)
{
    return (uint64_t)(uintptr_t)handler | URING_TAG_CQE_HANDLER;
}

static inline uint64_t uring_request_tag(const struct disk_request *request)
{
    return (uint64_t)(uintptr_t)request;
}

/* Collect one completion. False: there is no room for it now, so it stays in the ring. */
bool aio_sqe_collect(AioContext *ctx, AioCqeHandler *handler, int32_t result, uint32_t cqe_flags);

/* As that, but with no such limit. */
void fdmon_uring_collect(
    AioContext *ctx, struct aio_handler *handler, int32_t result, uint32_t cqe_flags);
void engine_uring_collect(AioContext *ctx, struct disk_request *request, int32_t result);

/* All polls are gone with the ring they were in: makes them anew. */
void fdmon_uring_watch_again(AioContext *ctx);

/* Moves what waits for a place in the submission queue into it. */
void fdmon_uring_fill(AioContext *ctx);
void engine_uring_fill(AioContext *ctx);
void aio_sqe_fill(AioContext *ctx);

/* Frees what aio_sqe.c keeps; aborts where an entry of the program's is under way. */
void aio_sqe_deinit(AioContext *ctx);

extern const struct fdmon_ops fdmon_uring_ops;
extern const struct engine_ops engine_uring_ops;
