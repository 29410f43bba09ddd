/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * heap_co - heap_get() for coroutines: waits for a shared buffer
 *
 * Why:         who finds no room has its turn when others have given theirs back.
 * Concurrency: coroutine of the heap's loop.
 */
#include <stddef.h>

#include "runtime/coroutine.h"
#include "shard/heap.h"

struct heap_room {
    struct heap_waiter waiter;
    Coroutine *co;
    uint64_t off;
};

static inline void heap_on_room(struct heap_waiter *waiter, uint64_t off)
{
    struct heap_room *room =
        (struct heap_room *)((char *)waiter - offsetof(struct heap_room, waiter));

    room->off = off;
    if (!coroutine_entered(room->co))
        aio_co_wake(room->co);
}

/* The offset of len bytes for holder. */
static inline uint64_t coroutine_fn heap_get_co(struct heap *heap, uint32_t holder, size_t len)
{
    struct heap_room room = {.co = coroutine_self()};

    heap_get(heap, &room.waiter, holder, len, heap_on_room);
    if (!room.off)
        coroutine_yield_at("shared buffer");
    return room.off;
}
