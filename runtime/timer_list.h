/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * timer_list - the timers of one clock in one context, and the group of a context's lists
 *
 * Why:         the loop asks how long it may sleep, and fires what is due.
 * Use:         timers_init(ctx) … timers_timeout_ns(ctx), timers_run(ctx) … timers_finalise(ctx)
 * Concurrency: each list under its lock; first_ns is also read without.
 * Lifetime:    the context's
 * Not here:    what users call (runtime/timer.h)
 */
#include <pthread.h>

#include "runtime/clock_fd.h"
#include "runtime/timer_heap.h"

#define N_CLOCKS    (AIO_CLOCK_VIRTUAL + 1)
#define TIMER_NEVER INT64_MAX

struct timer_list {
    pthread_mutex_t lock;
    pthread_cond_t idle; /* n_running fell to 0 */

    /* Under the lock. */
    struct timer_heap heap;
    AioTimer *due; /* to be called in this order */
    AioTimer **due_last;
    uint64_t n_armed;   /* gives each arming its order */
    uint32_t n_running; /* callbacks on the loop's stack */
    pthread_t runner;   /* valid while n_running > 0 */
    bool stopped;

    struct clock_fd clock_fd; /* the owner loop's; clocks that may jump */
};

struct timer_group {
    int64_t first_ns[N_CLOCKS]; /* when the loop must look; TIMER_NEVER: nothing armed, stopped */
    int64_t virtual_now_ns;     /* written under the virtual list's lock */
    struct timer_list lists[N_CLOCKS];
};

void timers_init(AioContext *ctx);

/* Fires what is due; returns progress. Context: owner loop. */
bool timers_run(AioContext *ctx);

/* Ns until something is due, -1: nothing will be. What a clock that may jump must wake the loop
 * for, its fd is told here. Context: owner loop, before it may sleep. */
int64_t timers_timeout_ns(AioContext *ctx);

/* Aborts on a timer still armed. Context: the last unref. */
void timers_finalise(AioContext *ctx);

/* timer.c: notes when the list's first timer is due. Returns whether the loop must look earlier
 * than it knew. Under the list's lock. */
bool timer_list_refresh(AioContext *ctx, enum AioClock clock);
