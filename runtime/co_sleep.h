/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_SLEEP_H
#define SHERD_CO_SLEEP_H
/*
 * co_sleep - a coroutine that waits for a time, or to be told not to wait any longer
 *
 * Why:         pauses between attempts, and pacing, that end early where they have become
 *              pointless.
 * Use:         co_sleep_ns(5 * MS_NS);
 *              or, with a CoSleep that others can see:
 *              co_sleep_ns_wakeable(&sleep, AIO_CLOCK_MONOTONIC, 5 * MS_NS);
 *              and in any thread: co_sleep_wake(&sleep);
 * Concurrency: one sleeper at a time, the next one as soon as the sleep has ended; waking, any
 *              thread
 * Lifetime:    the caller embeds a CoSleep
 * Not here:    a limit for what something else takes (sherd/co_cancel.h, sherd/co_timeout.h)
 *
 * All of these end with -ECANCELED or -ETIMEDOUT where a scope does.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/coroutine.h"
#include "runtime/timer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct co_sleeper;

/* The fields are its own. Zero bytes are one in which nobody sleeps. */
typedef struct CoSleep {
    pthread_mutex_t lock;
    struct co_sleeper *sleeper;
} CoSleep;

/* Context: any thread. */
void co_sleep_init(CoSleep *sleep);

/* Aborts where a coroutine sleeps in it. Context: any thread. */
void co_sleep_deinit(CoSleep *sleep);

/* Sleeps for ns of CLOCK_MONOTONIC; 0 and less is one turn of the loop. 0, or an error as above. */
int coroutine_fn co_sleep_ns(int64_t ns);

/* Until co_sleep_wake(), or for ns of clock at most. 1: it was woken; 0: the time is over; or an
 * error. */
int coroutine_fn co_sleep_ns_wakeable(CoSleep *sleep, enum AioClock clock, int64_t ns);

/* Until co_sleep_wake(). 1, or an error. */
int coroutine_fn co_sleep(CoSleep *sleep);

/* Ends the sleep of who sleeps now; nothing where nobody does: what must not be missed needs a
 * condition. In a coroutine the sleeper runs after it yields, outside it is scheduled. Context: any
 * thread. */
void co_sleep_wake(CoSleep *sleep);

#ifdef __cplusplus
}
#endif
#endif
