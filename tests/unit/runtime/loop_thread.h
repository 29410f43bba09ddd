/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * loop_thread - a context that runs in a thread of its own, for tests
 *
 * Use:  struct loop_thread loop;
 *       loop_thread_start(&loop);   loop.ctx polls until
 *       loop_thread_stop(&loop);
 */
#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"

#define TEST_DEADLINE_S 60

struct loop_thread {
    AioContext *ctx;
    pthread_t thread;
    bool stopped; /* the loop's own */
};

static inline AioContext *test_context_new(void)
{
    struct aio_config config = {.engine = AIO_ENGINE_THREADS};
    AioContext *ctx = NULL;

    assert(aio_context_new(&config, &ctx) == 0);
    return ctx;
}

/* Polls until *what is target at least; false where that takes too long. */
static inline bool poll_until(AioContext *ctx, const int *what, int target)
{
    int64_t deadline_ns = aio_clock_ns() + TEST_DEADLINE_S * INT64_C(1000000000);

    while (atomic_load_acquire(what) < target && aio_clock_ns() < deadline_ns)
        aio_poll(ctx, false);
    return atomic_load_acquire(what) >= target;
}

static inline void loop_thread_stopped(void *opaque)
{
    struct loop_thread *loop = opaque;

    loop->stopped = true;
}

static inline void *loop_thread_run(void *opaque)
{
    struct loop_thread *loop = opaque;

    aio_context_set_current(loop->ctx);
    while (!loop->stopped)
        aio_poll(loop->ctx, true);
    aio_context_set_current(NULL);
    return NULL;
}

static inline void loop_thread_start(struct loop_thread *loop)
{
    loop->ctx = test_context_new();
    loop->stopped = false;
    assert(pthread_create(&loop->thread, NULL, loop_thread_run, loop) == 0);
}

static inline void loop_thread_stop(struct loop_thread *loop)
{
    assert(aio_bh_schedule_oneshot(loop->ctx, loop_thread_stopped, loop) == 0);
    assert(pthread_join(loop->thread, NULL) == 0);
    aio_context_unref(loop->ctx);
}
