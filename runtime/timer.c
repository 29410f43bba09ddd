/* SPDX-License-Identifier: MIT */
#include "runtime/timer.h"
/*
 * Each clock of a context has a list: a heap of those armed (timer_heap.c) and the due, in order. A
 * turn reads the clock, moves what is due from the one to the other, and calls it from there,
 * without the lock: a callback may arm, disarm and free any timer, also one of the due. What it
 * arms goes to the heap, and so waits for the next turn even where it is due already. A nested
 * aio_poll() goes on with what the outer one left.
 *
 * The heap's key is the latest moment, expiry plus slack: the loop sleeps until the first of these,
 * and then takes from the top as long as the top may fire.
 *
 * first_ns is when the loop must look next. It is stored under the lock, and read without it after
 * notify_me was raised; whoever makes it earlier nudges. Either the loop reads the new value, or
 * the nudge sees notify_me (SLEEP in doorbell.c). A timer disarmed by another thread leaves the
 * sleep as it is: the loop looks once for nothing.
 *
 * Orderings        first            then             ordered by                if broken
 *   SLEEP  first_ns         notify_me        fence in nudge and        the loop sleeps past
 *                                            in prepare_sleep          a timer
 *   STAMP  any store        expire_ns        none: a glance (relaxed   timer_pending() tells
 *                                            load and store)           what was, never half of it
 */
#include <assert.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/context.h"
#include "runtime/probe.h"
#include "runtime/tail_queue.h"

#define NOT_ARMED ((int64_t)-1)
#define LOOK_NS   AIO_SCALE_S /* how often a clock that may jump is read where it has no fd */

static struct timer_list *list_of(const AioTimer *timer)
{
    return &timer->ctx->timers.lists[timer->clock];
}

static int64_t times(int64_t n, int64_t scale)
{
    int64_t product;

    if (__builtin_mul_overflow(n, scale, &product))
        return n < 0 ? INT64_MIN : INT64_MAX;
    return product;
}

/* Of two that are not negative. */
static int64_t plus(int64_t a, int64_t b)
{
    return a < INT64_MAX - b ? a + b : INT64_MAX;
}

/* ---- the due, under the lock ---- */

static void due_append(struct timer_list *list, AioTimer *timer)
{
    timer->place = TIMER_DUE;
    tail_queue_append(list->due, list->due_last, timer);
}

static void due_remove(struct timer_list *list, AioTimer *timer)
{
    tail_queue_remove(list->due_last, timer);
    timer->place = TIMER_IDLE;
}

/* ---- arming, from any thread ---- */

bool timer_list_refresh(AioContext *ctx, enum AioClock clock)
{
    const struct timer_list *list = &ctx->timers.lists[clock];
    int64_t *first_ns = &ctx->timers.first_ns[clock];
    int64_t old_ns = atomic_load_relaxed(first_ns); /* SLEEP: under the lock */
    int64_t new_ns = list->due ? 0 : timer_heap_first_ns(&list->heap);

    if (list->stopped)
        new_ns = TIMER_NEVER;
    if (new_ns != old_ns)
        atomic_store_relaxed(first_ns, new_ns); /* SLEEP */
    return new_ns < old_ns;
}

static void set_expire(AioTimer *timer, int64_t expire_ns)
{
    atomic_store_relaxed(&timer->expire_ns, expire_ns); /* STAMP */
}

static void arm(struct timer_list *list, AioTimer *timer, int64_t expire_ns)
{
    if (timer->place == TIMER_DUE)
        due_remove(list, timer);
    set_expire(timer, expire_ns);
    timer->latest_ns = plus(expire_ns, timer->slack_ns);
    timer->order = list->n_armed++;
    timer_heap_put(&list->heap, timer);
}

static void disarm(struct timer_list *list, AioTimer *timer)
{
    if (timer->place == TIMER_DUE)
        due_remove(list, timer);
    else if (timer->place != TIMER_IDLE)
        timer_heap_remove(&list->heap, timer);
    set_expire(timer, NOT_ARMED);
}

/* The loop looks at its timers before it sleeps: what it arms itself needs no fence. */
static void tell(AioContext *ctx)
{
    if (aio_context_current() == ctx)
        context_nudge_home(ctx);
    else
        context_nudge(ctx); /* SLEEP */
}

static void modify(AioTimer *timer, int64_t expire_ns, bool only_earlier)
{
    AioContext *ctx = timer->ctx;
    struct timer_list *list = list_of(timer);
    bool is_earlier = false;

    if (expire_ns < 0)
        expire_ns = 0;
    pthread_mutex_lock(&list->lock);
    if (!only_earlier || timer->place == TIMER_IDLE || expire_ns < timer->expire_ns) {
        arm(list, timer, expire_ns);
        is_earlier = timer_list_refresh(ctx, timer->clock);
    }
    pthread_mutex_unlock(&list->lock);
    if (is_earlier)
        tell(ctx);
}

void timer_mod_ns(AioTimer *timer, int64_t expire_ns)
{
    modify(timer, expire_ns, false);
}

void timer_mod(AioTimer *timer, int64_t expire)
{
    modify(timer, times(expire, timer->scale), false);
}

void timer_mod_anticipate_ns(AioTimer *timer, int64_t expire_ns)
{
    modify(timer, expire_ns, true);
}

void timer_mod_anticipate(AioTimer *timer, int64_t expire)
{
    modify(timer, times(expire, timer->scale), true);
}

void timer_del(AioTimer *timer)
{
    struct timer_list *list = list_of(timer);

    pthread_mutex_lock(&list->lock);
    disarm(list, timer);
    timer_list_refresh(timer->ctx, timer->clock);
    pthread_mutex_unlock(&list->lock);
}

int64_t timer_expire_time_ns(const AioTimer *timer)
{
    return atomic_load_relaxed(&timer->expire_ns); /* STAMP */
}

bool timer_pending(const AioTimer *timer)
{
    return timer_expire_time_ns(timer) != NOT_ARMED;
}

bool timer_expired_ns(const AioTimer *timer, int64_t now_ns)
{
    int64_t expire_ns = timer_expire_time_ns(timer);

    return expire_ns != NOT_ARMED && expire_ns <= now_ns;
}

/* ---- making one ---- */

void aio_timer_init_full(AioContext *ctx, AioTimer *timer, enum AioClock clock, int64_t scale,
    AioTimerFunc *cb, void *opaque)
{
    assert(scale > 0 && (unsigned)clock < N_CLOCKS);
    *timer = (AioTimer){.ctx = ctx,
        .expire_ns = NOT_ARMED,
        .place = TIMER_IDLE,
        .clock = clock,
        .cb = cb,
        .opaque = opaque,
        .scale = scale};
}

void aio_timer_init(AioContext *ctx, AioTimer *timer, AioTimerFunc *cb, void *opaque)
{
    aio_timer_init_full(ctx, timer, AIO_CLOCK_MONOTONIC, AIO_SCALE_NS, cb, opaque);
}

AioTimer *aio_timer_new(
    AioContext *ctx, enum AioClock clock, int64_t scale, AioTimerFunc *cb, void *opaque)
{
    AioTimer *timer = malloc(sizeof *timer);

    if (timer)
        aio_timer_init_full(ctx, timer, clock, scale, cb, opaque);
    return timer;
}

void aio_timer_free(AioTimer *timer)
{
    if (timer)
        timer_del(timer);
    free(timer);
}

void aio_timer_set_slack_ns(AioTimer *timer, int64_t slack_ns)
{
    assert(slack_ns >= 0);
    timer->slack_ns = slack_ns;
}

/* ---- owner loop ---- */

/* Ns until a clock's first timer, as far as the monitor's timeout has to know. */
static int64_t clock_timeout_ns(AioContext *ctx, enum AioClock clock)
{
    struct clock_fd *clock_fd = &ctx->timers.lists[clock].clock_fd;
    int64_t first_ns = atomic_load_relaxed(&ctx->timers.first_ns[clock]); /* SLEEP */
    bool jumps = clock == AIO_CLOCK_REALTIME || clock == AIO_CLOCK_BOOTTIME;
    bool has_fd = jumps && clock_fd_set(ctx, clock_fd, clock, first_ns);

    if (first_ns == TIMER_NEVER)
        return -1;
    int64_t left_ns = first_ns - aio_clock_get_ns(ctx, clock);

    if (left_ns <= 0)
        return 0;
    if (has_fd || clock == AIO_CLOCK_VIRTUAL)
        return -1;
    return jumps && left_ns > LOOK_NS ? LOOK_NS : left_ns;
}

int64_t timers_timeout_ns(AioContext *ctx)
{
    int64_t timeout_ns = -1;

    for (enum AioClock clock = 0; clock < N_CLOCKS && timeout_ns != 0; clock++) {
        int64_t ns = clock_timeout_ns(ctx, clock);

        if (ns >= 0 && (timeout_ns < 0 || ns < timeout_ns))
            timeout_ns = ns;
    }
    return timeout_ns;
}

static void collect_due(struct timer_list *list, int64_t now_ns)
{
    for (AioTimer *timer; (timer = timer_heap_pop_due(&list->heap, now_ns)) != NULL;)
        due_append(list, timer);
}

/* Under the lock; lets go of it for the callback. */
static void fire(AioContext *ctx, enum AioClock clock, AioTimer *timer)
{
    struct timer_list *list = &ctx->timers.lists[clock];
    AioTimerFunc *cb = timer->cb;
    void *opaque = timer->opaque;

    disarm(list, timer);
    timer_list_refresh(ctx, clock);
    list->runner = pthread_self();
    list->n_running++;
    pthread_mutex_unlock(&list->lock);
    counter_add(&ctx->instruments.counters->timers_fired, 1);
    PROBE2(timer_fire, ctx, timer);
    cb(opaque); /* may have freed timer */
    pthread_mutex_lock(&list->lock);
    if (--list->n_running == 0)
        pthread_cond_broadcast(&list->idle);
}

static bool run_list(AioContext *ctx, enum AioClock clock)
{
    struct timer_list *list = &ctx->timers.lists[clock];
    bool progress = false;

    pthread_mutex_lock(&list->lock);
    collect_due(list, aio_clock_get_ns(ctx, clock));
    while (list->due && !list->stopped) {
        fire(ctx, clock, list->due);
        progress = true;
    }
    timer_list_refresh(ctx, clock);
    pthread_mutex_unlock(&list->lock);
    return progress;
}

bool timers_run(AioContext *ctx)
{
    bool progress = false;

    for (enum AioClock clock = 0; clock < N_CLOCKS; clock++)
        if (aio_clock_deadline_ns(ctx, clock) == 0)
            progress |= run_list(ctx, clock);
    return progress;
}

/* ---- beginning and end ---- */

void timers_init(AioContext *ctx)
{
    for (enum AioClock clock = 0; clock < N_CLOCKS; clock++) {
        struct timer_list *list = &ctx->timers.lists[clock];

        ctx->timers.first_ns[clock] = TIMER_NEVER;
        pthread_mutex_init(&list->lock, NULL);
        pthread_cond_init(&list->idle, NULL);
    }
}

static void list_finalise(struct timer_list *list)
{
    const AioTimer *left = list->due ? list->due : timer_heap_first(&list->heap);

    if (left)
        bug("timer with callback %p is still armed at the end of its context",
            (void *)(uintptr_t)left->cb);
    timer_heap_deinit(&list->heap);
    clock_fd_drop(&list->clock_fd);
    pthread_cond_destroy(&list->idle);
    pthread_mutex_destroy(&list->lock);
}

void timers_finalise(AioContext *ctx)
{
    for (enum AioClock clock = 0; clock < N_CLOCKS; clock++)
        list_finalise(&ctx->timers.lists[clock]);
}
