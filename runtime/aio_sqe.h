/* SPDX-License-Identifier: MIT */
#ifndef SHERD_AIO_SQE_H
#define SHERD_AIO_SQE_H
/*
 * aio_sqe - operations of io_uring that the program makes itself, on its context's ring
 *
 * Why:         io_uring can do more than files and readiness (splice, recv into provided buffers,
 *              futexes, commands to devices); a second ring would cost a system call a turn.
 * Use:         static void prepare(struct io_uring_sqe *sqe, void *opaque)
 *              {
 *                  io_uring_prep_splice(sqe, …);       <liburing.h>
 *              }
 *              int r = co_uring_op(prepare, &arguments, NULL);      in a coroutine; or
 *              handler->cb = on_done;
 *              int r = aio_add_sqe(prepare, &arguments, handler);
 * Concurrency: the current context's home thread, all of it.
 * Lifetime:    the handler, and whatever the entry points to, stay valid until the handler has
 *              been called for the last time; that call may free or use it again. A context that
 *              is freed before aborts.
 * Not here:    files (sherd/disk.h) and readiness of fds (sherd/aio.h), which work on every engine
 *
 * Entries are handed to the kernel in the order of the calls, in batches: by the next wait of the
 * loop, or earlier where many have gathered. Where the submission queue is full an entry waits its
 * turn; nobody has to try again.
 *
 * An entry's flags may be IOSQE_FIXED_FILE, IOSQE_ASYNC and IOSQE_BUFFER_SELECT. Links and drains
 * would take in entries that are not the program's own, and an entry without a completion would
 * never be done: those are refused.
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct io_uring_sqe;

/* Fills an entry, which is all zero. Called once, before aio_add_sqe() returns. Its user_data is
 * the loop's. It must neither yield nor call the loop. */
typedef void AioSqeFunc(struct io_uring_sqe *sqe, void *opaque);

typedef struct AioCqeHandler AioCqeHandler;

/*
 * An entry has completed: result and flags are the completion's (a count or -errno;
 * IORING_CQE_F_…). Called by the loop, never while it collects completions, so it may do what any
 * callback may. An entry that completes several times (multishot, zero-copy send) has a call for
 * each, in order; all but the last have IORING_CQE_F_MORE. Context: owner loop.
 */
typedef void AioCqeFunc(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags);

/* Embed it and set cb; the other fields are the loop's, and need no initial value. */
struct AioCqeHandler {
    AioCqeFunc *cb;
    AioContext *ctx;
    AioCqeHandler *next;        /* of those that wait for a place in the submission queue */
    AioCqeHandler *next_cancel; /* of those whose cancellation does */
    bool waits;
    bool cancel_waits;
    uint64_t entry[8]; /* what was filled in, while it waits */
};

/* Whether the current context has a ring, so that the calls below can work. Context: owner loop |
 * coroutine. */
bool aio_has_io_uring(void);

/*
 * Fills an entry of the current context's ring, to be submitted. 0; -ENOTSUP: this context has no
 * io_uring; -EINVAL: the entry has flags that are not allowed; -ENOMEM. On an error the handler is
 * not called. What the kernel thinks of the entry comes as its result. Context: owner loop |
 * coroutine.
 */
int aio_add_sqe(AioSqeFunc *prep, void *opaque, AioCqeHandler *handler);

/*
 * Asks for the end of an entry that was added and has not completed for the last time. The handler
 * is called as ever, with -ECANCELED where that came in time. Context: owner loop | coroutine.
 */
void aio_cancel_sqe(AioCqeHandler *handler);

/*
 * aio_add_sqe() and the wait for its end. Returns the (first) result, and in *ret_flags, which may
 * be NULL, its flags; or an error of aio_add_sqe(). An entry that completes several times is waited
 * for to the last, so a zero-copy send's buffer is free again; a multishot ends only with a scope.
 * The end of a scope (sherd/co_cancel.h) cancels the operation: -ECANCELED or -ETIMEDOUT where that
 * came in time.
 */
int coroutine_fn co_uring_op(AioSqeFunc *prep, void *opaque, uint32_t *ret_flags);

#ifdef __cplusplus
}
#endif
#endif
