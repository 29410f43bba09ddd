/* SPDX-License-Identifier: MIT */
#include "runtime/context.h"
/*
 * A bottom half that wants something is linked once: whoever turns its PENDING flag on links it.
 * Where it is linked depends on who does it:
 *
 *   bh_list    any thread pushes at its head and the loop takes it whole, so there is no pop to
 *              race with and no ABA. It is turned round when taken.
 *   bh_own     the home thread's, a plain queue, because most bottom halves are scheduled by the
 *              loop that runs them. A signal handler may interrupt its change, sees that it is
 *              busy, and pushes to bh_list.
 *   bh_taken   what aio_bh_poll() has taken of both, in the order in which it runs.
 *
 * First in, first out: the home thread uses bh_own only while bh_list is empty, so all that is in
 * bh_own is older than anything in bh_list, and is taken first.
 *
 * A nested aio_poll() does the same with the same queues: what the outer one has not come to runs
 * first, for it may be what the nested one waits for, and the outer one finds nothing left. What is
 * scheduled meanwhile waits for the next poll, so a bottom half that schedules itself can't keep a
 * poll busy.
 *
 * The loop unlinks a bottom half first, then clears its flags, and only then runs it: from the
 * clearing on, a schedule links it again. Before the clearing it could not be linked twice; after
 * the run it would be too late.
 *
 * Who schedules nudges the doorbell and does not ring it: the loop looks at these lists itself,
 * after it has raised notify_me. The nudge comes also where the bottom half was linked already:
 * whoever linked it may not have come as far. A notification left behind would make the next wait
 * return for nothing, and a loop with an idle bottom half that schedules itself spin. The home
 * thread's own schedule needs not even the nudge, unless it is a signal handler's that has
 * interrupted the way into the wait: then notify_me is up, which a thread sees of itself without a
 * fence.
 *
 * A oneshot is known to nobody but its list, so its flags need no read-modify-write, and some that
 * have run are kept for the home thread's next.
 *
 * Orderings        first              then              ordered by                  if broken
 *   LINK   bh->next           bh_list           push cas, take xchg and     loop walks into
 *                                               timeout acquire             a list half linked
 *   FLAGS  caller's stores    PENDING and the   rmw on flags, both sides    a schedule that found
 *                             request flags                                 PENDING set runs with
 *                                                                           old data
 *   BUSY   bh_own's change    bh_own_busy       program order: who looks    a signal handler links
 *                                               is the same thread          into a queue half
 *                                                                           changed
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/probe.h"

#define IDLE_TIMEOUT_NS (10 * 1000000LL)
#define MOST_SPARE      64u
#define LINE_BYTES      64

#define BH_WANTS_RUN ((uint32_t)(BH_SCHEDULED | BH_IDLE))

struct BH {
    /* Constant, so that every thread has it in its cache. */
    AioContext *ctx;
    BHFunc *cb;
    void *opaque;
    const char *name;
    BH *all_next; /* on the context's bhs, under bh_lock; a oneshot is not */
    BH **all_link;
    char pad[LINE_BYTES - 6 * sizeof(void *)];

    /* Written by any thread. */
    BH *next;       /* while PENDING */
    uint32_t flags; /* enum bh_flags */
};

/* ---- the context's bottom halves, so that none is forgotten ---- */

static void list_in_context(BH *bh)
{
    AioContext *ctx = bh->ctx;

    pthread_mutex_lock(&ctx->bh_lock);
    bh->all_next = ctx->bhs;
    bh->all_link = &ctx->bhs;
    if (ctx->bhs)
        ctx->bhs->all_link = &bh->all_next;
    ctx->bhs = bh;
    pthread_mutex_unlock(&ctx->bh_lock);
}

static void free_listed(BH *bh)
{
    AioContext *ctx = bh->ctx;

    pthread_mutex_lock(&ctx->bh_lock);
    *bh->all_link = bh->all_next;
    if (bh->all_next)
        bh->all_next->all_link = bh->all_link;
    pthread_mutex_unlock(&ctx->bh_lock);
    free(bh);
}

/* ---- linking, from any thread ---- */

static bool is_home(const AioContext *ctx)
{
    return aio_context_current() == ctx;
}

/* Lock-free and without memory from the heap: signal handlers come here. */
static void push(AioContext *ctx, BH *bh)
{
    BH *head = atomic_load_relaxed(&ctx->bh_list); /* LINK: checked by the cas */

    do {
        bh->next = head;
    } while (!atomic_cas_seq(&ctx->bh_list, &head, bh)); /* LINK */
}

/* False where it must not: this is a signal handler's, or another thread's came first. Context:
 * home thread. */
static bool append_own(AioContext *ctx, BH *bh)
{
    if (ctx->bh_own_busy || atomic_load_relaxed(&ctx->bh_list)) /* LINK: what is seen came first */
        return false;
    ctx->bh_own_busy = true;
    atomic_signal_barrier(); /* BUSY */
    bh->next = NULL;
    *ctx->bh_own_last = bh;
    ctx->bh_own_last = &bh->next;
    atomic_signal_barrier(); /* BUSY */
    ctx->bh_own_busy = false;
    return true;
}

/* bh may be run and freed by the time this returns. */
static void link_bh(AioContext *ctx, BH *bh, bool at_home)
{
    if (!at_home || !append_own(ctx, bh))
        push(ctx, bh);
}

static void tell(AioContext *ctx, bool at_home)
{
    if (at_home)
        context_nudge_home(ctx);
    else
        context_nudge_for_work(ctx);
}

static void enqueue(BH *bh, uint32_t flags)
{
    AioContext *ctx = bh->ctx; /* before bh may be run and freed */
    bool at_home = is_home(ctx);

    if (!at_home)
        atomic_prefetch_write(&ctx->bh_list); /* on its way while the flags are */
    if (!(atomic_or_seq(&bh->flags, BH_PENDING | flags) & BH_PENDING)) /* FLAGS */
        link_bh(ctx, bh, at_home);
    tell(ctx, at_home);
}

/* ---- the caller's side ---- */

BH *aio_bh_new_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name)
{
    /* On lines of its own: what any thread writes is not to be what others read. */
    BH *bh = aligned_alloc(LINE_BYTES, (sizeof *bh + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES);

    if (!bh)
        return NULL;
    *bh = (BH){.ctx = ctx, .name = name, .cb = cb, .opaque = opaque};
    list_in_context(bh);
    return bh;
}

static BH *take_spare(AioContext *ctx)
{
    BH *bh = ctx->bh_spare;

    if (!bh)
        return malloc(sizeof *bh);
    ctx->bh_spare = bh->next;
    ctx->n_bh_spare--;
    return bh;
}

int aio_bh_schedule_oneshot_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name)
{
    bool at_home = is_home(ctx);
    BH *bh = at_home ? take_spare(ctx) : malloc(sizeof *bh);

    if (!bh)
        return -ENOMEM;
    bh->ctx = ctx;
    bh->cb = cb;
    bh->opaque = opaque;
    bh->name = name;
    bh->flags = BH_PENDING | BH_SCHEDULED | BH_ONESHOT;
    link_bh(ctx, bh, at_home);
    tell(ctx, at_home);
    return 0;
}

void bh_schedule(BH *bh)
{
    enqueue(bh, BH_SCHEDULED);
}

void bh_schedule_idle(BH *bh)
{
    enqueue(bh, BH_IDLE);
}

void bh_cancel(BH *bh)
{
    atomic_and_seq(&bh->flags, ~BH_WANTS_RUN); /* FLAGS */
}

void bh_delete(BH *bh)
{
    if (bh)
        enqueue(bh, BH_DELETED);
}

uint32_t bh_flags(const BH *bh)
{
    return atomic_load_acquire(&bh->flags); /* FLAGS */
}

void aio_bh_call(BH *bh)
{
    AioContext *ctx = bh->ctx;

    counter_add(&ctx->instruments.counters->bh_run, 1);
    PROBE3(bh_run, ctx, bh, bh->name);
    bh->cb(bh->opaque);
}

/* ---- owner loop ---- */

/* Takes what other threads have pushed, oldest first; the last one's address to ret_last. Each is
 * fetched for writing at once: its flags are changed when it runs. */
static BH *take_pushed(AioContext *ctx, BH **ret_last)
{
    BH *newest = atomic_load_relaxed(&ctx->bh_list); /* LINK: the xchg follows */
    BH *oldest = NULL;

    atomic_prefetch_write(&newest->flags);
    newest = atomic_xchg_seq(&ctx->bh_list, NULL); /* LINK */
    *ret_last = newest;
    while (newest) {
        BH *bh = newest;

        newest = bh->next;
        if (newest)
            atomic_prefetch_write(&newest->flags);
        bh->next = oldest;
        oldest = bh;
    }
    return oldest;
}

static void take_own(AioContext *ctx)
{
    ctx->bh_own_busy = true;
    atomic_signal_barrier(); /* BUSY */
    *ctx->bh_taken_last = ctx->bh_own;
    ctx->bh_taken_last = ctx->bh_own_last;
    ctx->bh_own = NULL;
    ctx->bh_own_last = &ctx->bh_own;
    atomic_signal_barrier(); /* BUSY */
    ctx->bh_own_busy = false;
}

/* Appends all that is linked by now to the queue of this loop. */
static void take_over(AioContext *ctx)
{
    if (ctx->bh_own)
        take_own(ctx);
    if (atomic_load_relaxed(&ctx->bh_list)) { /* LINK: the xchg follows */
        BH *last;

        *ctx->bh_taken_last = take_pushed(ctx, &last);
        ctx->bh_taken_last = &last->next;
    }
}

static BH *pop_taken(AioContext *ctx)
{
    BH *bh = ctx->bh_taken;

    if (bh) {
        ctx->bh_taken = bh->next;
        if (!bh->next)
            ctx->bh_taken_last = &ctx->bh_taken;
    }
    return bh;
}

/* The flags it had, with those cleared that a schedule may set again from now on. */
static uint32_t claim_flags(BH *bh)
{
    uint32_t flags = atomic_load_acquire(&bh->flags); /* FLAGS */

    if (flags & BH_ONESHOT)
        return flags;
    return atomic_and_seq(&bh->flags, ~(BH_PENDING | BH_WANTS_RUN)); /* FLAGS */
}

static void spare(AioContext *ctx, BH *bh)
{
    if (ctx->n_bh_spare == MOST_SPARE) {
        free(bh);
        return;
    }
    bh->next = ctx->bh_spare;
    ctx->bh_spare = bh;
    ctx->n_bh_spare++;
}

/* Returns progress. */
static bool run_one(AioContext *ctx, BH *bh)
{
    uint32_t flags = claim_flags(bh);
    bool runs = (flags & BH_WANTS_RUN) && !(flags & BH_DELETED);

    if (runs)
        aio_bh_call(bh);
    /* A deletion from within the callback links it again, and does not show in these flags. */
    if (flags & BH_ONESHOT)
        spare(ctx, bh);
    else if (flags & BH_DELETED)
        free_listed(bh);
    return runs && (flags & BH_SCHEDULED);
}

bool aio_bh_poll(AioContext *ctx)
{
    bool progress = false;

    take_over(ctx);
    for (BH *bh; (bh = pop_taken(ctx)) != NULL;)
        progress |= run_one(ctx, bh);
    return progress;
}

static int64_t list_timeout_ns(const BH *bh, int64_t timeout_ns)
{
    for (; bh; bh = bh->next) {
        uint32_t flags = bh_flags(bh);

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

    if (timeout_ns != 0)
        timeout_ns = list_timeout_ns(ctx->bh_own, timeout_ns);
    return timeout_ns == 0 ? 0 : list_timeout_ns(ctx->bh_taken, timeout_ns);
}

void bh_init(AioContext *ctx)
{
    pthread_mutex_init(&ctx->bh_lock, NULL);
    ctx->bh_own_last = &ctx->bh_own;
    ctx->bh_taken_last = &ctx->bh_taken;
}

void bh_finalise(AioContext *ctx)
{
    take_over(ctx);
    for (BH *bh; (bh = pop_taken(ctx)) != NULL;) {
        if (!(bh_flags(bh) & BH_DELETED))
            bug("bottom half %s is still queued at the end of its context", bh->name);
        free_listed(bh);
    }
    if (ctx->bhs)
        bug("bottom half %s was not deleted before the end of its context", ctx->bhs->name);
    for (BH *bh; (bh = ctx->bh_spare) != NULL;) {
        ctx->bh_spare = bh->next;
        free(bh);
    }
    pthread_mutex_destroy(&ctx->bh_lock);
}
