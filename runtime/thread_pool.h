/* SPDX-License-Identifier: MIT */
#ifndef SHERD_THREAD_POOL_H
#define SHERD_THREAD_POOL_H
/*
 * thread_pool - runs blocking functions in worker threads, and hands back what they return
 *
 * Why:         some system calls cannot be made without blocking.
 * Use:         int r = thread_pool_submit_co(work, argument);   from a coroutine
 *              thread_pool_submit_aio(work, argument, on_done, opaque, NULL);   from a callback
 * Concurrency: the functions below: owner loop, of the thread's current context. The work runs in a
 *              worker thread, which blocks all signals and has the loop's affinity; it must not
 *              touch the context or yield. Work begins first in, first out.
 * Lifetime:    the pool belongs to a context and begins with its first use; a worker is made where
 *              there is more work than idle ones, and leaves after 10 s without. Freeing the
 *              context waits for the workers, and aborts where something is still under way.
 * Not here:    files, which sherd/disk.h reads and writes better
 *
 * Errors of the submits: -ENOMEM, and where there is no worker and not even one could be made,
 * -EAGAIN (RLIMIT_NPROC, pids.max) or whatever else pthread_create() says. Nothing runs then, and
 * nothing is called back.
 */
#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int ThreadPoolFunc(void *opaque);
typedef void ThreadPoolDone(void *opaque, int ret);
typedef struct ThreadPoolCall ThreadPoolCall;

/*
 * Runs func(opaque) in a worker and returns what it returned, or an error as above. A scope
 * (sherd/co_cancel.h) ends the wait with -ECANCELED or -ETIMEDOUT as long as no worker has begun;
 * after that func runs to its end, and what it returned counts.
 */
int coroutine_fn thread_pool_submit_co(ThreadPoolFunc *func, void *opaque);

/*
 * Has func(argument) run in a worker, then calls done(opaque, what func returned) from a bottom
 * half of the loop, exactly once and never before this call has returned. 0 and, where ret_call is
 * not NULL, a handle that is good until done begins; or an error as above. Context: owner loop |
 * coroutine.
 */
int thread_pool_submit_aio(ThreadPoolFunc *func, void *argument, ThreadPoolDone *done, void *opaque,
    ThreadPoolCall **ret_call);

/* The same with nobody to call back. Context: owner loop | coroutine. */
int thread_pool_submit(ThreadPoolFunc *func, void *argument);

/* True: no worker has begun it and none will; done is called with -ECANCELED in a later turn.
 * False: it runs, or has run, and done is called as ever. Context: owner loop | coroutine. */
bool thread_pool_cancel(ThreadPoolCall *call);

/*
 * How many workers ctx may have, and how many stay when there is nothing to do (those are made when
 * the pool begins, as far as threads can be had). At first 0, and what struct aio_config says or
 * 16. Where there are more than max, some leave after their present work. 0, or -EINVAL: min
 * negative or above max, max 0 or above INT32_MAX. Context: owner loop, or before it first runs.
 */
int aio_context_set_thread_pool_params(AioContext *ctx, int64_t min, int64_t max);

/* How long a worker above the minimum stays without work: idle_ns >= 0 of CLOCK_MONOTONIC; 10 s at
 * first. Context: owner loop, or before it first runs. */
void aio_context_set_thread_pool_idle_ns(AioContext *ctx, int64_t idle_ns);

#ifdef __cplusplus
}
#endif
#endif
