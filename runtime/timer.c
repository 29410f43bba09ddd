/* SPDX-License-Identifier: MIT */
#include "runtime/context.h"
/*
 * Armed timers stand in a binary heap by (expiry, order of arming). A turn moves what is due to a
 * list and calls it from there, without the lock: a callback may arm, disarm and free any timer,
 * also one of the list. What it arms goes to the heap, and so waits for the next turn even where
 * it is due already. A nested aio_poll() goes on with the list that the outer one left.
 *
 * timer_first_ns is when the loop must look next. It is stored under the lock, and read without it
 * after notify_me was raised; whoever makes it earlier nudges. Either the loop reads the new value,
 * or the nudge sees notify_me (SLEEP in doorbell.c).
 *
 * Orderings        first            then             ordered by                if broken
 *   SLEEP  timer_first_ns   notify_me        fence in nudge and        the loop sleeps past
 *                                            in prepare_sleep          a timer
 *   STAMP  any store        expire_ns        none: a glance (relaxed   timer_pending() tells
 *                                            load and store)           what was, never half of it
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"

#define NOT_ARMED      ((int64_t)-1)
#define NEVER          INT64_MAX
#define NOT_IN_HEAP    UINT32_MAX
#define FIRST_CAPACITY 16

/* ---- the heap, under timer_lock ---- */

static bool is_before(const AioTimer *a, const AioTimer *b)
{
    return a->expire_ns != b->expire_ns ? a->expire_ns < b->expire_ns : a->order < b->order;
}

static void put_at(AioContext *ctx, uint32_t idx, AioTimer *timer)
{
    ctx->timers[idx] = timer;
    timer->heap_idx = idx;
}

static void sift_up(AioContext *ctx, uint32_t idx)
{
    AioTimer *timer = ctx->timers[idx];

    while (idx > 0 && is_before(timer, ctx->timers[(idx - 1) / 2])) {
        put_at(ctx, idx, ctx->timers[(idx - 1) / 2]);
        idx = (idx - 1) / 2;
    }
    put_at(ctx, idx, timer);
}

static void sift_down(AioContext *ctx, uint32_t idx)
{
    AioTimer *timer = ctx->timers[idx];

    for (;;) {
        uint32_t child = 2 * idx + 1;

        if (child + 1 < ctx->n_timers && is_before(ctx->timers[child + 1], ctx->timers[child]))
            child++;
        if (child >= ctx->n_timers || !is_before(ctx->timers[child], timer))
            break;
        put_at(ctx, idx, ctx->timers[child]);
        idx = child;
    }
    put_at(ctx, idx, timer);
}

static int reserve_one(AioContext *ctx)
{
    if (ctx->n_timers < ctx->timers_capacity)
        return 0;
    uint32_t capacity = ctx->timers_capacity ? 2 * ctx->timers_capacity : FIRST_CAPACITY;
    AioTimer **timers = realloc(ctx->timers, capacity * sizeof(*timers));

    if (!timers)
        return -ENOMEM;
    ctx->timers = timers;
    ctx->timers_capacity = capacity;
    return 0;
}

static void heap_remove(AioContext *ctx, AioTimer *timer)
{
    uint32_t idx = timer->heap_idx;
    AioTimer *last = ctx->timers[--ctx->n_timers];

    timer->heap_idx = NOT_IN_HEAP;
    if (last != timer) {
        put_at(ctx, idx, last);
        sift_up(ctx, idx);
        sift_down(ctx, last->heap_idx);
    }
}

/* ---- the list of those due, under timer_lock ---- */

static void due_append(AioContext *ctx, AioTimer *timer)
{
    timer->due_next = NULL;
    timer->due_link = ctx->timers_due_last;
    *ctx->timers_due_last = timer;
    ctx->timers_due_last = &timer->due_next;
}

static void due_remove(AioContext *ctx, AioTimer *timer)
{
    *timer->due_link = timer->due_next;
    if (timer->due_next)
        timer->due_next->due_link = timer->due_link;
    else
        ctx->timers_due_last = timer->due_link;
    timer->due_link = NULL;
}

/* ---- arming, from any thread ---- */

static void unlink_timer(AioContext *ctx, AioTimer *timer)
{
    if (timer->heap_idx != NOT_IN_HEAP)
        heap_remove(ctx, timer);
    else if (timer->due_link)
        due_remove(ctx, timer);
    atomic_store_relaxed(&timer->expire_ns, NOT_ARMED); /* STAMP */
}

/* Returns whether the loop must look earlier than it knew. */
static bool refresh_first(AioContext *ctx)
{
    int64_t old_ns = atomic_load_relaxed(&ctx->timer_first_ns); /* SLEEP: under the lock */
    int64_t first_ns = NEVER;

    if (ctx->timers_due)
        first_ns = 0;
    else if (ctx->n_timers > 0)
        first_ns = ctx->timers[0]->expire_ns;
    atomic_store_relaxed(&ctx->timer_first_ns, first_ns); /* SLEEP */
    return first_ns < old_ns;
}

static int arm(AioTimer *timer, int64_t expire_ns)
{
    AioContext *ctx = timer->ctx;

    if (timer->heap_idx == NOT_IN_HEAP && reserve_one(ctx) < 0)
        return -ENOMEM;
    unlink_timer(ctx, timer);
    timer->order = ctx->timer_order++;
    atomic_store_relaxed(&timer->expire_ns, expire_ns < 0 ? 0 : expire_ns); /* STAMP */
    put_at(ctx, ctx->n_timers++, timer);
    sift_up(ctx, timer->heap_idx);
    return 0;
}

void aio_timer_init(AioContext *ctx, AioTimer *timer, AioTimerFunc *cb, void *opaque)
{
    *timer = (AioTimer){
        .ctx = ctx, .cb = cb, .opaque = opaque, .expire_ns = NOT_ARMED, .heap_idx = NOT_IN_HEAP};
}

static int modify(AioTimer *timer, int64_t expire_ns, bool only_earlier)
{
    AioContext *ctx = timer->ctx;
    int r = 0;
    bool is_earlier = false;

    pthread_mutex_lock(&ctx->timer_lock);
    if (!only_earlier || timer->expire_ns == NOT_ARMED || expire_ns < timer->expire_ns) {
        r = arm(timer, expire_ns);
        is_earlier = refresh_first(ctx);
    }
    pthread_mutex_unlock(&ctx->timer_lock);
    if (is_earlier)
        context_nudge(ctx); /* SLEEP */
    return r;
}

int timer_mod_ns(AioTimer *timer, int64_t expire_ns)
{
    return modify(timer, expire_ns, false);
}

int timer_mod_anticipate_ns(AioTimer *timer, int64_t expire_ns)
{
    return modify(timer, expire_ns, true);
}

void timer_del(AioTimer *timer)
{
    AioContext *ctx = timer->ctx;

    pthread_mutex_lock(&ctx->timer_lock);
    unlink_timer(ctx, timer);
    refresh_first(ctx); /* later at most: the loop may look once for nothing */
    pthread_mutex_unlock(&ctx->timer_lock);
}

bool timer_pending(const AioTimer *timer)
{
    return atomic_load_relaxed(&timer->expire_ns) != NOT_ARMED; /* STAMP */
}

/* ---- owner loop ---- */

int64_t timers_timeout_ns(AioContext *ctx)
{
    int64_t first_ns = atomic_load_relaxed(&ctx->timer_first_ns); /* SLEEP */

    if (first_ns == NEVER)
        return -1;
    int64_t now_ns = aio_clock_ns();
    return first_ns > now_ns ? first_ns - now_ns : 0;
}

static void collect_due(AioContext *ctx, int64_t now_ns)
{
    while (ctx->n_timers > 0 && ctx->timers[0]->expire_ns <= now_ns) {
        AioTimer *timer = ctx->timers[0];

        heap_remove(ctx, timer);
        due_append(ctx, timer);
    }
}

bool timers_run(AioContext *ctx)
{
    bool progress = false;

    if (timers_timeout_ns(ctx) != 0)
        return false;
    pthread_mutex_lock(&ctx->timer_lock);
    collect_due(ctx, aio_clock_ns());
    while (ctx->timers_due) {
        AioTimer *timer = ctx->timers_due;
        AioTimerFunc *cb = timer->cb;
        void *opaque = timer->opaque;

        unlink_timer(ctx, timer);
        refresh_first(ctx);
        pthread_mutex_unlock(&ctx->timer_lock);
        counter_add(&ctx->instruments.counters->timers_fired, 1);
        cb(opaque); /* may have freed timer */
        progress = true;
        pthread_mutex_lock(&ctx->timer_lock);
    }
    refresh_first(ctx);
    pthread_mutex_unlock(&ctx->timer_lock);
    return progress;
}

void timers_finalise(AioContext *ctx)
{
    if (ctx->n_timers > 0 || ctx->timers_due) {
        const AioTimer *timer = ctx->timers_due ? ctx->timers_due : ctx->timers[0];

        bug("timer with callback %p is still armed at the end of its context",
            (void *)(uintptr_t)timer->cb);
    }
    free(ctx->timers);
}
