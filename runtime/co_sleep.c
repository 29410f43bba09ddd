/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine.h"
/*
 * The timer lies on the sleeper's stack. The sleeper holds the right to enter itself, so that anyone
 * else who wakes it aborts instead of leaving an armed timer on a stack that is used otherwise.
 */
#include "runtime/bug.h"
#include "runtime/coroutine_inside.h"

static void wake_sleeper(void *opaque)
{
    Coroutine *co = opaque;

    co_unclaim(co);
    aio_co_wake(co);
}

static int64_t after_ns(int64_t ns)
{
    int64_t now_ns = aio_clock_ns();

    if (ns < 0)
        return now_ns;
    return ns < INT64_MAX - 1 - now_ns ? now_ns + ns : INT64_MAX - 1;
}

void coroutine_fn co_sleep_ns(int64_t ns)
{
    Coroutine *self = coroutine_self();
    AioTimer timer;

    if (!self || !self->ctx)
        bug("%s outside a coroutine of a context", __func__);
    int64_t expire_ns = after_ns(ns);
    aio_timer_init(self->ctx, &timer, wake_sleeper, self);
    co_claim(self, __func__);
    timer_mod_ns(&timer, expire_ns);
    coroutine_yield_at(__func__);
}
