/* SPDX-License-Identifier: MIT */
#include "runtime/co_portable.h"
/*
 * The struct of a coroutine lies on its stack and so travels with it. What in it belongs to a
 * process: the context, the registry and its entry, the stack that entered it, and what sanitizers
 * know. co_portable_leave() takes it from the registry of the loop that gives it away, and
 * co_portable_arrive() sets all of them anew without looking at what is there.
 */
#include <errno.h>

#include "runtime/co_cancel.h"
#include "runtime/co_registry.h"
#include "runtime/coroutine_inside.h"

void *co_portable_of(const Coroutine *co, CoPortableFn *ended)
{
    return co && co->ended == ended ? co->ended_opaque : NULL;
}

void co_portable_begins_in(Coroutine *co, const void *function)
{
    co->begins_in = function;
}

void coroutine_fn co_yield_then(const char *why, CoPortableFn *then, void *opaque)
{
    Coroutine *self = co_self_in(__func__);

    self->then = then;
    self->then_opaque = opaque;
    self->after = CO_AFTER_THEN;
    coroutine_yield_at(why);
}

/* A scope with a deadline alone is a time, which is the same everywhere. */
static bool has_token(const CoScope *scope)
{
    while (scope && !scope->token)
        scope = scope->outer;
    return scope != NULL;
}

int coroutine_fn co_portable_check(const char **ret_why)
{
    const Coroutine *self = co_self_in(__func__);

    *ret_why = NULL;
    if (self->n_pins > 0)
        *ret_why = self->pinned_by;
    else if (self->locks_held > 0)
        *ret_why = "it holds a lock of this shard";
    else if (has_token(self->scope))
        *ret_why = "it is in a scope with a token of this shard";
    if (*ret_why)
        return -EBUSY;
    if (!co_sanitize_may_travel())
        *ret_why = "AddressSanitizer keeps its variables elsewhere (detect_stack_use_after_return)";
    return *ret_why ? -ENOTSUP : 0;
}

void co_portable_leave(Coroutine *co)
{
    if (co->registry)
        co_registry_remove(co);
    co->ctx = NULL;
    co->outside = NULL;
}

void co_portable_arrive(Coroutine *co)
{
    co->scheduled = NULL;
    co->woken.last = NULL;
    co->listed = NULL;
    co->registry = NULL;
    co->ctx = NULL;
    co->move_to = NULL;
    co->entered = false;
    co->after = CO_AFTER_YIELD;
    co_sanitize_travelled(&co->own);
}

void coroutine_fn co_pin(const char *why)
{
    Coroutine *self = co_self_in(__func__);

    if (self->n_pins++ == 0)
        self->pinned_by = why;
}

void coroutine_fn co_unpin(void)
{
    Coroutine *self = co_self_in(__func__);

    if (self->n_pins == 0)
        bug("coroutine %s is not pinned", self->name);
    self->n_pins--;
}

const void *co_portable_position(const Coroutine *co, const void **ret_end)
{
    *ret_end = co;
    return co->inside;
}
