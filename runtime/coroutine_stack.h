/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_stack - memory to run a coroutine on, with a guard page below it
 *
 * Why:         a stack must fault when it overflows, cost only the pages touched, and be there in
 *              nanoseconds for who makes a coroutine for each request.
 * Use:         struct co_stack *stack = co_stack_take(0);  if (!stack) … errno
 *              … runs on [stack->low, (char *)stack), downwards …
 *              co_stack_give(stack);
 * Concurrency: a stack may be given back by another thread than the one that took it; it goes home
 *              to the pool of the one that mapped it.
 * Lifetime:    a thread keeps what it may need again, up to as many as it had out at once lately
 *              and to COROUTINE_POOL_MAX or what it was told, until it ends.
 * Not here:    going over to one (coroutine_switch.h), saying who overflowed (coroutine_overflow.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* So many a thread keeps at least, where that is allowed. */
#define CO_STACK_POOL_MIN 64

/* Lies at the top of the stack that it describes, at a multiple of 64 less its own size. */
struct co_stack {
    char *low;    /* lowest usable byte, just above the guard page */
    size_t bytes; /* mapped above low */
    struct co_stack_pool *home;
    struct co_stack *next; /* in a list of idle ones */
};

/* Bytes may be 0: COROUTINE_STACK_BYTES. It is rounded up to a power of two of 16 KiB at least,
 * which leaves room for signal handlers; above 8 MiB to pages, and such a stack is not kept. NULL
 * with errno: ENOMEM (no memory, or no map left for a guard), EINVAL (bytes is absurd). Context:
 * any thread. */
struct co_stack *co_stack_take(size_t bytes);

/* Takes it back; nothing runs on it any more. Context: any thread. */
void co_stack_give(struct co_stack *stack);

/* Bytes that can be used, and whether address is in the guard below them. */
static inline size_t co_stack_bytes(const struct co_stack *stack)
{
    return (size_t)((const char *)stack - stack->low);
}
bool co_stack_guards(const struct co_stack *stack, const void *address);

/* Bytes from the top to the lowest page that somebody has touched since the stack was mapped. A
 * page that was swapped out counts as untouched. Context: any thread. */
size_t co_stack_high_water(const struct co_stack *stack);
