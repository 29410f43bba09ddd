/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_registry - who is alive in a context: the coroutine entries and counters of its instruments
 *
 * Why:         a tool shows each coroutine and why it waits; the entries have one writer, the home
 *              loop, but a coroutine may be taken to another context by any thread.
 * Use:         co_registry_add(ctx->co_registry, co) when it is made or arrives in ctx,
 *              co_registry_remove(co) when it ends or leaves.
 * Concurrency: owner loop; co_registry_remove_from_afar() any thread
 * Lifetime:    from co_registry_new() to co_registry_close(); the memory stays until the last of
 *              those that were listed by then has been removed.
 * Not here:    what an entry and a counter look like, and who reads them (runtime/instruments.h)
 *
 * A coroutine is counted alive in the context that lists it, so the sum over the contexts is right,
 * but for those on the way between two and those taken away by a thread that is not the home of
 * where they were: the old context counts and shows them until its loop next adds or removes one.
 */
#include "runtime/coroutine.h"
#include "runtime/instruments_inside.h"

struct co_registry;

/* The instruments outlive co_registry_close(). NULL: no memory. */
struct co_registry *co_registry_new(const struct aio_instruments *instruments);
void co_registry_close(struct co_registry *registry);

/* Lists co; where there is no entry left, it is counted as unlisted. */
void co_registry_add(struct co_registry *registry, Coroutine *co);

/* Takes co off the registry that lists it, of which this is the home thread. */
void co_registry_remove(Coroutine *co);

/* Takes co off the registry that lists it. Context: any thread that may enter co. */
void co_registry_remove_from_afar(Coroutine *co);

/* Takes co off, where this thread may do so at once, because it is about to be handed to another
 * context. Context: any thread that may enter co. */
void co_registry_leave_for(AioContext *to, Coroutine *co);
