/* SPDX-License-Identifier: MIT */
#include "runtime/aio_wait.h"
/*
 * The count of those who wait stands in the waiter's context: only its home thread writes it, and
 * it lasts as long as the doorbell that the kick rings. A global one would make every kick of the
 * process pay for any waiter, and one beside the condition could be gone before the kick is done.
 *
 * A kick rings. What it tells is not in `notified`, which a nested loop may take: it is that every
 * aio_poll() of the waiter returns and the condition is looked at after each.
 *
 * Orderings        first              then           ordered by               if broken
 *   KICK   own store of the           own load of    seq_cst fence in begin   both miss: the waiter
 *          count (waiter) or the      the condition  and in kick              sleeps, and nobody
 *          condition (kicker)         or the count                            wakes it
 *   DONE   cb's stores                done           release, acquire         the waiter sees no
 *                                                                             result
 */
#include <assert.h>

#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/coroutine.h"

static void add_waiter(AioContext *ctx, int n)
{
    context_check_home(ctx);
    assert(!in_coroutine());
    atomic_store_relaxed(&ctx->n_waiters, ctx->n_waiters + (uint32_t)n); /* KICK */
}

void aio_wait_begin(AioContext *ctx)
{
    add_waiter(ctx, 1);
    atomic_full_fence(); /* KICK */
}

void aio_wait_end(AioContext *ctx)
{
    add_waiter(ctx, -1);
}

void aio_wait_kick(AioContext *waiter)
{
    atomic_full_fence();                         /* KICK */
    if (atomic_load_relaxed(&waiter->n_waiters)) /* KICK */
        aio_notify(waiter);
}

struct errand {
    BHFunc *cb;
    void *opaque;
    AioContext *waiter;
    bool done;
};

/* The errand is on the waiter's stack: gone once it is done. */
static void run_errand(void *opaque)
{
    struct errand *errand = opaque;
    AioContext *waiter = aio_context_ref(errand->waiter);

    errand->cb(errand->opaque);
    atomic_store_release(&errand->done, true); /* DONE */
    aio_wait_kick(waiter);
    aio_context_unref(waiter);
}

int aio_wait_bh_oneshot(AioContext *ctx, BHFunc *cb, void *opaque)
{
    AioContext *here = aio_context_current();
    struct errand errand = {.cb = cb, .opaque = opaque, .waiter = here};

    assert(here);
    int r = aio_bh_schedule_oneshot(ctx, run_errand, &errand);

    if (r == 0)
        AIO_WAIT_WHILE(here, !atomic_load_acquire(&errand.done)); /* DONE */
    return r;
}
