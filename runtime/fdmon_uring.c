/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"
/*
 * An fd is watched by a POLL_ADD that completes once: it looks at the fd's state when it is
 * submitted, which makes it level-triggered. It is armed again while its completion is collected,
 * so before the callback runs: the entry is submitted by the next wait, a nested loop's too.
 * The doorbell alone is watched by a multishot poll, which reports each write and saves the entry:
 * its callback always empties it.
 *
 * Any thread may change what is watched, but only the home thread may submit: a changed handler is
 * pushed to a list that the next wait takes whole. One that is on the list already has just its
 * bits set. A handler that was taken off stays in memory while it is on the list or the kernel has
 * a poll for it, whose completion is to come (cancelled or fired, whichever was first).
 *
 * A poll holds a reference to its file, so a new file with the number of one that was closed is not
 * taken for it. But who takes an fd off and closes it relies on the file being gone: a listener's
 * port can be bound again, a peer sees the end. So the home thread ends a poll that the kernel has
 * at once, with two system calls, and past the submission queue: what has gathered there goes on
 * gathering, the polls too of handlers that have not been called yet. A handler that has fired in
 * this turn has its next poll only filled in, and costs nothing: that is who takes itself off, and
 * most coroutines that waited for an fd.
 *
 * Orderings  first       then        ordered by                        if broken
 *   GLANCE   (nothing)   changed     none: who pushes nudges, and a    a change waits for the next
 *                                    wait that blocks looks after      turn
 *                                    the fence of its notify_me
 *   MINE     (nothing)   ON_LIST     none: the loop alone clears the   a node is freed a turn later
 *                        and ARMED   two, and is who asks
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/uring.h"

/* Bits of aio_handler.submit_flags. */
enum {
    ON_LIST = 1, /* set and cleared with membership of uring.changed */
    ADD = 2,     /* to be armed */
    REMOVE = 4,  /* taken off: stays set, so that its last completion does not arm it again */
    ARMED = 8,   /* the kernel has a poll for it; home thread's */
};

/* Who sets ON_LIST pushes. Context: any thread. */
static void push_changed(struct uring *u, struct aio_handler *handler, uint32_t what)
{
    if (atomic_or_seq(&handler->submit_flags, what | ON_LIST) & ON_LIST)
        return;
    struct aio_handler *first = atomic_load_relaxed(&u->changed); /* GLANCE: the exchange checks */
    do
        handler->next_submit = first;
    while (!atomic_cas_seq(&u->changed, &first, handler));
}

/* Takes the list, first pushed first. */
static struct aio_handler *take_changed(struct uring *u)
{
    struct aio_handler *last_first = atomic_xchg_seq(&u->changed, NULL);
    struct aio_handler *list = NULL;

    while (last_first) {
        struct aio_handler *handler = last_first;

        last_first = handler->next_submit;
        handler->next_submit = list;
        list = handler;
    }
    return list;
}

/* ---- the home thread's side ---- */

static void arm(const AioContext *ctx, struct aio_handler *handler, struct io_uring_sqe *sqe)
{
    if (handler->fd == ctx->bell.fd)
        io_uring_prep_poll_multishot(sqe, handler->fd, handler->events);
    else
        io_uring_prep_poll_add(sqe, handler->fd, handler->events);
    sqe->user_data = uring_handler_tag(handler);
    handler->submit_place = uring_last_place(ctx);
    atomic_or_seq(&handler->submit_flags, ARMED);
}

/* The handler's poll completes: as cancelled, or as fired just before. */
static void disarm(struct aio_handler *handler, struct io_uring_sqe *sqe)
{
    io_uring_prep_poll_remove(sqe, uring_handler_tag(handler));
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = 0;
}

/* False where the submission queue has no room. */
static bool change(AioContext *ctx, struct aio_handler *handler, uint32_t flags)
{
    bool off = (flags & REMOVE) && (flags & ARMED);
    bool on = (flags & ADD) && !(flags & (REMOVE | ARMED));

    if (!off && !on)
        return true;
    struct io_uring_sqe *sqe = uring_get_sqe(ctx);
    if (!sqe)
        return false;
    if (on)
        arm(ctx, handler, sqe);
    else
        disarm(handler, sqe);
    return true;
}

void fdmon_uring_fill(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);
    struct aio_handler *list =
        atomic_load_relaxed(&u->changed) ? take_changed(u) : NULL; /* GLANCE */

    while (list) {
        struct aio_handler *handler = list;

        list = handler->next_submit; /* another thread may push it again after the next line */
        uint32_t flags = atomic_and_seq(&handler->submit_flags, ARMED | REMOVE);
        if (!change(ctx, handler, flags))
            push_changed(u, handler, flags & ADD);
    }
}

/* Not to be submitted before the callback has run: it would just fire once more. */
static void arm_again(AioContext *ctx, struct aio_handler *handler)
{
    struct io_uring_sqe *sqe = uring_try_sqe(ctx);

    if (sqe)
        arm(ctx, handler, sqe);
    else
        push_changed(uring_of(ctx), handler, ADD);
}

void fdmon_uring_collect(
    AioContext *ctx, struct aio_handler *handler, int32_t result, uint32_t cqe_flags)
{
    bool over = !(cqe_flags & IORING_CQE_F_MORE);
    uint32_t flags = atomic_and_seq(&handler->submit_flags, over ? ~(uint32_t)ARMED : ~(uint32_t)0);

    if (flags & REMOVE)
        return;

    bool again = result >= 0 || result == -EAGAIN || result == -ENOMEM || result == -ECANCELED;
    if (over && again)
        arm_again(ctx, handler);
    if (result > 0)
        fdmon_add_ready(ctx, handler, (uint32_t)result);
    else if (!again)
        fdmon_add_ready(ctx, handler, POLLERR); /* an fd closed while watched: let its owner see */
}

void fdmon_uring_watch_again(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    pthread_mutex_lock(&ctx->handler_lock);
    for (struct aio_handler *handler = ctx->watched; handler; handler = handler->next) {
        atomic_and_seq(&handler->submit_flags, ~(uint32_t)ARMED);
        push_changed(u, handler, ADD);
    }
    for (struct aio_handler *handler = ctx->deleted_handlers; handler; handler = handler->next)
        atomic_and_seq(&handler->submit_flags, ~(uint32_t)ARMED);
    pthread_mutex_unlock(&ctx->handler_lock);
}

/* ---- the operations ---- */

/* So that the kernel lets go of the file. Its completion comes as from any end of a poll. */
static void end_poll(AioContext *ctx, struct aio_handler *handler)
{
    uint32_t flags = atomic_or_seq(&handler->submit_flags, REMOVE);

    if (!(flags & ARMED) || !uring_is_taken(ctx, handler->submit_place) ||
        !uring_cancel_now(ctx, uring_handler_tag(handler)))
        push_changed(uring_of(ctx), handler, REMOVE);
}

static int update(AioContext *ctx, struct aio_handler *old, struct aio_handler *new_handler)
{
    struct uring *u = uring_of(ctx);

    if (new_handler) {
        int r = fdmon_check_fd(new_handler->fd);
        if (r < 0)
            return r;
    }
    if (old && !new_handler && aio_context_current() == ctx)
        end_poll(ctx, old);
    else if (old)
        push_changed(u, old, REMOVE);
    if (new_handler)
        push_changed(u, new_handler, ADD);
    return 0;
}

static bool keeps_deleted(const AioContext *ctx, const struct aio_handler *handler)
{
    return atomic_load_relaxed(&handler->submit_flags) & (ON_LIST | ARMED); /* MINE */
}

static int64_t outer_prepare(AioContext *ctx, struct fdmon_fds *ret_fds)
{
    struct uring *u = uring_of(ctx);

    u->outer = (struct pollfd){.fd = u->ring.ring_fd, .events = POLLIN};
    *ret_fds = (struct fdmon_fds){.fds = &u->outer, .n = 1};
    return uring_prepare_wait(ctx);
}

/* Memory says what the fd may not: completions that came with the submission. */
static int outer_check(AioContext *ctx, bool is_ready)
{
    return is_ready || uring_needs_wait(ctx) ? uring_wait(ctx, 0) : 0;
}

static void destroy(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    aio_sqe_deinit(ctx);
    io_uring_queue_exit(&u->ring);
    free(u);
    ctx->monitor_state = NULL;
    ctx->engine_state = NULL;
}

const struct fdmon_ops fdmon_uring_ops = {
    .monitor = AIO_MONITOR_IO_URING,
    .name = "io_uring",
    .update = update,
    .wait = uring_wait,
    .need_wait = uring_needs_wait,
    .keeps_deleted = keeps_deleted,
    .outer_setup = uring_open_for_outer_loop,
    .outer_prepare = outer_prepare,
    .outer_check = outer_check,
    .destroy = destroy,
};
