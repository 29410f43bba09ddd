/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_WAIT_H
#define SHERD_CO_WAIT_H
/*
 * co_wait - a coroutine's wait for one event, that a scope (sherd/co_cancel.h) can end
 *
 * Why:         whether the event or the end of the scope came first is decided in one place, by who
 *              offers the event, and the coroutine is woken once.
 * Use:         struct lock_wait { struct co_wait wait; … } w = {.wait.withdraw = withdraw, …};
 *              publish &w to those who bring the event: they do their part, then aio_co_wake(co)
 *              r = co_wait(&w.wait, __func__);
 *              0: the event came. Else it will not, and &w is nobody else's.
 *              bool withdraw(struct co_wait *wait): takes w back, under the lock of those who bring
 *              the event. true: they had not begun, and will not. false: they have, or can't be
 *              stopped (then perhaps asked to hurry); their aio_co_wake() comes.
 * Concurrency: withdraw runs in the coroutine's thread, in it or outside, at most once a wait. It
 *              must not yield. The event may come from any thread, also before co_wait().
 * Lifetime:    &w lies on the coroutine's stack
 * Not here:    scopes and tokens (sherd/co_cancel.h)
 */
#include "runtime/co_cancel.h"

#ifdef __cplusplus
extern "C" {
#endif

struct co_wait {
    bool (*withdraw)(struct co_wait *wait); /* NULL: no scope ends this wait */
};

/* The running coroutine. Aborts outside, and where it has no context to be woken in. */
Coroutine *coroutine_fn co_wait_self(const char *why);

/*
 * Yields once. 0: the event woke the coroutine. -ECANCELED, -ETIMEDOUT: a scope ended and
 * withdraw() said true. Without a scope it is a yield. Aborts where something wakes the coroutine
 * elsewhere than in its context.
 */
static inline int coroutine_fn co_wait(struct co_wait *wait, const char *why);

/* The scope that the running coroutine began last, or NULL. */
const CoScope *co_scope_innermost(void);

/* As co_wait(), for a coroutine that is in a scope. */
int coroutine_fn co_wait_in_scopes(struct co_wait *wait, const char *why);

/* Inlined, for each frame between a yield and its loop costs a mispredicted return. */
static inline int coroutine_fn co_wait(struct co_wait *wait, const char *why)
{
    if (wait->withdraw && co_scope_innermost())
        return co_wait_in_scopes(wait, why);
    coroutine_yield_at(why);
    return 0;
}

#ifdef __cplusplus
}
#endif
#endif
