/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_stack - the stack of a coroutine at rest: how much is in use, and who called whom
 *
 * Why:         what a coroutine waits for is one line; how it came there is its stack.
 * Use:         struct co_stack stack;
 *              const char *why = co_stack_read(&look, &co, &stack);
 *              if (!why)
 *                  co_stack_walk(&stack, symbols, frame, opaque);
 *              co_stack_free(&stack);
 * Concurrency: stops nobody: what runs meanwhile is told as such
 * Not here:    the registers of what crashed (postmortem.c)
 *
 * A portable coroutine's stack lies in the segment, and is there after a crash. Any other's lies in
 * the memory of its process, and is there while that lives and may be read.
 */
#include "tools/co_view.h"

struct co_stack {
    uint64_t low; /* address of the first byte: where it left off */
    size_t bytes;
    uint8_t *copy;
};

/* Bytes in use; 0: it runs, or nobody may know. */
uint64_t co_stack_used(const struct look *look, const struct co_view *co);

/* NULL; or a constant that says why there is none. */
const char *co_stack_read(const struct look *look, const struct co_view *co, struct co_stack *ret);
void co_stack_free(struct co_stack *stack);

/* The name of each function, the innermost first. */
typedef void co_frame_fn(void *opaque, const char *name);
void co_stack_walk(
    const struct co_stack *stack, struct symbols *symbols, co_frame_fn *frame, void *opaque);
