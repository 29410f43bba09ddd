/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_portable - coroutines on memory of the caller's, which may go on in another process
 *
 * Why:         a coroutine that moves between processes has its stack where both map it, and is
 *              given away only when nothing runs on that any more.
 * Use:         co = co_portable_create(low, bytes, entry, opaque, name, ended, low);
 *              in it: r = co_portable_check(&why); if (r == 0) co_yield_then("move", publish, …);
 *              publish(), on the loop's stack: co_portable_leave(co); then make it known
 *              there: co_portable_arrive(co); coroutine_enter(co);
 * Concurrency: owner loop of where it is; between leave and arrive nobody touches it.
 * Lifetime:    the memory is the caller's again when ended() is called, on the loop's stack.
 * Not here:    whose it is meanwhile, and what a death means (shard/arena.h); what it may hold
 *              (docs/portable.md)
 *
 * entry, ended and name are addresses of the image, the same in all processes forked from it.
 */
#include "runtime/coroutine.h"

/* Context: owner loop, outside co, whose switch is complete. */
typedef void CoPortableFn(Coroutine *co, void *opaque);

/* The coroutine, its struct at the top of [low, low + bytes), below which its guard must lie. It is
 * made for this thread's current context. */
Coroutine *co_portable_create(void *low, size_t bytes, CoroutineEntry *entry, void *opaque,
    const char *name, CoPortableFn *ended, void *ended_opaque);

/* What tools show as its first function, where entry is but a way to that. Before it is first
 * entered. */
void co_portable_begins_in(Coroutine *co, const void *function);

/* What ended_opaque was; NULL: co is none of these with that ended(). Context: any thread. */
void *co_portable_of(const Coroutine *co, CoPortableFn *ended);

/* Yields; then is called once nothing runs on the stack of this coroutine, and may publish it or
 * schedule it. Returns when somebody enters it again. */
void coroutine_fn co_yield_then(const char *why, CoPortableFn *then, void *opaque);

/* Whether the running coroutine may go on elsewhere: 0; -EBUSY, and *ret_why is a constant: it
 * holds a lock, is in a scope with a token, or is pinned; -ENOTSUP: a sanitizer keeps part of its
 * stack in memory of this process. */
int coroutine_fn co_portable_check(const char **ret_why);

/* Takes co out of the books of this process: nothing of it is in co afterwards. */
void co_portable_leave(Coroutine *co);

/* Forgets what another process, which may be dead, left in co. */
void co_portable_arrive(Coroutine *co);

/* The running coroutine stays in this process from pin to unpin, for a reason that is a constant:
 * something here, I/O in flight for one, has addresses of its stack. They nest; the first reason
 * is told. */
void coroutine_fn co_pin(const char *why);
void coroutine_fn co_unpin(void);

/* Where its stack was left, while it does not run: from there to the end it is alive. */
const void *co_portable_position(const Coroutine *co, const void **ret_end);
