/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_stack - memory to run a coroutine on, with a guard page below it
 *
 * Why:         a stack must fault when it overflows, cost only the pages touched, and be there in
 *              nanoseconds for who makes a coroutine for each request.
 * Use:         struct co_stack stack;
 *              if (!co_stack_take(0, &stack)) … errno
 *              … runs on [stack.low, stack.low + stack.bytes) …
 *              co_stack_give(&stack);
 * Concurrency: a stack may be given back by another thread than the one that took it. Each thread
 *              keeps up to CO_STACK_POOL_MAX stacks of the default size for itself.
 * Lifetime:    what a thread keeps is unmapped when the thread ends.
 */
#include <stdbool.h>
#include <stddef.h>

/* Idle stacks a thread keeps; each holds the pages it has touched. */
#define CO_STACK_POOL_MAX 1024

struct co_stack {
    void *low;    /* lowest usable byte, just above the guard page */
    size_t bytes; /* usable */
};

/* Bytes may be 0: COROUTINE_STACK_BYTES. It is rounded up to pages, and to a minimum that leaves
 * room for signal handlers. False with errno where the kernel refuses: ENOMEM (no memory, or
 * vm.max_map_count is reached), EINVAL (bytes is absurd). Context: any thread. */
bool co_stack_take(size_t bytes, struct co_stack *ret_stack);

/* Takes it back; nothing runs on it any more. Context: any thread. */
void co_stack_give(const struct co_stack *stack);
