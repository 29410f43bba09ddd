/* SPDX-License-Identifier: MIT */
#include "runtime/context.h"
/*
 * A bottom half that wants something is linked in the context's list, at most once: whoever turns
 * its PENDING flag on links it. The list is pushed at its head by any thread and taken whole by the
 * loop, so there is no pop to race with and no ABA. The loop turns what it took round, so that it
 * runs first in, first out, and appends it to its own queue, which it runs until it is empty.
 *
 * A nested aio_poll() does the same with the same queue: what the outer one has not come to runs
 * first, for it may be what the nested one waits for, and the outer one finds nothing left. What is
 * scheduled meanwhile waits in the list for the next poll, so a bottom half that schedules itself
 * can't keep a poll busy.
 *
 * The loop unlinks a bottom half first, then clears its flags, and only then runs it: from the
 * clearing on, a schedule links it again. Before the clearing it could not be linked twice; after
 * the run it would be too late.
 *
 * An idle bottom half nudges instead of ringing. A notification left behind would keep the next
 * wait from blocking, so that one which schedules itself would spin; a nudge reaches only a wait
 * that has begun, and every later one finds the bottom half by itself, because bh_timeout_ns() is
 * asked after notify_me was raised.
 *
 * Orderings        first              then              ordered by                  if broken
 *   LINK   bh->next           bh_list           push cas, take xchg and     loop walks into
 *                                               timeout acquire             a list half linked
 *   FLAGS  caller's stores    PENDING and the   rmw on flags, both sides    a schedule that found
 *                             request flags                                 PENDING set runs with
 *                                                                           old data
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"

#define IDLE_TIMEOUT_NS (10 * 1000000LL)

enum bh_flags {
    BH_PENDING = 1 << 0,   /* linked in the list or the queue */
    BH_SCHEDULED = 1 << 1, /* to be run */
    BH_IDLE = 1 << 2,      /* to be run, but not urgent and no progress */
    BH_DELETED = 1 << 3,   /* to be freed and not run */
    BH_ONESHOT = 1 << 4,   /* to be freed once run */

    BH_WANTS_RUN = BH_SCHEDULED | BH_IDLE,
};

struct BH {
    AioContext *ctx;
    const char *name;
    BHFunc *cb;
    void *opaque;
    BH *next;       /* while PENDING */
    uint32_t flags; /* enum bh_flags; written by any thread */
};

/* ---- any thread ---- */

/* Lock-free and without memory from the heap: signal handlers come here. */
static void link_bh(AioContext *ctx, BH *bh)
{
    BH *head = atomic_load_relaxed(&ctx->bh_list); /* LINK: checked by the cas */

    do {
        bh->next = head;
    } while (!atomic_cas_seq(&ctx->bh_list, &head, bh)); /* LINK */
}

/* Returns the context, read before bh may be run and freed. Rings nobody yet. */
static AioContext *enqueue(BH *bh, uint32_t flags)
{
    AioContext *ctx = bh->ctx;
    uint32_t old = atomic_or_seq(&bh->flags, BH_PENDING | flags); /* FLAGS */

    if (!(old & BH_PENDING))
        link_bh(ctx, bh);
    return ctx;
}

BH *aio_bh_new_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name)
{
    BH *bh = malloc(sizeof *bh);

    if (bh)
        *bh = (BH){.ctx = ctx, .name = name, .cb = cb, .opaque = opaque};
    return bh;
}

int aio_bh_schedule_oneshot_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name)
{
    BH *bh = aio_bh_new_full(ctx, cb, opaque, name);

    if (!bh)
        return -ENOMEM;
    aio_notify(enqueue(bh, BH_SCHEDULED | BH_ONESHOT));
    return 0;
}

/* Each of these rings also where the bottom half was linked already: whoever linked it may not have
 * come as far as the ring. */
void bh_schedule(BH *bh)
{
    aio_notify(enqueue(bh, BH_SCHEDULED));
}

void bh_schedule_idle(BH *bh)
{
    context_nudge(enqueue(bh, BH_IDLE));
}

void bh_cancel(BH *bh)
{
    atomic_and_seq(&bh->flags, ~(uint32_t)BH_WANTS_RUN); /* FLAGS */
}

void bh_delete(BH *bh)
{
    if (bh)
        aio_notify(enqueue(bh, BH_DELETED));
}

/* ---- owner loop ---- */

/* All that is queued, oldest first. */
static BH *take_list(AioContext *ctx)
{
    BH *newest = atomic_xchg_seq(&ctx->bh_list, NULL); /* LINK */
    BH *oldest = NULL;

    while (newest) {
        BH *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Behind what outer polls have left. */
static void take_over(AioContext *ctx)
{
    *ctx->bh_taken_last = take_list(ctx);
    while (*ctx->bh_taken_last)
        ctx->bh_taken_last = &(*ctx->bh_taken_last)->next;
}

/* The first one taken, with the flags it had, or NULL. */
static BH *dequeue(AioContext *ctx, uint32_t *ret_flags)
{
    BH *bh = ctx->bh_taken;

    if (bh) {
        ctx->bh_taken = bh->next;
        if (!ctx->bh_taken)
            ctx->bh_taken_last = &ctx->bh_taken;
        /* From here on anybody may link it again. */
        *ret_flags = atomic_and_seq(&bh->flags, ~(uint32_t)(BH_PENDING | BH_WANTS_RUN)); /* FLAGS */
    }
    return bh;
}

/* Returns progress. */
static bool run_dequeued(AioContext *ctx, BH *bh, uint32_t flags)
{
    bool runs = (flags & BH_WANTS_RUN) && !(flags & BH_DELETED);

    if (runs) {
        counter_add(&ctx->instruments.counters->bh_run, 1);
        bh->cb(bh->opaque);
    }
    /* A deletion from within the callback links it again, and does not show in these flags. */
    if (flags & (BH_DELETED | BH_ONESHOT))
        free(bh);
    return runs && (flags & BH_SCHEDULED);
}

bool bh_poll(AioContext *ctx)
{
    uint32_t flags;
    bool progress = false;

    if (atomic_load_relaxed(&ctx->bh_list)) /* LINK: the xchg follows */
        take_over(ctx);
    for (BH *bh; (bh = dequeue(ctx, &flags)) != NULL;)
        progress |= run_dequeued(ctx, bh, flags);
    return progress;
}

static int64_t list_timeout_ns(const BH *bh, int64_t timeout_ns)
{
    for (; bh; bh = bh->next) {
        uint32_t flags = atomic_load_acquire(&bh->flags); /* FLAGS */

        if (flags & (BH_SCHEDULED | BH_DELETED))
            return 0;
        if (flags & BH_IDLE)
            timeout_ns = IDLE_TIMEOUT_NS;
    }
    return timeout_ns;
}

int64_t bh_timeout_ns(AioContext *ctx)
{
    /* Only this thread unlinks, so what is reached from here stays. */
    int64_t timeout_ns = list_timeout_ns(atomic_load_acquire(&ctx->bh_list), -1); /* LINK */

    return timeout_ns == 0 ? 0 : list_timeout_ns(ctx->bh_taken, timeout_ns);
}

void bh_finalise(AioContext *ctx)
{
    BH *bh = take_list(ctx);

    while (bh) {
        BH *next = bh->next;

        if (!(atomic_load_acquire(&bh->flags) & BH_DELETED)) /* FLAGS */
            bug("bottom half %s is still queued at the end of its context", bh->name);
        free(bh);
        bh = next;
    }
}
