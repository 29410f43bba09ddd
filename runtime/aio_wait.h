/* SPDX-License-Identifier: MIT */
#ifndef SHERD_AIO_WAIT_H
#define SHERD_AIO_WAIT_H
/*
 * aio_wait - a thread waits, outside a coroutine, for what another one brings about
 *
 * Why:         a loop that must not go on before another thread's work is done still has to run its
 *              own: it turns its own context while it waits.
 * Use:         waiter:  AIO_WAIT_WHILE(ctx, !atomic_load(&request->done));
 *              other:   atomic_store(&request->done, true); aio_wait_kick(waiter_ctx);
 * Concurrency: the condition is read by the waiter and written by whoever, so it is atomic or under
 *              a lock. Two loops that wait for each other's bottom halves do get on: both turn.
 * Lifetime:    the waiter counts are the contexts'. The waiter may go on, and free what held the
 *              condition, as soon as that is false, which is before the kick: who kicks takes the
 *              waiter's context out of it first, with a reference where that may end too.
 * Not here:    waiting in a coroutine, which yields instead (sherd/coroutine.h)
 *
 * Waits nest. A kick makes every wait of that context look again; it comes after the condition has
 * become false for good.
 */
#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Turns ctx, whose home is this thread, while the condition holds. Is true where it had to wait,
 * false where the condition was false from the start. Not in a coroutine. Context: owner loop.
 */
#define AIO_WAIT_WHILE(ctx, condition)    \
    __extension__({                       \
        AioContext *aio_wait_ctx = (ctx); \
        bool aio_wait_waited = false;     \
                                          \
        aio_wait_begin(aio_wait_ctx);     \
        while (condition) {               \
            aio_poll(aio_wait_ctx, true); \
            aio_wait_waited = true;       \
        }                                 \
        aio_wait_end(aio_wait_ctx);       \
        aio_wait_waited;                  \
    })

/* The two ends of AIO_WAIT_WHILE: between them a kick wakes ctx. Context: owner loop. */
void aio_wait_begin(AioContext *ctx);
void aio_wait_end(AioContext *ctx);

/* Whoever waits in ctx looks at its condition again. Costs a fence where nobody does. Context: any
 * thread, signal handler. */
void aio_wait_kick(AioContext *waiter);

/*
 * Runs cb in ctx as a bottom half, and returns when it has returned; meanwhile this thread's
 * current context, which must be there, turns. 0 or -ENOMEM, then cb does not run. Context: owner
 * loop of any context, outside coroutines; ctx stays until it returns.
 */
int aio_wait_bh_oneshot(AioContext *ctx, BHFunc *cb, void *opaque);

#ifdef __cplusplus
}
#endif
#endif
