/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine.h"
/*
 * Who enters a suspended coroutine must be one. The right is the field `scheduled`, claimed by
 * compare-and-swap with the name of the claimer, so that a second claim can tell of both. It is
 * held by whoever has put the coroutine on a list, or sleeps with it, and given up just before it
 * is entered.
 *
 * A context's scheduled coroutines are pushed by any thread and taken whole by its bottom half,
 * which reverses them, so they run first come, first served. A coroutine that schedules or wakes
 * itself, or is woken before it has yielded, goes that way too: the bottom half can't run before
 * the yield, for both are the home thread's.
 *
 * Orderings  first                   then              ordered by                if broken
 *   CLAIM    fields of co, unclaim   next claim of it  release store, claim CAS  stale fields run
 */
#include <errno.h>

#include "runtime/bug.h"
#include "runtime/co_registry.h"
#include "runtime/coroutine_inside.h"

/* ---- the right to enter ---- */

void co_claim(Coroutine *co, const char *site)
{
    const char *holder = NULL;

    if (!atomic_cas_seq(&co->scheduled, &holder, site))
        bug("coroutine %s: scheduled by %s, but was already by %s", co->name, site, holder);
}

void co_unclaim(Coroutine *co)
{
    atomic_store_release(&co->scheduled, NULL); /* CLAIM */
}

/* ---- scheduling ---- */

void co_schedule_claimed(AioContext *ctx, Coroutine *co)
{
    Coroutine *first = NULL;

    /* Once pushed, co may run, and what it does may free ctx. */
    aio_context_ref(ctx);
    do {
        co->next = first;
    } while (!atomic_cas_seq(&ctx->scheduled_coroutines, &first, co));
    bh_schedule(ctx->co_schedule_bh);
    aio_context_unref(ctx);
}

void aio_co_schedule_at(AioContext *ctx, Coroutine *co, const char *site)
{
    co_claim(co, site);
    if (co == coroutine_self() && ctx != co->ctx) {
        co->move_to = ctx;
        co->after = CO_AFTER_MOVE;
        return;
    }
    co_registry_leave_for(ctx, co);
    co_schedule_claimed(ctx, co);
}

void aio_co_enter(AioContext *ctx, Coroutine *co)
{
    Coroutine *self = coroutine_self();

    if (ctx != aio_context_current() || co->entered) {
        aio_co_schedule_at(ctx, co, __func__);
    } else if (self) {
        co_claim(co, __func__);
        co_list_append(&self->woken, co);
    } else {
        coroutine_enter(co);
    }
}

void aio_co_wake(Coroutine *co)
{
    if (!co->ctx)
        bug("coroutine %s was woken, but belongs to no context", co->name);
    aio_co_enter(co->ctx, co);
}

void coroutine_fn aio_co_reschedule_self(AioContext *ctx)
{
    Coroutine *self = coroutine_self();

    if (!self)
        bug("%s outside a coroutine", __func__);
    if (ctx == self->ctx)
        return;
    co_claim(self, __func__);
    self->move_to = ctx;
    self->after = CO_AFTER_MOVE;
    coroutine_yield_at(__func__);
}

/* ---- a context's part ---- */

static Coroutine *take_scheduled(AioContext *ctx)
{
    Coroutine *newest_first = atomic_xchg_seq(&ctx->scheduled_coroutines, NULL);
    Coroutine *oldest_first = NULL;

    while (newest_first) {
        Coroutine *co = newest_first;

        newest_first = co->next;
        co->next = oldest_first;
        oldest_first = co;
    }
    return oldest_first;
}

static void co_schedule_bh(void *opaque)
{
    AioContext *ctx = opaque;
    Coroutine *co = take_scheduled(ctx);

    while (co) {
        Coroutine *next = co->next;

        co_unclaim(co);
        co_enter_in(ctx, co);
        co = next;
    }
}

int coroutine_context_init(AioContext *ctx)
{
    ctx->co_registry = co_registry_new(&ctx->instruments);
    ctx->co_schedule_bh = aio_bh_new(ctx, co_schedule_bh, ctx);
    if (ctx->co_registry && ctx->co_schedule_bh && cancel_context_init(ctx) == 0)
        return 0;
    coroutine_context_deinit(ctx);
    return -ENOMEM;
}

void coroutine_context_deinit(AioContext *ctx)
{
    const Coroutine *co = atomic_load_acquire(&ctx->scheduled_coroutines); /* CLAIM */

    if (co)
        bug("a context ends with coroutine %s still scheduled by %s", co->name, co->scheduled);
    bh_delete(ctx->co_schedule_bh);
    ctx->co_schedule_bh = NULL;
    cancel_context_deinit(ctx);
    co_registry_close(ctx->co_registry);
    ctx->co_registry = NULL;
}
