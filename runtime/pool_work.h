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
 *              happens exactly once, or until it is taken back.
 * Not here:    the calls for users (runtime/thread_pool.h)
 */
#include <stdint.h>

#include "runtime/thread_pool.h"

struct pool_work {
    ThreadPoolFunc *func;
    void *opaque;
    /* Called from a bottom half. ret holds what func returned. May free work and run a nested
     * loop. */
    void (*finish)(AioContext *ctx, struct pool_work *work);
    int ret;
    struct pool_work *next;
    struct pool_work **link;
    bool has_begun; /* a worker has had it, or it was taken back */
};

/* First in, first out. 0; -ENOMEM; -EAGAIN or another error of pthread_create() where there is no
 * worker and none could be made. On an error work is the caller's again and finish is not
 * called. */
int pool_work_submit(AioContext *ctx, struct pool_work *work);

/* Takes back work that was submitted and is not finished. False where a worker has begun it: then
 * finish is called as ever. */
bool pool_work_cancel(AioContext *ctx, struct pool_work *work);

/* Has finish called in a later turn of work that was taken back, as if func had returned ret. */
void pool_work_finish_later(AioContext *ctx, struct pool_work *work, int ret);

/* Workers that exist, the idle ones included. Context: any thread while the pool is used. */
uint32_t thread_pool_n_threads(AioContext *ctx);
