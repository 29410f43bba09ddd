/* SPDX-License-Identifier: MIT */
#include "runtime/timer.h"
/*
 * The virtual clock is a word of its context, written by who moves it: SLEEP, in timer_clock.c. The
 * loop reads it after it has raised notify_me.
 */
#include <time.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

#define NS_PER_S INT64_C(1000000000)

static int64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t aio_clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

int64_t aio_clock_get_ns(AioContext *ctx, enum AioClock clock)
{
    switch (clock) {
    case AIO_CLOCK_MONOTONIC:
        break;
    case AIO_CLOCK_REALTIME:
        return read_clock(CLOCK_REALTIME);
    case AIO_CLOCK_BOOTTIME:
        return read_clock(CLOCK_BOOTTIME);
    case AIO_CLOCK_VIRTUAL:
        return atomic_load_relaxed(&ctx->timers.virtual_now_ns); /* SLEEP */
    }
    return aio_clock_ns();
}
