/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_TIMEOUT_H
#define SHERD_CO_TIMEOUT_H
/*
 * co_timeout - a limit for a function that can't be ended, only left behind
 *
 * Why:         code that waits by plain yields knows nothing of scopes; the caller goes on
 *              without it.
 * Use:         r = co_timeout(ask_peer, request, SECOND_NS, request_free);
 *              -ETIMEDOUT: request belongs to ask_peer() until request_free() is called
 * Concurrency: a coroutine of any context; entry begins in the same one, and may move.
 * Lifetime:    what opaque points to belongs to entry, until clean is called where there was a
 *              timeout
 * Not here:    ending the wait itself (sherd/co_cancel.h), which is better where it can be had
 */
#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void CoCleanFunc(void *opaque);

/*
 * Runs entry(opaque) in a coroutine of its own and waits for its end, timeout_ns at most; 0 and
 * less is for ever. 0: it ended. -ETIMEDOUT, or -ECANCELED where a scope ended: it goes on, and
 * clean(opaque) runs in it after its end; clean may be NULL. -ENOMEM: it did not begin, and clean
 * does not run.
 */
int coroutine_fn co_timeout(
    CoroutineEntry *entry, void *opaque, int64_t timeout_ns, CoCleanFunc *clean);

#ifdef __cplusplus
}
#endif
#endif
