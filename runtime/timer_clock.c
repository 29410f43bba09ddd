/* SPDX-License-Identifier: MIT */
#include "runtime/timer.h"
/*
 * Stopping a clock must end with no callback of it running. The list counts the callbacks that are
 * on the loop's stack, and knows whose stack that is: the thread that stops the clock from there
 * would wait for itself.
 *
 * Orderings        first             then          ordered by                if broken
 *   SLEEP  virtual_now_ns   notify_me       fence in nudge and        the loop sleeps on a timer
 *                                           in prepare_sleep          that is due by now
 */
#include <assert.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

void aio_clock_enable(AioContext *ctx, enum AioClock clock, bool enabled)
{
    struct timer_list *list = &ctx->timers.lists[clock];

    pthread_mutex_lock(&list->lock);
    list->stopped = !enabled;
    bool is_earlier = timer_list_refresh(ctx, clock);

    if (!enabled)
        while (list->n_running > 0 && !pthread_equal(list->runner, pthread_self()))
            pthread_cond_wait(&list->idle, &list->lock);
    pthread_mutex_unlock(&list->lock);
    if (is_earlier)
        context_nudge(ctx);
}

int64_t aio_clock_deadline_ns(AioContext *ctx, enum AioClock clock)
{
    int64_t first_ns = atomic_load_relaxed(&ctx->timers.first_ns[clock]); /* SLEEP: stale is fine */

    if (first_ns == TIMER_NEVER)
        return -1;
    int64_t now_ns = aio_clock_get_ns(ctx, clock);

    return first_ns > now_ns ? first_ns - now_ns : 0;
}

/* Under the virtual list's lock; lets go of it. */
static void set_virtual(AioContext *ctx, int64_t now_ns)
{
    struct timer_group *group = &ctx->timers;

    assert(now_ns >= 0);
    atomic_store_relaxed(&group->virtual_now_ns, now_ns); /* SLEEP */
    pthread_mutex_unlock(&group->lists[AIO_CLOCK_VIRTUAL].lock);
    if (aio_clock_deadline_ns(ctx, AIO_CLOCK_VIRTUAL) == 0)
        context_nudge(ctx);
}

void aio_virtual_clock_set_ns(AioContext *ctx, int64_t now_ns)
{
    pthread_mutex_lock(&ctx->timers.lists[AIO_CLOCK_VIRTUAL].lock);
    set_virtual(ctx, now_ns);
}

void aio_virtual_clock_advance_ns(AioContext *ctx, int64_t delta_ns)
{
    assert(delta_ns >= 0);
    pthread_mutex_lock(&ctx->timers.lists[AIO_CLOCK_VIRTUAL].lock);
    int64_t now_ns = aio_clock_get_ns(ctx, AIO_CLOCK_VIRTUAL);

    set_virtual(ctx, now_ns < INT64_MAX - delta_ns ? now_ns + delta_ns : INT64_MAX);
}
