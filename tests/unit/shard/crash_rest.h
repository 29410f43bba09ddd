/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_rest - whether an instance in which nothing is asked any more has nothing left of what was
 *
 * Why:         a slot, buffer, coroutine or lock that a death leaves behind is found here.
 * Use:         while (!rest_heaps_are_empty(seg) || …) wait; else rest_tell(seg)
 * Concurrency: whoever has the segment mapped; the instance may be running
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"

bool rest_heaps_are_empty(const struct segment *seg); /* nor is I/O in flight */
bool rest_arena_is_empty(const struct segment *seg);
bool rest_no_lock_is_held(const struct segment *seg);

/* Call slots that are not free. */
uint64_t rest_n_under_way(const struct segment *seg);

/* What there is instead, on standard error. */
void rest_tell(const struct segment *seg);
