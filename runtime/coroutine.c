/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine.h"
/*
 * A coroutine is entered by a loop on the stack of whoever calls coroutine_enter(), and each yield
 * comes back to that loop. The loop then does, on its own stack and in this order, what must not be
 * done before the switch is complete:
 *   1. it puts the coroutines that this one woke before those it has still to enter: depth
 *      first, and with a chain of any length on one frame of stack;
 *   2. it frees a coroutine that ended, hands over one that moves to the context it moves to, or
 *      does what the coroutine asked for (co_portable.h). From then on another thread or process
 *      may run it, so this is the loop's last touch.
 *
 * A yield ends in a jump to co_switch(), which goes on at whoever called the yield, and
 * an enter ends in co_switch_return(): no return instruction is met that the processor would
 * predict wrongly.
 *
 * The running coroutine is a thread-local variable. Compilers take its address to be the same all
 * through a function, but a coroutine may go on in another thread; so the functions that use it are
 * never inlined, and use it before they switch, or run on a stack that stays in its thread.
 */

#include "runtime/bug.h"
#include "runtime/co_portable.h"
#include "runtime/co_registry.h"
#include "runtime/coroutine_inside.h"
#include "runtime/coroutine_layout.h"
#include "runtime/coroutine_switch.h"
#include "runtime/probe.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static __thread Coroutine *current;
#define USES_CURRENT __attribute__((noinline))

USES_CURRENT Coroutine *coroutine_self(void)
{
    /* Not a function without effects, of which two calls may be made one. */
    __asm__ volatile("");
    return current;
}

USES_CURRENT void coroutine_layout(struct coroutine_layout *ret)
{
    *ret = (struct coroutine_layout){&current, offsetof(Coroutine, name),
        offsetof(Coroutine, registry_id), offsetof(Coroutine, begins_in)};
}

bool in_coroutine(void)
{
    return coroutine_self() != NULL;
}

bool coroutine_entered(const Coroutine *co)
{
    return co->entered;
}

void coroutine_fn coroutine_set_work(uint64_t work)
{
    Coroutine *self = coroutine_self();

    self->work = work;
    if (self->ctx)
        counter_set(self->ctx->instruments.running, work);
}

AioContext *coroutine_get_aio_context(const Coroutine *co)
{
    return co->ctx;
}

size_t coroutine_stack_bytes(const Coroutine *co)
{
    return (size_t)((const char *)co - co->stack->low);
}

size_t coroutine_stack_high_water(const Coroutine *co)
{
    return co_stack_high_water(co->stack);
}

/* ---- lists ---- */

static Coroutine *list_pop(struct co_list *list)
{
    Coroutine *first = list->last->next;

    if (first == list->last)
        list->last = NULL;
    else
        list->last->next = first->next;
    return first;
}

/* Puts all of front, which has some, before list, and leaves front empty. */
static void list_prepend(struct co_list *list, struct co_list *front)
{
    if (list->last) {
        Coroutine *first = front->last->next;

        front->last->next = list->last->next;
        list->last->next = first;
    } else {
        list->last = front->last;
    }
    front->last = NULL;
}

/* ---- birth and end ---- */

/* The bottom of a coroutine's stack. Never returns: the stack is given back by who entered last. */
static void run(void *opaque)
{
    Coroutine *co = opaque;

    co_sanitize_arrive(&co->own, &co->enterer);
    co->entry(co->opaque);
    co->after = CO_AFTER_END;
    co->entered = false;
    co_sanitize_leave(&co->own, &co->enterer, true);
    co->inside = NULL;
    co_switch_last(co->outside);
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
        (uint64_t)(uintptr_t)co->begins_in);
}

/* Each field by itself: a compiler zeroes a struct of this size by a loop that costs more than all
 * else here. */
static void init(Coroutine *co, CoroutineEntry *entry, void *opaque, const char *name)
{
    co->scheduled = NULL;
    co->woken.last = NULL;
    co->listed = NULL;
    co->name = name;
    co->entered = co->begun = co->counted = false;
    co->after = CO_AFTER_YIELD;
    co->locks_held = 0;
    co->work = 0;
    co->scope = NULL;
    co->registry = NULL;
    co->n_pins = 0;
    co->ended = NULL;
    co->entry = entry;
    co->begins_in = (const void *)(uintptr_t)entry;
    co->opaque = opaque;
}

/* Inlined, like all on this way: a request is often a coroutine. */
static inline Coroutine *create_in(
    AioContext *ctx, struct co_stack *stack, CoroutineEntry *entry, void *opaque, const char *name)
{
    Coroutine *co = (void *)(((uintptr_t)stack - sizeof(Coroutine)) & ~(uintptr_t)63);
    size_t room = (size_t)((char *)co - stack->low);
    init(co, entry, opaque, name);
    co->ctx = ctx;
    co->stack = stack;
    co->created_ns = ctx ? context_note_ns(ctx) : (uint64_t)aio_clock_ns();
    co_sanitize_begin(&co->own, stack->low, room);
    co->inside = co_switch_prepare(stack->low, room, run, co);
    PROBE2(co_create, co, name);
    return co;
}

static inline Coroutine *create_on(
    struct co_stack *stack, CoroutineEntry *entry, void *opaque, const char *name)
{
    AioContext *ctx = aio_context_current();
    Coroutine *co = create_in(ctx, stack, entry, opaque, name);

    arrive_in(ctx, co);
    return co;
}

Coroutine *coroutine_create_full(
    CoroutineEntry *entry, void *opaque, const char *name, size_t stack_bytes)
{
    struct co_stack *stack = co_stack_take(stack_bytes);

    return unlikely(!stack) ? NULL : create_on(stack, entry, opaque, name);
}

Coroutine *co_portable_create(void *low, size_t bytes, CoroutineEntry *entry, void *opaque,
    const char *name, CoPortableFn *ended, void *ended_opaque)
{
    uintptr_t top = ((uintptr_t)low + bytes - sizeof(struct co_stack)) & ~(uintptr_t)63;
    struct co_stack *stack = (void *)top;

    co_sanitize_stack_used(low, bytes); /* whatever this process last knew of it */
    *stack = (struct co_stack){.low = low, .bytes = bytes};
    /* Counted and shown when it is first entered, as what it then begins in. */
    Coroutine *co = create_in(aio_context_current(), stack, entry, opaque, name);
    co->ended = ended;
    co->ended_opaque = ended_opaque;
    return co;
}

static void release(Coroutine *co)
{
    co_sanitize_end(&co->own);
    if (co->ended)
        co->ended(co, co->ended_opaque);
    else
        co_stack_give(co->stack);
}

/* On the stack of who entered it. Context: home thread of where it ended. */
static void end(Coroutine *co)
{
    if (co->locks_held)
        bug("coroutine %s ended with %u locks held", co->name, co->locks_held);
    if (co->scope)
        bug("coroutine %s ended in a scope that it began", co->name);
    if (co->n_pins)
        bug("coroutine %s ended, but is pinned: %s", co->name, co->pinned_by);
    if (co->scheduled)
        bug("coroutine %s ended, but was scheduled by %s", co->name, co->scheduled);
    if (co->registry) {
        recorder_note_at(
            &co->ctx->instruments, context_note_ns(co->ctx), RECORDER_CO_END, co->registry_id, 0);
        co_registry_remove(co);
    }
    release(co);
}

void coroutine_delete(Coroutine *co)
{
    if (!co)
        return;
    if (co->begun)
        bug("coroutine %s is deleted, but has begun", co->name);
    if (co->scheduled)
        bug("coroutine %s is deleted, but is scheduled by %s", co->name, co->scheduled);
    AioContext *here = aio_context_current();
    if (here && co->registry == here->co_registry)
        co_registry_remove(co);
    else if (co->registry)
        co_registry_remove_from_afar(co);
    release(co);
}

/* ---- enter and yield ---- */

static void note_enter(AioContext *ctx, Coroutine *co)
{
    if (unlikely(co->registry != (ctx ? ctx->co_registry : NULL)))
        arrive_in(ctx, co);
    if (co->listed)
        atomic_store_relaxed(&co->listed->wait_site, (uint64_t)0); /* WAIT */
    if (ctx) {
        counter_add(&ctx->instruments.counters->co_switches, 1);
        counter_set(ctx->instruments.running, co->work);
    }
    PROBE3(co_enter, co, ctx, co->name);
}

/* Back from one: whoever entered it runs on. */
static void note_leave(AioContext *ctx, const Coroutine *self)
{
    if (ctx)
        counter_set(ctx->instruments.running, self ? self->work : 0);
}

/* What must wait until nothing runs on co's stack. co may be gone after it. */
static void settle(Coroutine *co)
{
    AioContext *move_to = co->move_to;

    if (co->after == CO_AFTER_END) {
        end(co);
    } else if (co->after == CO_AFTER_THEN) {
        co->after = CO_AFTER_YIELD;
        co->then(co, co->then_opaque);
    } else {
        co->after = CO_AFTER_YIELD;
        co_registry_leave_for(move_to, co);
        co_schedule_claimed(move_to, co);
    }
}

USES_CURRENT void co_enter_in(AioContext *ctx, Coroutine *co)
{
    Coroutine *self = current;
    struct co_list pending = {.last = NULL};

    for (;;) {
        if (unlikely(co->entered))
            bug("coroutine %s was entered while it runs", co->name);
        note_enter(ctx, co);
        co->ctx = ctx;
        co->entered = co->begun = true;
        current = co;
        co_sanitize_leave(&co->enterer, &co->own, false);
        co_switch(&co->outside, co->inside);
        co_sanitize_arrive(&co->enterer, &co->own);
        current = self;
        note_leave(ctx, self);
        PROBE2(co_leave, co, ctx);

        if (unlikely(co->woken.last))
            list_prepend(&pending, &co->woken);
        if (unlikely(co->after))
            settle(co);
        if (likely(!pending.last)) {
            co_switch_return();
            return;
        }
        co = list_pop(&pending);
        co_unclaim(co);
    }
}

void co_enter_unclaimed(AioContext *ctx, Coroutine *co)
{
    const char *holder = atomic_load_acquire(&co->scheduled); /* CLAIM in co_schedule.c */

    if (unlikely(holder))
        bug("coroutine %s was entered, but is scheduled by %s", co->name, holder);
    co_enter_in(ctx, co);
}

void coroutine_enter(Coroutine *co)
{
    co_enter_unclaimed(aio_context_current(), co);
}

void coroutine_enter_if_inactive(Coroutine *co)
{
    if (!co->entered)
        coroutine_enter(co);
}

USES_CURRENT void coroutine_fn coroutine_yield_at(const char *why)
{
    Coroutine *self = current;

    if (unlikely(!self))
        bug("%s yields outside a coroutine", why);
    if (self->listed)
        atomic_store_relaxed(&self->listed->wait_site, (uint64_t)(uintptr_t)why); /* WAIT */
    self->entered = false;
    co_sanitize_leave(&self->own, &self->enterer, false);
    co_switch(&self->inside, self->outside);
    co_sanitize_arrive(&self->own, &self->enterer);
}
