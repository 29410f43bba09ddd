/* SPDX-License-Identifier: MIT */
#ifndef SHERD_THREAD_POOL_H
#define SHERD_THREAD_POOL_H
/*
 * thread_pool - runs blocking functions in worker threads on behalf of coroutines
 *
 * Why:         some system calls cannot be made without blocking.
 * Use:         int r = thread_pool_submit_co(work, argument);   from a coroutine
 * Concurrency: func runs in a worker thread and must not touch the context or yield.
 * Lifetime:    the pool belongs to a context and begins with its first use; workers leave after
 *              10 s without work; freeing the context waits for them.
 * Not here:    files, which sherd/disk.h reads and writes better
 */
#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int ThreadPoolFunc(void *opaque);

/* Runs func(opaque) in a worker of the current context's pool and returns what it returned. -EAGAIN
 * where not even one thread could be made. */
int coroutine_fn thread_pool_submit_co(ThreadPoolFunc *func, void *opaque);

#ifdef __cplusplus
}
#endif
#endif
