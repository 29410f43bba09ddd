/* SPDX-License-Identifier: MIT */
#ifndef SHERD_TIMER_H
#define SHERD_TIMER_H
/*
 * timer - the clocks of a context, and callbacks at a time
 *
 * Why:         a loop must do things later, on the clock that fits: time that passes, the time of
 *              day, time that goes on through a suspend, or a time that a test makes up.
 * Use:         AioTimer timer;
 *              aio_timer_init(ctx, &timer, on_timeout, opaque);
 *              timer_mod_ns(&timer, aio_clock_ns() + 5 * AIO_SCALE_MS);
 *              timer_del(&timer);    before its memory goes, unless it has fired
 * Concurrency: the callback runs in the owner loop; arming and disarming from any thread.
 * Lifetime:    the caller's, from init on; there is nothing to undo where it is not armed. A
 *              context must not end with an armed timer: it aborts, with the callback's address.
 * Not here:    coroutines that sleep (sherd/coroutine.h)
 *
 * A turn reads each clock once and fires what is due by then, inclusive: by expiry, equal ones as
 * armed. What a callback arms waits for the next turn, even where it is due. Clocks are served in
 * the order of enum AioClock. The kernel ends a sleep late by up to the thread's timer slack, 50 us
 * unless prctl(PR_SET_TIMERSLACK) says otherwise: a context leaves that as it is, and a shard of
 * Sherd sets it to 1 ns. Arming never fails, and neither it nor disarming allocates per timer.
 */
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AioContext AioContext;
typedef void AioTimerFunc(void *opaque);

/* ---- clocks ---- */

/* Nanoseconds each. */
enum AioClock {
    AIO_CLOCK_MONOTONIC, /* since boot, but for time suspended; never jumps */
    AIO_CLOCK_REALTIME,  /* since 1970; may be set: a wait notices, and is then shorter or longer */
    AIO_CLOCK_BOOTTIME,  /* since boot; a timer that came due during a suspend fires after it */
    AIO_CLOCK_VIRTUAL,   /* the context's own: begins at 0, moves where it is told to */
};

/* What a unit of timer_mod() is in nanoseconds. */
#define AIO_SCALE_NS INT64_C(1)
#define AIO_SCALE_US INT64_C(1000)
#define AIO_SCALE_MS INT64_C(1000000)
#define AIO_SCALE_S  INT64_C(1000000000)

/* CLOCK_MONOTONIC now. Context: any thread. */
int64_t aio_clock_ns(void);

/* What clock says now, in a context: only the virtual one differs by context. Context: any
 * thread. */
int64_t aio_clock_get_ns(AioContext *ctx, enum AioClock clock);

/*
 * Stops or starts the timers of a clock in ctx; all clocks are on at first. The clock itself goes
 * on: what came due meanwhile fires when it is started. Stopping waits for a callback of this clock
 * that runs in the loop; called by one (or by what it called) it does not wait for that one. The
 * thread of another loop must not wait so for a callback that waits for it. Context: any thread.
 */
void aio_clock_enable(AioContext *ctx, enum AioClock clock, bool enabled);

/* Ns until the first timer of clock must fire: 0 where one is due, -1 where none is armed or the
 * clock is stopped. Context: any thread, stale at once if others arm. */
int64_t aio_clock_deadline_ns(AioContext *ctx, enum AioClock clock);

/*
 * Sets the virtual clock, to now_ns >= 0 or by delta_ns >= 0 forward (it stops at INT64_MAX), and
 * wakes the loop where a timer is due by that. The loop never waits for virtual time to pass: to
 * run all there is, turn it, ask aio_clock_deadline_ns(), advance by that, and so on. Context: any
 * thread.
 */
void aio_virtual_clock_set_ns(AioContext *ctx, int64_t now_ns);
void aio_virtual_clock_advance_ns(AioContext *ctx, int64_t delta_ns);

/* ---- timers ---- */

/* Embed it; the fields are the loop's. */
typedef struct AioTimer {
    AioContext *ctx;
    int64_t expire_ns; /* -1: not armed */
    int64_t latest_ns; /* when it can wait no more: with its slack */
    uint64_t order;    /* equal ones fire first armed first */
    uint32_t place;    /* idle, due, spilled, or where in the heap */
    uint32_t clock;
    AioTimerFunc *cb;
    void *opaque;
    int64_t slack_ns;
    struct AioTimer *next; /* of those due, or spilled */
    struct AioTimer **link;
    int64_t scale;
} AioTimer;

/* Not armed, of the monotonic clock, in nanoseconds. Context: any thread. */
void aio_timer_init(AioContext *ctx, AioTimer *timer, AioTimerFunc *cb, void *opaque);

/* Of any clock; scale is what a unit of timer_mod() is (AIO_SCALE_MS, or any number > 0 of ns).
 * Context: any thread. */
void aio_timer_init_full(AioContext *ctx, AioTimer *timer, enum AioClock clock, int64_t scale,
    AioTimerFunc *cb, void *opaque);

/* The same on the heap. NULL: no memory. aio_timer_free() disarms it first; NULL does nothing.
 * A callback may free its own timer or another. Context: any thread. */
AioTimer *aio_timer_new(
    AioContext *ctx, enum AioClock clock, int64_t scale, AioTimerFunc *cb, void *opaque);
void aio_timer_free(AioTimer *timer);

/*
 * From its next arming on, timer may fire up to slack_ns (>= 0) late. The loop sleeps until some
 * timer can wait no more, and then fires all that may: timers near each other share one wake-up.
 * Among timers with slack the order is that of the latest moments, expiry plus slack. Context: the
 * caller sees to it that nobody arms timer meanwhile.
 */
void aio_timer_set_slack_ns(AioTimer *timer, int64_t slack_ns);

/* Arms it for expire_ns of its clock, wherever it was before. What is past (and what is negative)
 * fires in the next turn; INT64_MAX never fires. A sleep that is too long is cut short. Context:
 * any thread. */
void timer_mod_ns(AioTimer *timer, int64_t expire_ns);

/* The same in units of its scale; too great for ns is INT64_MAX. Context: any thread. */
void timer_mod(AioTimer *timer, int64_t expire);

/* As timer_mod_ns() and timer_mod(), but only to an earlier time than it is armed for. Context: any
 * thread. */
void timer_mod_anticipate_ns(AioTimer *timer, int64_t expire_ns);
void timer_mod_anticipate(AioTimer *timer, int64_t expire);

/* Disarms it; does not wait for a callback that runs in another thread. Context: any thread. */
void timer_del(AioTimer *timer);

/* Whether it is armed: from arming until its callback begins. Context: any thread. */
bool timer_pending(const AioTimer *timer);

/* Whether it is armed for now_ns of its clock, or earlier. Context: any thread. */
bool timer_expired_ns(const AioTimer *timer, int64_t now_ns);

/* What it is armed for; -1 where it is not. Context: any thread. */
int64_t timer_expire_time_ns(const AioTimer *timer);

#ifdef __cplusplus
}
#endif
#endif
