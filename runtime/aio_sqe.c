/* SPDX-License-Identifier: MIT */
#include "runtime/aio_sqe.h"
/*
 * Completions are copied from the ring into a queue of the context (uring.ready), by the harvest,
 * and the handlers are called from there by the turn: a callback may run a nested loop, which goes
 * on with the queue where the outer one stopped. The queue holds completions, not handlers, because
 * a handler may have several at once (multishot). It grows by need; where there is no memory for
 * that the harvest leaves completions in the ring, to go on when some were dispatched.
 *
 * An entry that finds the submission queue full is kept in its handler, in a list of those that
 * wait; whoever comes later queues behind, so they stay in order. A cancellation that finds it full
 * waits in a list of its own, from which the entry's last completion takes it.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/co_wait.h"
#include "runtime/uring.h"

#define FIRST_READY   64
#define ALLOWED_FLAGS (IOSQE_FIXED_FILE | IOSQE_ASYNC | IOSQE_BUFFER_SELECT)

static_assert(sizeof(((AioCqeHandler *)0)->entry) == sizeof(struct io_uring_sqe),
    "a handler keeps an entry whole");

/* ---- the queue of completions ---- */

static int ready_grow(struct uring_ready *ready)
{
    uint32_t capacity = ready->capacity ? ready->capacity * 2 : FIRST_READY;
    struct uring_cqe *cqes = malloc(capacity * sizeof *cqes);

    if (!cqes)
        return -ENOMEM;
    for (uint32_t i = ready->head; i != ready->tail; i++)
        cqes[i & (capacity - 1)] = ready->cqes[i & (ready->capacity - 1)];
    free(ready->cqes);
    ready->cqes = cqes;
    ready->capacity = capacity;
    return 0;
}

static bool ready_is_full(const struct uring_ready *ready)
{
    return ready->tail - ready->head == ready->capacity;
}

bool aio_sqe_collect(AioContext *ctx, AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct uring_ready *ready = &uring_of(ctx)->ready;

    if (ready_is_full(ready) && ready_grow(ready) < 0)
        return false;
    ready->cqes[ready->tail++ & (ready->capacity - 1)] =
        (struct uring_cqe){.handler = handler, .result = result, .flags = cqe_flags};
    ctx->n_cqes++;
    return true;
}

static void forget_cancel(struct uring *u, AioCqeHandler *handler)
{
    AioCqeHandler **link = &u->cancels_waiting;

    while (*link != handler)
        link = &(*link)->next_cancel;
    *link = handler->next_cancel;
    handler->cancel_waits = false;
}

bool aio_sqe_dispatch(AioContext *ctx)
{
    if (ctx->n_cqes == 0)
        return false;
    struct uring *u = uring_of(ctx);
    uint32_t end = u->ready.tail; /* what comes meanwhile waits for the next turn */

    /* A nested loop may have gone beyond the end. */
    while ((int32_t)(end - u->ready.head) > 0) {
        struct uring_cqe cqe = u->ready.cqes[u->ready.head++ & (u->ready.capacity - 1)];

        ctx->n_cqes--;
        if (!(cqe.flags & IORING_CQE_F_MORE)) {
            u->n_added--;
            if (cqe.handler->cancel_waits)
                forget_cancel(u, cqe.handler);
        }
        cqe.handler->cb(cqe.handler, cqe.result, cqe.flags);
    }
    return true;
}

void aio_sqe_deinit(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    if (u->n_added > 0)
        bug("a context ends with %u entries of aio_add_sqe() under way", u->n_added);
    free(u->ready.cqes);
}

/* ---- places in the submission queue ---- */

static bool fill_cancel(AioContext *ctx, const AioCqeHandler *handler)
{
    struct io_uring_sqe *sqe = uring_get_sqe(ctx);

    if (!sqe)
        return false;
    io_uring_prep_cancel64(sqe, uring_cqe_handler_tag(handler), 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = 0;
    return true;
}

void aio_sqe_fill(AioContext *ctx)
{
    struct uring *u = uring_of(ctx);

    while (u->sqes_waiting) {
        AioCqeHandler *handler = u->sqes_waiting;
        struct io_uring_sqe *sqe = uring_get_sqe(ctx);

        if (!sqe)
            return;
        memcpy(sqe, handler->entry, sizeof *sqe);
        u->sqes_waiting = handler->next;
        handler->waits = false;
    }
    u->sqes_waiting_last = &u->sqes_waiting;

    /* After all entries: each is cancelled behind its own. */
    while (u->cancels_waiting && fill_cancel(ctx, u->cancels_waiting))
        forget_cancel(u, u->cancels_waiting);
}

static void wait_for_place(struct uring *u, AioCqeHandler *handler)
{
    handler->waits = true;
    handler->next = NULL;
    *u->sqes_waiting_last = handler;
    u->sqes_waiting_last = &handler->next;
}

/* ---- the calls ---- */

bool aio_has_io_uring(void)
{
    const AioContext *ctx = aio_context_current();

    return ctx && uring_is_in(ctx);
}

int aio_add_sqe(AioSqeFunc *prep, void *opaque, AioCqeHandler *handler)
{
    AioContext *ctx = aio_context_current();

    assert(ctx);
    if (!uring_is_in(ctx))
        return -ENOTSUP;
    struct uring *u = uring_of(ctx);
    if (u->ready.capacity == 0 && ready_grow(&u->ready) < 0)
        return -ENOMEM;

    struct io_uring_sqe *place = u->sqes_waiting ? NULL : uring_get_sqe(ctx);
    struct io_uring_sqe *sqe = place ? place : memset(handler->entry, 0, sizeof handler->entry);
    prep(sqe, opaque);
    if (sqe->flags & ~(unsigned)ALLOWED_FLAGS) {
        if (place)
            uring_put_back_sqe(ctx);
        return -EINVAL;
    }
    sqe->user_data = uring_cqe_handler_tag(handler);
    handler->ctx = ctx;
    handler->waits = handler->cancel_waits = false;
    u->n_added++;
    u->n_filled++;
    if (!place)
        wait_for_place(u, handler);
    else if (u->n_filled >= ctx->disk.batch && !u->refused)
        uring_submit(ctx);
    return 0;
}

void aio_cancel_sqe(AioCqeHandler *handler)
{
    AioContext *ctx = handler->ctx;
    struct uring *u = uring_of(ctx);

    assert(ctx == aio_context_current());
    if (handler->cancel_waits || (!handler->waits && fill_cancel(ctx, handler)))
        return;
    handler->cancel_waits = true;
    handler->next_cancel = u->cancels_waiting;
    u->cancels_waiting = handler;
}

/* ---- coroutines ---- */

struct uring_op {
    AioCqeHandler handler;
    struct co_wait wait;
    Coroutine *co;
    int32_t result;
    uint32_t flags;
    bool has_result;
    bool was_asked; /* to end early */
};

static void on_op_cqe(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct uring_op *op = (struct uring_op *)handler;

    if (!op->has_result) {
        op->has_result = true;
        op->result = result;
        op->flags = cqe_flags;
    }
    if (!(cqe_flags & IORING_CQE_F_MORE))
        aio_co_wake(op->co);
}

/* Only the kernel knows when it is done with what the entry points to. */
static bool ask_for_end(struct co_wait *wait)
{
    struct uring_op *op = (struct uring_op *)((char *)wait - offsetof(struct uring_op, wait));

    op->was_asked = true;
    aio_cancel_sqe(&op->handler);
    return false;
}

int coroutine_fn co_uring_op(AioSqeFunc *prep, void *opaque, uint32_t *ret_flags)
{
    struct uring_op op = {
        .handler.cb = on_op_cqe, .wait.withdraw = ask_for_end, .co = coroutine_self()};
    int r = aio_add_sqe(prep, opaque, &op.handler);

    if (r < 0)
        return r;
    co_wait(&op.wait, __func__);
    if (ret_flags)
        *ret_flags = op.flags;
    return op.was_asked && op.result == -ECANCELED ? co_scope_status() : op.result;
}
