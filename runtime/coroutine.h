/* SPDX-License-Identifier: MIT */
#ifndef SHERD_COROUTINE_H
#define SHERD_COROUTINE_H
/*
 * coroutine - functions with a stack of their own that wait without blocking their thread
 *
 * Why:         straight-line code for work that waits for disks, peers and locks.
 * Use:         Coroutine *co = coroutine_create(serve, request);  if (!co) … -ENOMEM
 *              coroutine_enter(co);            runs serve() until it yields or returns
 *              aio_co_wake(co);                goes on where it yielded, from any thread
 * Concurrency: a coroutine runs in one thread at a time: the home thread of the context that enters
 *              it. coroutine_fn marks what may yield: call it from a coroutine alone.
 * Lifetime:    from coroutine_create() to the return of its entry function; its stack then goes
 *              back to a pool of the thread. It must not return with a CoMutex held.
 * Not here:    locks and what else coroutines wait for (sherd/co_….h), disk I/O (sherd/disk.h)
 *
 * Never keep the address of a thread-local variable (errno too) over a yield.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Marks a function that may yield. */
#define coroutine_fn

typedef struct Coroutine Coroutine;
typedef void CoroutineEntry(void *opaque); /* coroutine_fn */

#define COROUTINE_STACK_BYTES ((size_t)256 * 1024) /* default; only touched pages cost memory */

/*
 * Makes a coroutine, which belongs to this thread's current context (none: to no context, until it
 * is entered or scheduled). stack_bytes 0: COROUTINE_STACK_BYTES; else it is rounded up to a power
 * of two of at least 16 KiB, above 8 MiB to pages. The name is kept as a pointer. NULL with errno:
 * ENOMEM (no memory, or no map left for a stack and its guard), EINVAL (stack_bytes is absurd).
 * Context: any thread.
 */
Coroutine *coroutine_create_full(
    CoroutineEntry *entry, void *opaque, const char *name, size_t stack_bytes);
#define coroutine_create(entry, opaque) coroutine_create_full(entry, opaque, #entry, 0)

/* Frees a coroutine that was never entered; NULL does nothing. Aborts where it was, or is
 * scheduled: what has begun ends by returning. Context: any thread. */
void coroutine_delete(Coroutine *co);

/*
 * How many idle stacks this thread keeps at most, for coroutines to come; what is more is unmapped
 * at once. A pool grows to as many as were in use together and shrinks slowly with use, but an idle
 * one holds all memory that its stacks have touched: 0 gives that back. 0 or -ENOMEM. Context: any
 * thread.
 */
#define COROUTINE_POOL_MAX ((uint32_t)128 * 1024) /* where nothing is said */
int coroutine_pool_set_max(uint32_t n_stacks);

/* Runs co in this thread's current context until it yields or ends, then what it woke meanwhile.
 * Aborts where co runs already or is scheduled. Context: owner loop | coroutine. */
void coroutine_enter(Coroutine *co);

/* coroutine_enter() unless coroutine_entered(). Context: home thread of where co runs. */
void coroutine_enter_if_inactive(Coroutine *co);

/* Back to whoever entered. The string says why, for tools; it must be a constant. */
void coroutine_fn coroutine_yield_at(const char *why);
#define coroutine_yield() coroutine_yield_at(__func__)

/* The running coroutine, NULL outside; whether there is one. Context: any thread. */
Coroutine *coroutine_self(void);
bool in_coroutine(void);

/* Entered and not yet back (it may have entered another one). Context: home thread of where co
 * runs. */
bool coroutine_entered(const Coroutine *co);

/* The context it runs or last ran in; before its first enter the one it was made in. NULL: none.
 * Context: any thread; of use where co can't move meanwhile. */
AioContext *coroutine_get_aio_context(const Coroutine *co);

/* Bytes of its stack, and how many of them it has touched at most, in whole pages. A stack that was
 * used before counts what its former users touched. Asks the kernel: for tools and tests. Context:
 * any thread, while co exists. */
size_t coroutine_stack_bytes(const Coroutine *co);
size_t coroutine_stack_high_water(const Coroutine *co);

/* Runs co later in ctx. It must have yielded, unless ctx is where it runs now. A second call before
 * it has run aborts, naming both callers. Context: any thread. */
void aio_co_schedule_at(AioContext *ctx, Coroutine *co, const char *site);
#define aio_co_schedule(ctx, co) aio_co_schedule_at(ctx, co, __func__)

/* Runs co in ctx: at once where this thread is ctx's home and outside a coroutine; after the
 * running coroutine yields where it is ctx's home; else as aio_co_schedule(). Context: any thread.
 */
void aio_co_enter(AioContext *ctx, Coroutine *co);

/* aio_co_enter() with coroutine_get_aio_context(): a new coroutine begins. Aborts where that is
 * NULL. It may come before the yield it answers, so wait like this: start it; coroutine_yield()
 * once. Context: any thread. */
void aio_co_wake(Coroutine *co);

/* Moves the running coroutine to another context of this process, when its stack is at rest. */
void coroutine_fn aio_co_reschedule_self(AioContext *ctx);

#ifdef __cplusplus
}
#endif

/* For those who include this one alone. */
#include "runtime/co_mutex.h"
#include "runtime/co_queue.h"
#include "runtime/co_sleep.h"

#endif
