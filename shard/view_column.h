/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * view_column - one field of all records of a region, found by name once and then read often
 *
 * Why:         whoever counts thousands of slots again and again can't compare names each time.
 * Use:         struct view_column submitted;
 *              if (!view_column_find(&view, "pairs", "calls_submitted", &submitted)) … no such
 *              n = view_column_load(&submitted, peer, other, 0, 0);
 * Concurrency: as segment_view.h; each load is an acquire, so loads come in the order they stand in
 * Lifetime:    the view's
 * Not here:    one record and its fields (segment_view.h)
 */
#include "shard/segment_view.h"

/* Where the records lie: in each shard's part, in the gateway's, or in the one area they are in. */
struct view_rows {
    const uint8_t *first;
    uint64_t area_stride, n_areas;
    uint32_t n_outer, n_inner, stride;
    bool skips_own; /* the outer index is a shard's number, of those that are not the area's own */
};

struct view_column {
    struct view_rows shards, gateway;
    uint32_t gateway_peer;
    bool is_in_parts;
    uint32_t bytes, step, n_elements;
};

/*
 * The field of a region, in parts or elsewhere. A field of a record within the record is written
 * "redo.kind", one of an array of them likewise. False: there is no such region or field, or it
 * holds no words.
 */
bool view_column_find(const struct segment_view *view, const char *region, const char *field,
    struct view_column *ret);

/*
 * The nth word of the field, of `other` (a peer where the region has one record or row of them for
 * each, else an index), `inner` in its row; in peer's part, or, for what lies in no part, peer is
 * 0. 0 where there is none. Context: any process.
 */
uint64_t view_column_load(
    const struct view_column *column, uint32_t peer, uint32_t other, uint32_t inner, uint32_t nth);

/* How many records stand in a row of peer's. */
uint32_t view_column_n_inner(const struct view_column *column, uint32_t peer);
