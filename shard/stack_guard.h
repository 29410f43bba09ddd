/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stack_guard - the value that the compiler's stack protector compares
 *
 * Not here:    machines that keep it in a variable (stack_guard_none.c): that is data, which fork
 *              copies
 */
#include <stdint.h>

/* 0 where it can't be told. Context: any thread. */
uint64_t stack_guard_read(void);
