/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * clock_fd - an fd that wakes a loop at a moment of a clock that may jump
 *
 * Why:         a wait is measured on CLOCK_MONOTONIC. It would sleep on where the time of day is
 *              set forward, and does not count a suspend.
 * Use:         before a sleep: clock_fd_set(ctx, &fd, clock, first_ns); clock_fd_drop() at the end
 * Concurrency: owner loop
 * Lifetime:    its context's; zero bytes are one that is not open. Opened and watched from
 *              when it is first set, so that a context without such timers has nothing of it.
 * Not here:    what is due (runtime/timer_list.h): a wake-up only makes the loop look at the clock
 */
#include "runtime/timer.h"

struct clock_fd {
    int fd;         /* while is_open */
    int64_t set_ns; /* INT64_MAX: not set */
    bool is_open;
    bool is_watched;
};

/*
 * Sees to it that a wait ends when clock (AIO_CLOCK_REALTIME, AIO_CLOCK_BOOTTIME) reaches first_ns,
 * or is set beyond it; INT64_MAX: need not any more. No system call where nothing has changed.
 * False where no fd can be had.
 */
bool clock_fd_set(
    AioContext *ctx, struct clock_fd *clock_fd, enum AioClock clock, int64_t first_ns);

/* The fd's callback: aio_poll() tells by it that it is the loop's own, and no progress. */
void clock_fd_on_ready(void *opaque);

/* Closes it. Nobody waits for it any more. */
void clock_fd_drop(struct clock_fd *clock_fd);
