/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_switch - leaves one stack and goes on with another
 *
 * Why:         the one thing about coroutines that C can't say. The build picks one file:
 *              coroutine_switch_x86_64.S, _aarch64.S, or _ucontext.c for any other machine.
 * Use:         void *inside = co_switch_prepare(low, bytes, run, co);
 *              co_switch(&outside, inside);       runs run(co) on the new stack
 *              co_switch(&inside, outside);       called there: back to the line after
 * Concurrency: a saved position may be gone on with in another thread, by one that has synchronised
 *              with the thread that saved it.
 * Lifetime:    a position is an address in its own stack; going on with it uses it up.
 * Not here:    stacks (coroutine_stack.h), what sanitizers must be told (coroutine_sanitize.h)
 *
 * Kept per stack: what the ABI has a callee keep, which includes the floating-point control bits
 * (rounding, exception masks). Not kept: floating-point status flags, the signal mask (except by
 * ucontext, which pays a system call a switch for it).
 */
#include <stddef.h>

/* A position at which entry(opaque) begins, with the floating-point control bits of whoever goes on
 * there (by ucontext: of the caller), on the stack [low, low + bytes). entry must not return.
 * Context: any thread. */
void *co_switch_prepare(void *low, size_t bytes, void (*entry)(void *opaque), void *opaque);

/* Stores where this stack is left, then goes on at to. Returns when somebody goes on with
 * *ret_from. Context: any thread. */
void co_switch(void **ret_from, void *to);

/* Goes on at to, and leaves this stack for good. Context: any thread. */
__attribute__((noreturn)) void co_switch_last(void *to);

/* Returns. After a switch the processor's idea of where returns lead is out of step; who ends with
 * a call of this goes back to its own caller by a jump instead. Context: any thread. */
void co_switch_return(void);
