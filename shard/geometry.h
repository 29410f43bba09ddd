/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * geometry - how large each table of the segment is, for so many shards and so much memory
 *
 * Why:         2 shards and 128 want tables of other sizes, and the memory is what one is given.
 * Use:         segment_geometry_plan(n_shards, 0, &geometry, &bytes); segment_init() in a file of
 *              that size
 * Concurrency: pure functions
 * Not here:    where each table then lies (regions.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"

/* Chooses slots, recorder and heap for n_shards so that the whole fits max_bytes (0: the default,
 * 23 MiB for 2 shards and more for more). 0; -EINVAL: n_shards out of 1..128; -ENOSPC: max_bytes
 * too small, and the least that works is in *ret_bytes. */
int segment_geometry_plan(
    uint32_t n_shards, uint64_t max_bytes, struct segment_geometry *ret, uint64_t *ret_bytes);

/* The same with as many fates as fates_bytes have room for; 0: the default. -ERANGE: fewer than
 * SEGMENT_FATES_EACH, or more than 4 GiB. */
int segment_geometry_plan_fates(uint32_t n_shards, uint64_t max_bytes, uint64_t fates_bytes,
    struct segment_geometry *ret, uint64_t *ret_bytes);

/* Makes room for services' regions of so many bytes in each shard's part, beside what is planned.
 * Returns the segment's new size. */
uint64_t segment_geometry_add(struct segment_geometry *geometry, uint64_t service_bytes);

/* Whether one that was read may be laid out: no size in it overflows. */
bool segment_geometry_is_sane(const struct segment_geometry *geometry);
