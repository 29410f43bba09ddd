/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine.h"
/*
 * A coroutine is entered by a loop on the stack of whoever calls coroutine_enter(), and each yield
 * comes back to that loop. The loop then does, on its own stack and in this order, what must not be
 * done before the switch is complete:
 *   1. it puts the coroutines that this one woke before those it has still to enter: depth
 *      first, and with a chain of any length on one frame of stack;
 *   2. it frees a coroutine that ended, or pushes one that moves to the context it moves to. From
 *      then on another thread may run it, so this is the loop's last touch.
 *
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
#include <string.h>

#include "runtime/bug.h"
#include "runtime/co_registry.h"
#include "runtime/coroutine_inside.h"
#include "runtime/coroutine_switch.h"

/* Never inlined: a coroutine that moved to another thread must not keep the address. */
__attribute__((noinline)) static Coroutine **current_slot(void)
{
    static __thread Coroutine *current;

    __asm__ volatile("");
    return &current;
}

__attribute__((noinline)) Coroutine *coroutine_self(void)
{
    __asm__ volatile("");
    return *current_slot();
}

bool in_coroutine(void)
{
    return coroutine_self() != NULL;
}

bool coroutine_entered(const Coroutine *co)
{
    return co->entered;
}

/* ---- lists ---- */

static void list_append(struct co_list *list, Coroutine *co)
{
    co->next = NULL;
    if (list->first)
        *list->last = co;
    else
        list->first = co;
    list->last = &co->next;
}

static Coroutine *list_pop(struct co_list *list)
{
    Coroutine *co = list->first;

    if (co)
        list->first = co->next;
    return co;
}

/* Puts all of front before list and leaves front empty. */
static void list_prepend(struct co_list *list, struct co_list *front)
{
    if (!front->first)
        return;
    *front->last = list->first;
    if (!list->first)
        list->last = front->last;
    list->first = front->first;
    front->first = NULL;
}

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

/* ---- birth and end ---- */

/* The bottom of a coroutine's stack. Never returns: the stack is given back by who entered last. */
static void run(void *opaque)
{
    Coroutine *co = opaque;

    co_sanitize_arrive(&co->inside.sanitize, &co->outside.sanitize);
    co->entry(co->opaque);
    co->ended = true;
    co->entered = false;
    co_sanitize_leave(&co->inside.sanitize, &co->outside.sanitize, true);
    co_switch(&co->inside.position, co->outside.position);
    bug("coroutine %s was entered after its end", co->name);
}

/* It is counted, and shown to tools, in the context where it runs; a new one where it was made. ctx
 * is this thread's, or NULL. */
static void arrive_in(AioContext *ctx, Coroutine *co)
{
    if (co->registry)
        co_registry_remove_from_afar(co);
    if (!ctx)
        return;
    co_registry_add(ctx->co_registry, co);
    if (co->counted)
        return;
    co->counted = true;
    counter_add(&ctx->instruments.counters->co_created, 1);
    recorder_note_at(&ctx->instruments, co->created_ns, RECORDER_CO_CREATE, co->registry_id,
        (uint64_t)(uintptr_t)co->entry);
}

Coroutine *coroutine_create_full(
    CoroutineEntry *entry, void *opaque, const char *name, size_t stack_bytes)
{
    struct co_stack stack;

    if (!co_stack_take(stack_bytes, &stack))
        return NULL;
    size_t room = (stack.bytes - sizeof(Coroutine)) & ~(size_t)(_Alignof(Coroutine) - 1);
    Coroutine *co = (void *)((char *)stack.low + room);
    *co = (Coroutine){.entry = entry,
        .opaque = opaque,
        .name = name,
        .created_ns = (uint64_t)aio_clock_ns(),
        .stack = stack};
    co_sanitize_begin(&co->inside.sanitize, stack.low, room);
    co->inside.position = co_switch_prepare(stack.low, room, run, co);
    arrive_in(aio_context_current(), co);
    return co;
}

static void depart(Coroutine *co)
{
    const struct aio_instruments *in = &co->ctx->instruments;

    if (in->n_events > 0)
        recorder_note(in, RECORDER_CO_END, co->registry_id, 0);
    co_registry_remove(co);
}

/* Context: home thread of where it ended. */
static void destroy(Coroutine *co)
{
    struct co_stack stack = co->stack;

    if (co->locks_held)
        bug("coroutine %s ended with %u locks held", co->name, co->locks_held);
    if (co->scope)
        bug("coroutine %s ended in a scope that it began", co->name);
    if (co->scheduled)
        bug("coroutine %s ended, but was scheduled by %s", co->name, co->scheduled);
    if (co->registry)
        depart(co);
    co_sanitize_end(&co->inside.sanitize);
    co_stack_give(&stack);
}

/* ---- enter and yield ---- */

/* Takes it off the list here; only this thread may do so at once. */
static void leave_for(AioContext *to, Coroutine *co)
{
    AioContext *here = aio_context_current();

    if (here && here != to && co->registry == here->co_registry)
        co_registry_remove(co);
}

static void switch_into(Coroutine *co, Coroutine **current)
{
    Coroutine *self = *current;

    co->entered = true;
    *current = co;
    co_sanitize_leave(&co->outside.sanitize, &co->inside.sanitize, false);
    co_switch(&co->outside.position, co->inside.position);
    co_sanitize_arrive(&co->outside.sanitize, &co->inside.sanitize);
    *current = self;
}

static void note_enter(AioContext *ctx, Coroutine *co)
{
    if (co->registry != (ctx ? ctx->co_registry : NULL))
        arrive_in(ctx, co);
    if (co->listed)
        atomic_store_relaxed(&co->listed->wait_site, (uint64_t)0); /* WAIT */
    if (ctx)
        counter_add(&ctx->instruments.counters->co_switches, 1);
}

/* Schedules a coroutine that is claimed already. Context: any thread. */
static void co_schedule_claimed(AioContext *ctx, Coroutine *co)
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

/* What must wait until nothing runs on co's stack. co may be gone after it. */
static void settle(Coroutine *co)
{
    AioContext *move_to = co->move_to;

    if (co->ended) {
        destroy(co);
    } else if (move_to) {
        co->move_to = NULL;
        leave_for(move_to, co);
        co_schedule_claimed(move_to, co);
    }
}

/* Enters co in ctx, this thread's, and then whom it woke. Nobody holds the right to enter co. */
static void enter_in(AioContext *ctx, Coroutine *co)
{
    Coroutine **current = current_slot(); /* the frames of this loop stay in this thread */
    struct co_list pending = {.first = NULL};

    for (;;) {
        if (co->entered)
            bug("coroutine %s was entered while it runs", co->name);
        note_enter(ctx, co);
        co->ctx = ctx;
        switch_into(co, current);
        list_prepend(&pending, &co->woken);
        settle(co);
        co = list_pop(&pending);
        if (!co)
            return;
        co_unclaim(co);
    }
}

void coroutine_enter(Coroutine *co)
{
    const char *holder = atomic_load_acquire(&co->scheduled); /* CLAIM */

    if (holder)
        bug("coroutine %s was entered, but is scheduled by %s", co->name, holder);
    enter_in(aio_context_current(), co);
}

void coroutine_fn coroutine_yield_at(const char *why)
{
    Coroutine *self = coroutine_self();

    if (!self)
        bug("%s yields outside a coroutine", why);
    if (self->listed)
        atomic_store_relaxed(&self->listed->wait_site, (uint64_t)(uintptr_t)why); /* WAIT */
    self->entered = false;
    co_sanitize_leave(&self->inside.sanitize, &self->outside.sanitize, false);
    co_switch(&self->inside.position, self->outside.position);
    co_sanitize_arrive(&self->inside.sanitize, &self->outside.sanitize);
}

/* ---- scheduling ---- */

void aio_co_schedule_at(AioContext *ctx, Coroutine *co, const char *site)
{
    co_claim(co, site);
    if (co == coroutine_self() && ctx != co->ctx) {
        co->move_to = ctx;
        return;
    }
    leave_for(ctx, co);
    co_schedule_claimed(ctx, co);
}

void aio_co_enter(AioContext *ctx, Coroutine *co)
{
    Coroutine *self = coroutine_self();

    if (ctx != aio_context_current() || co->entered) {
        aio_co_schedule_at(ctx, co, __func__);
    } else if (self) {
        co_claim(co, __func__);
        list_append(&self->woken, co);
    } else {
        coroutine_enter(co);
    }
}

void aio_co_wake(Coroutine *co)
{
    if (!co->ctx)
        bug("coroutine %s was woken before it ran in a context", co->name);
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
        enter_in(ctx, co);
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
