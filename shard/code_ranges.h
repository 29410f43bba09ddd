/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * code_ranges - where the code of the image lies: of the executable, and of the services that were
 * loaded before the first fork
 *
 * Why:         a function's address that comes from another process is called only where it points
 *              into code that both were forked with, not into libc or what one of them loaded
 *              since.
 * Use:         code_ranges_init() after the fork and before anything else is loaded;
 *              code_ranges_has(); code_ranges_deinit()
 * Concurrency: init and deinit by one thread; constant in between
 * Lifetime:    the caller's
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shard/registry.h"

struct code_range {
    uintptr_t begin, end;
};

struct code_ranges {
    struct code_range *ranges;
    size_t n;
};

/* 0 or -ENOMEM. */
int code_ranges_init(struct code_ranges *ranges, const struct registry *registry);
void code_ranges_deinit(struct code_ranges *ranges);

/* Whether a function may be at that address. */
bool code_ranges_has(const struct code_ranges *ranges, uintptr_t address);
