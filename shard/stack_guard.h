/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stack_guard - the value that the compiler's stack protector compares, and its like
 *
 * Why:         a portable coroutine returns, in another process, through frames that were guarded
 *              in this one: both must have the same (image.h checks).
 * Concurrency: any thread; constant in a process
 * Not here:    machines that keep them in variables (stack_guard_none.c): that is data, which fork
 *              copies
 */
#include <stdint.h>

/* 0 where it can't be told. Context: any thread. */
uint64_t stack_guard_read(void);

/* What the C library mangles pointers with, in jmp_buf and the list of atexit(). */
uint64_t pointer_guard_read(void);
