/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pool_work - the thread pool as the disk engines and the tests see it
 *
 * Why:         an engine must not allocate for each request, and is no coroutine: it embeds the
 *              work and is called back.
 * Use:         work->func = blocking; work->finish = collect; pool_work_submit(ctx, work)
 * Concurrency: func runs in a worker thread, finish in the owner loop; the rest: owner loop.
 * Lifetime:    work is the pool's from a submit that returned 0 until finish is called, which
 *              happens exactly once.
 * Not here:    the call for coroutines (runtime/thread_pool.h)
 */
#include <stdint.h>

#include "runtime/thread_pool.h"

struct pool_work {
    ThreadPoolFunc *func;
    void *opaque;
    /* Collects: no user code, no yield. ret holds what func returned. */
    void (*finish)(AioContext *ctx, struct pool_work *work);
    int ret;
    struct pool_work *next;
};

/* First in, first out. 0; -ENOMEM; -EAGAIN where there is no worker and none could be made. On an
 * error work is the caller's again and finish is not called. */
int pool_work_submit(AioContext *ctx, struct pool_work *work);

/* Takes back work that was submitted and is not finished. False where a worker has begun it: then
 * finish is called as ever. */
bool pool_work_cancel(AioContext *ctx, struct pool_work *work);

/* Workers that exist, the idle ones included. */
uint32_t thread_pool_n_threads(AioContext *ctx);

/* How long a worker without work stays; 10 s unless set. Counts from its next wait on. For tests,
 * which can't wait for 10 s; nothing else sets it. */
int thread_pool_set_idle_ns(AioContext *ctx, int64_t idle_ns);
