/* SPDX-License-Identifier: MIT */
#include "runtime/aio.h"
/*
 * The order of a turn, and why:
 *
 *   flush            nobody we pushed to may wait for a ring that we sleep on; what was submitted
 *                    between the turns goes out
 *   look busily      where adaptive polling is on (poll_mode.c); if there is something: accept
 *   raise notify_me, fence
 *   look             at `notified`, sources, bottom halves, timers: what came before the fence is
 *                    seen here, what comes after it sees notify_me (SLEEP in doorbell.c)
 *   wait
 *   lower notify_me
 *   accept           before any work is looked for: a notification consumed afterwards could be
 *                    that of work which this turn did not see
 *   completions and sources, bottom halves, fds, timers; after each that ran something, a flush
 *
 * Every queue of the turn is the context's, not the frame's: a nested turn goes on where the outer
 * one stopped, and whoever has emptied it leaves nothing for the other.
 *
 * Time that is awake is measured from wait to wait, where the system call hides the clock's cost;
 * a loop that never waits counts it every TURNS_A_COUNT turns, so that it is not taken for idle.
 */
#include <assert.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/context.h"
#include "runtime/probe.h"

#define TURNS_A_COUNT 64

/* ---- notifications ---- */

/* Another context's counters have another writer, so the sender counts what it paid, in its own. */
static void count_ring(const AioContext *receiver, bool sent)
{
    AioContext *sender = aio_context_current();

    if (sender && sender != receiver) {
        struct aio_counters *counters = sender->instruments.counters;

        counter_add(sent ? &counters->rings_sent : &counters->rings_saved, 1);
    }
}

void aio_notify(AioContext *ctx)
{
    bool written = doorbell_ring(&ctx->bell);

    count_ring(ctx, written);
    PROBE2(notify, ctx, written);
}

void context_nudge(AioContext *ctx)
{
    if (doorbell_nudge(&ctx->bell))
        count_ring(ctx, true);
}

void context_nudge_for_work(AioContext *ctx)
{
    bool written = doorbell_nudge(&ctx->bell);

    count_ring(ctx, written);
    PROBE2(notify, ctx, written);
}

void context_nudge_home(AioContext *ctx)
{
    doorbell_nudge_home(&ctx->bell);
}

void context_flush(AioContext *ctx)
{
    if (ctx->engine->flush)
        ctx->engine->flush(ctx);
    if (ctx->sources)
        sources_flush(ctx);
}

/* ---- a turn ---- */

void context_check_home(AioContext *ctx)
{
    if (!ctx->has_home) {
        ctx->has_home = true;
        ctx->home = pthread_self();
    }
    assert(pthread_equal(ctx->home, pthread_self()));
}

int64_t aio_compute_timeout(AioContext *ctx)
{
    if (ctx->ready || context_has_completions(ctx))
        return 0;
    int64_t timeout_ns = bh_timeout_ns(ctx);

    return timeout_ns == 0 ? 0 : timeout_min_ns(timeout_ns, timers_timeout_ns(ctx));
}

void context_monitor_wait(AioContext *ctx, int64_t timeout_ns)
{
    int r = ctx->monitor->wait(ctx, timeout_ns);

    if (r < 0)
        bug("%s can't wait: %s", ctx->monitor->name, strerrordesc_np(-r));
}

static void count_busy(AioContext *ctx, int64_t now_ns)
{
    counter_add(&ctx->instruments.counters->busy_ns, (uint64_t)(now_ns - ctx->counted_ns));
    ctx->counted_ns = now_ns;
}

void context_wait_begins(AioContext *ctx, int64_t now_ns)
{
    struct aio_counters *counters = ctx->instruments.counters;
    uint64_t awake_ns = (uint64_t)(now_ns - ctx->awake_since_ns);

    count_busy(ctx, now_ns);
    if (awake_ns > counters->longest_turn_ns)
        counter_set(&counters->longest_turn_ns, awake_ns);
}

void context_wait_ends(AioContext *ctx, int64_t now_ns)
{
    ctx->awake_since_ns = ctx->counted_ns = now_ns;
}

/* A loop that finds something at each look has no wait that the clock was read for: what lies
 * between two counts is then its longest turn at most. */
static void count_turn(AioContext *ctx)
{
    uint64_t *polls = &ctx->instruments.counters->polls;

    counter_add(polls, 1);
    if (*polls % TURNS_A_COUNT != 0)
        return;
    int64_t now_ns = aio_clock_ns();

    if (poll_mode_is_on(ctx))
        poll_mode_tidy(ctx, now_ns);
    if (ctx->poll.found_at_once) {
        ctx->poll.found_at_once = false;
        context_wait_begins(ctx, now_ns);
        context_wait_ends(ctx, now_ns);
    } else {
        count_busy(ctx, now_ns);
    }
}

int64_t context_sleep_begins(AioContext *ctx, int64_t timeout_ns)
{
    int64_t now_ns = aio_clock_ns();

    counter_add(&ctx->instruments.counters->sleeps, 1);
    counter_set(&ctx->instruments.counters->asleep, 1);
    context_wait_begins(ctx, now_ns);
    recorder_note_at(&ctx->instruments, (uint64_t)now_ns, RECORDER_SLEEP, (uint64_t)timeout_ns, 0);
    PROBE2(sleep, ctx, timeout_ns);
    return now_ns;
}

int64_t context_sleep_ends(AioContext *ctx, int64_t begin_ns)
{
    int64_t now_ns = aio_clock_ns();

    counter_set(&ctx->instruments.counters->asleep, 0);
    context_wait_ends(ctx, now_ns);
    recorder_note_at(
        &ctx->instruments, (uint64_t)now_ns, RECORDER_WAKE, (uint64_t)(now_ns - begin_ns), 0);
    PROBE2(wake, ctx, now_ns - begin_ns);
    return now_ns;
}

static void blocking_wait(AioContext *ctx, int64_t timeout_ns)
{
    int64_t begin_ns = context_sleep_begins(ctx, timeout_ns);

    context_monitor_wait(ctx, timeout_ns);
    poll_mode_slept(ctx, begin_ns, context_sleep_ends(ctx, begin_ns));
}

static void look_at_fds(AioContext *ctx)
{
    if (ctx->monitor->need_wait(ctx))
        context_monitor_wait(ctx, 0);
}

/* Sleeps unless there is something after all. */
static void sleep_for_events(AioContext *ctx)
{
    int64_t timeout_ns = 0;

    if (doorbell_prepare_sleep(&ctx->bell) && !sources_pending(ctx))
        timeout_ns = aio_compute_timeout(ctx);
    if (timeout_ns != 0 && ctx->sources && sources_prepare(ctx))
        timeout_ns = 0;
    if (timeout_ns != 0)
        blocking_wait(ctx, timeout_ns);
    else
        look_at_fds(ctx);
    doorbell_end_sleep(&ctx->bell);
}

static void poll_for_events(AioContext *ctx, int64_t timeout_ns)
{
    bool found = poll_mode_run(ctx, timeout_ns);

    if (timeout_ns != 0 && !found)
        sleep_for_events(ctx);
    else if (!ctx->poll.was_asked)
        look_at_fds(ctx);
    if (timeout_ns != 0)
        poll_mode_learn(ctx);
}

static void wait_for_events(AioContext *ctx, bool blocking)
{
    int64_t timeout_ns = blocking ? aio_compute_timeout(ctx) : 0;

    context_flush(ctx); /* what was done between the turns */
    if (poll_mode_is_on(ctx))
        poll_for_events(ctx, timeout_ns);
    else if (timeout_ns != 0)
        sleep_for_events(ctx);
    else
        look_at_fds(ctx);
    if (doorbell_is_rung(&ctx->bell))
        doorbell_accept(&ctx->bell);
}

/* What a phase has pushed or submitted goes out at its end. One that had nothing to do is left out,
 * without a call. */
static bool run_completions(AioContext *ctx)
{
    if (!context_has_completions(ctx) && !ctx->sources)
        return false;
    bool progress = disk_dispatch_completed(ctx);

    progress |= aio_sqe_dispatch(ctx);
    progress |= sources_dispatch(ctx);
    if (progress)
        context_flush(ctx);
    return progress;
}

static bool run_bottom_halves(AioContext *ctx)
{
    if (!bh_are_queued(ctx))
        return false;
    bool progress = aio_bh_poll(ctx);

    context_flush(ctx);
    return progress;
}

static bool run_handlers(AioContext *ctx)
{
    if (!ctx->ready)
        return false;
    bool progress = handlers_dispatch(ctx);

    context_flush(ctx);
    return progress;
}

static bool run_timers(AioContext *ctx)
{
    if (!timers_are_armed(ctx) || !timers_run(ctx))
        return false;
    context_flush(ctx);
    return true;
}

AioContext *context_begin_turn(AioContext *ctx)
{
    assert(!in_coroutine()); /* it would run others on a stack that is not the loop's */
    ctx->nesting++;
    ctx->is_bound = true;
    ctx->note_clock.uses_left = 0;
    count_turn(ctx);
    return context_replace_turning(ctx);
}

bool context_end_turn(AioContext *ctx, AioContext *outer)
{
    bool progress = run_completions(ctx);

    progress |= run_bottom_halves(ctx);
    progress |= run_handlers(ctx);
    /* The outermost turn: no frame holds a handler any more. */
    if (--ctx->nesting == 0 && handlers_are_deleted(ctx))
        handlers_free_deleted(ctx);
    progress |= run_timers(ctx);
    context_replace_turning(outer);
    return progress;
}

bool aio_poll(AioContext *ctx, bool blocking)
{
    context_check_home(ctx);
    PROBE2(poll_begin, ctx, blocking);
    AioContext *outer = context_begin_turn(ctx);
    wait_for_events(ctx, blocking);
    bool progress = context_end_turn(ctx, outer);

    PROBE2(poll_end, ctx, progress);
    return progress;
}
