/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * segment_view - reads a segment by name, through its own description of itself
 *
 * Why:         a segment that another version made, with other fields in another order, is read
 *              right; one that can't be is refused by name. Damaged, hostile and cut-short ones
 *              harm nobody.
 * Use:         struct segment_view view;
 *              if (segment_view_open(path, &view, &why) == 0) …
 *              struct view_record head;
 *              if (segment_view_at(&view, "shard", 2, "head", 0, 0, &head))
 *                  view_u64(&head, "heartbeat", &heartbeat);       // false: it has no such field
 *              segment_view_close(&view);
 * Concurrency: the segment's writers go on meanwhile: words are stale and never torn. Stores
 *              nothing.
 * Lifetime:    the view copies and checks the description once; a record holds until it is closed.
 * Not here:    what the description looks like (layout.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shard/layout.h"

struct segment_view {
    const uint8_t *base;
    uint64_t bytes;
    bool mapped; /* by segment_view_open() */
    uint32_t abi;
    uint32_t n_shards;
    /* Private copies, checked. */
    struct layout_area *areas;
    struct layout_region *regions;
    struct layout_record *records;
    struct layout_field *fields;
    uint32_t n_areas, n_regions, n_records, n_fields;
};

/* One record in the segment. */
struct view_record {
    const struct segment_view *view;
    const struct layout_record *record;
    const uint8_t *at;
};

/* Looks at memory that stays the caller's. ret_why: a constant that says what is wrong. 0;
 * -EPROTO; -ENOMEM. */
int segment_view_on(
    const void *base, uint64_t bytes, struct segment_view *ret, const char **ret_why);

/* Maps a file read-only. As above, or what opening it gave. */
int segment_view_open(const char *path, struct segment_view *ret, const char **ret_why);
void segment_view_close(struct segment_view *view);

/* The region called name in an area; NULL: there is none. */
const struct layout_region *segment_view_region(
    const struct segment_view *view, const char *area, const char *name);

/* A record of the region: in the nth area of that name, by outer and inner index. False where there
 * is none. */
bool segment_view_at(const struct segment_view *view, const char *area, uint64_t nth,
    const char *region, uint32_t outer, uint32_t inner, struct view_record *ret);

/* What peer keeps about `other` in a region of its part: outer indexes are translated. */
bool segment_view_of_peer(const struct segment_view *view, uint32_t peer, const char *region,
    uint32_t other, uint32_t inner, struct view_record *ret);

/* The nth word of a field of up to 8 bytes an element; signed ones come extended. False where the
 * record has no such field or word; *ret is then 0. */
bool view_word(const struct view_record *r, const char *field, uint32_t nth, uint64_t *ret);
bool view_u64(const struct view_record *r, const char *field, uint64_t *ret);

/* The field's characters up to its NUL or its end, what is not printable replaced; cut to size.
 * False where there is no such field; ret_text is then "". */
bool view_text(const struct view_record *r, const char *field, char *ret_text, size_t size);

/* A record within the record. */
bool view_inner(const struct view_record *r, const char *field, struct view_record *ret);

/* The field called name; NULL: there is none. */
const struct layout_field *view_field(const struct view_record *r, const char *name);
