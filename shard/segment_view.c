/* SPDX-License-Identifier: MIT */
#include "shard/segment_view.h"
/*
 * Nothing of the segment is believed. The description is copied first, so that it cannot change
 * under the checks; every name in the copy ends, every index is in range, every field lies in its
 * record and every record of every region in the segment. After that, reading needs no checks but
 * those of the caller's own indexes.
 *
 * Orderings: none. Every word is a figure for people, valid by itself; relaxed loads keep it from
 * being torn.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/atomic.h"
#include "shard/segment.h"

#define ROWS_MAX   65536u /* of any kind: more is no description */
#define SHARDS_MAX 1024u  /* likewise: tools look at each pair of them */

/* ---- copying ---- */

/* The rows still to be read. */
struct cursor {
    const uint8_t *at;
    uint64_t left;
};

/* Copies n rows, which a later format may have made larger than ours. NULL: no memory, or they do
 * not fit. */
static void *copy_rows(
    struct cursor *cursor, uint32_t n, uint32_t row_bytes, size_t own_bytes, int *ret_error)
{
    uint64_t bytes = (uint64_t)n * row_bytes;
    uint8_t *rows;

    *ret_error = -EPROTO;
    if (n > ROWS_MAX || row_bytes < own_bytes || row_bytes > SEGMENT_PAGE || bytes > cursor->left)
        return NULL;
    rows = calloc(n + 1, own_bytes);
    *ret_error = rows ? 0 : -ENOMEM;
    for (uint32_t i = 0; rows && i < n; i++)
        memcpy(rows + i * own_bytes, cursor->at + (uint64_t)i * row_bytes, own_bytes);
    cursor->at += bytes;
    cursor->left -= bytes;
    return rows;
}

static int copy_description(struct segment_view *view, const struct segment_super *super)
{
    struct layout_head head;
    struct cursor cursor;
    int r;

    if (super->layout_off > view->bytes || super->layout_bytes > view->bytes - super->layout_off ||
        super->layout_bytes < sizeof(head))
        return -EPROTO;
    memcpy(&head, view->base + super->layout_off, sizeof(head));
    if (head.head_bytes < sizeof(head) || head.head_bytes > super->layout_bytes)
        return -EPROTO;
    cursor = (struct cursor){
        view->base + super->layout_off + head.head_bytes, super->layout_bytes - head.head_bytes};
    view->n_shards = head.n_shards;
    view->n_areas = head.n_areas;
    view->n_regions = head.n_regions;
    view->n_records = head.n_records;
    view->n_fields = head.n_fields;
    view->areas = copy_rows(&cursor, head.n_areas, head.area_bytes, sizeof(struct layout_area), &r);
    if (r == 0)
        view->regions =
            copy_rows(&cursor, head.n_regions, head.region_bytes, sizeof(struct layout_region), &r);
    if (r == 0)
        view->records =
            copy_rows(&cursor, head.n_records, head.record_bytes, sizeof(struct layout_record), &r);
    if (r == 0)
        view->fields =
            copy_rows(&cursor, head.n_fields, head.field_bytes, sizeof(struct layout_field), &r);
    return r;
}

/* ---- checking ---- */

static bool name_ends(const char name[LAYOUT_NAME])
{
    return memchr(name, '\0', LAYOUT_NAME) != NULL;
}

static bool area_is_sane(const struct segment_view *view, const struct layout_area *area)
{
    return name_ends(area->name) && area->off <= view->bytes &&
           (!area->n || area->stride <= view->bytes) && area->n <= ROWS_MAX &&
           area->n * area->stride <= view->bytes - area->off;
}

static bool region_is_sane(const struct segment_view *view, const struct layout_region *region)
{
    uint64_t n = (uint64_t)region->n_outer * region->n_inner;
    uint64_t room;

    if (!name_ends(region->name) || region->area >= view->n_areas ||
        region->record >= view->n_records)
        return false;
    room = view->areas[region->area].stride;
    return region->off <= room &&
           (!n || (region->stride >= view->records[region->record].bytes && region->stride &&
                      n <= (room - region->off) / region->stride));
}

static bool record_is_sane(const struct segment_view *view, const struct layout_record *record)
{
    return name_ends(record->name) && record->n_fields <= view->n_fields &&
           record->first_field <= view->n_fields - record->n_fields;
}

/* A record within a record is smaller than it, so that no chain of them is endless. */
static bool field_is_sane(const struct segment_view *view, const struct layout_record *record,
    const struct layout_field *field)
{
    if (!name_ends(field->name) || field->off > record->bytes ||
        field->bytes > record->bytes - field->off || field->element_bytes == 0 ||
        field->element_bytes > field->bytes)
        return false;
    return field->kind != FIELD_record ||
           (field->record < view->n_records && view->records[field->record].bytes <= field->bytes);
}

/* There is a part for each. */
static bool n_shards_is_sane(const struct segment_view *view)
{
    for (uint32_t i = 0; i < view->n_areas; i++)
        if (strcmp(view->areas[i].name, "shard") == 0 && view->areas[i].n != view->n_shards)
            return false;
    return view->n_shards >= 1 && view->n_shards <= SHARDS_MAX;
}

static bool description_is_sane(const struct segment_view *view)
{
    for (uint32_t i = 0; i < view->n_areas; i++)
        if (!area_is_sane(view, &view->areas[i]))
            return false;
    for (uint32_t i = 0; i < view->n_records; i++) {
        const struct layout_record *record = &view->records[i];
        if (!record_is_sane(view, record))
            return false;
        for (uint32_t f = 0; f < record->n_fields; f++)
            if (!field_is_sane(view, record, &view->fields[record->first_field + f]))
                return false;
    }
    for (uint32_t i = 0; i < view->n_regions; i++)
        if (!region_is_sane(view, &view->regions[i]))
            return false;
    return n_shards_is_sane(view);
}

/* ---- opening ---- */

int segment_view_on(
    const void *base, uint64_t bytes, struct segment_view *ret, const char **ret_why)
{
    struct segment_view view = {.base = base, .bytes = bytes};
    struct segment_super super;
    int r;

    *ret_why = "it is too short";
    if (bytes < sizeof(super))
        return -EPROTO;
    memcpy(&super, base, sizeof(super));
    *ret_why = "it is no Sherd segment, or was never finished";
    if (memcmp(super.magic, SEGMENT_MAGIC, sizeof(super.magic)) != 0)
        return -EPROTO;
    *ret_why = "it was made by another version of Sherd, whose segments this one can't read "
               "(format of the description)";
    if (super.format != SEGMENT_FORMAT)
        return -EPROTO;
    view.abi = super.abi;
    r = copy_description(&view, &super);
    if (r == 0 && !description_is_sane(&view))
        r = -EPROTO;
    if (r < 0) {
        *ret_why = r == -ENOMEM ? "there is no memory" : "its description of itself makes no sense";
        segment_view_close(&view);
        return r;
    }
    *ret = view;
    return 0;
}

int segment_view_open(const char *path, struct segment_view *ret, const char **ret_why)
{
    void *base;
    uint64_t bytes;
    int r = segment_map(path, sizeof(struct segment_super), &base, &bytes, ret_why);

    if (r < 0)
        return r;
    r = segment_view_on(base, bytes, ret, ret_why);
    if (r < 0)
        munmap(base, bytes);
    else
        ret->mapped = true;
    return r;
}

void segment_view_close(struct segment_view *view)
{
    free(view->areas);
    free(view->regions);
    free(view->records);
    free(view->fields);
    if (view->mapped)
        munmap((void *)view->base, view->bytes);
    *view = (struct segment_view){0};
}

/* ---- finding ---- */

const struct layout_region *segment_view_region(
    const struct segment_view *view, const char *area, const char *name)
{
    for (uint32_t i = 0; i < view->n_regions; i++)
        if (strcmp(view->regions[i].name, name) == 0 &&
            strcmp(view->areas[view->regions[i].area].name, area) == 0)
            return &view->regions[i];
    return NULL;
}

bool segment_view_at(const struct segment_view *view, const char *area, uint64_t nth,
    const char *region, uint32_t outer, uint32_t inner, struct view_record *ret)
{
    const struct layout_region *found = segment_view_region(view, area, region);

    if (!found || nth >= view->areas[found->area].n || outer >= found->n_outer ||
        inner >= found->n_inner)
        return false;
    *ret = (struct view_record){.view = view,
        .record = &view->records[found->record],
        .at = view->base + view->areas[found->area].off + nth * view->areas[found->area].stride +
              found->off + ((uint64_t)outer * found->n_inner + inner) * found->stride};
    return true;
}

bool segment_view_of_peer(const struct segment_view *view, uint32_t peer, const char *region,
    uint32_t other, uint32_t inner, struct view_record *ret)
{
    bool is_gateway = peer == view->n_shards;
    const char *area = is_gateway ? "gateway" : "shard";
    const struct layout_region *found = segment_view_region(view, area, region);
    uint32_t outer = other;

    if (found && found->index == INDEX_OTHER_SHARD) {
        if (other == peer || other >= view->n_shards)
            return false;
        outer = other < peer ? other : other - 1;
    }
    return segment_view_at(view, area, is_gateway ? 0 : peer, region, outer, inner, ret);
}

const struct layout_field *view_field(const struct view_record *r, const char *name)
{
    const struct layout_field *fields = &r->view->fields[r->record->first_field];

    for (uint32_t i = 0; i < r->record->n_fields; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* ---- reading ---- */

/* A word in its place. What a foreign description calls a word may lie across two. */
static bool load(const uint8_t *at, uint32_t bytes, uint64_t *ret)
{
    if ((uintptr_t)at % bytes != 0)
        return false;
    switch (bytes) {
    case 1:
        *ret = atomic_load_relaxed(at);
        return true;
    case 2:
        *ret = atomic_load_relaxed((const uint16_t *)at);
        return true;
    case 4:
        *ret = atomic_load_relaxed((const uint32_t *)at);
        return true;
    case 8:
        *ret = atomic_load_relaxed((const uint64_t *)at);
        return true;
    default:
        return false;
    }
}

static uint64_t extend(uint64_t value, uint32_t bytes)
{
    return bytes == 4 ? (uint64_t)(int64_t)(int32_t)(uint32_t)value : value;
}

bool view_word(const struct view_record *r, const char *field, uint32_t nth, uint64_t *ret)
{
    const struct layout_field *f = view_field(r, field);

    *ret = 0;
    if (!f || f->kind == FIELD_record || nth >= f->bytes / f->element_bytes ||
        !load(r->at + f->off + (uint64_t)nth * f->element_bytes, f->element_bytes, ret))
        return false;
    if (f->kind == FIELD_integer)
        *ret = extend(*ret, f->element_bytes);
    return true;
}

bool view_u64(const struct view_record *r, const char *field, uint64_t *ret)
{
    return view_word(r, field, 0, ret);
}

bool view_text(const struct view_record *r, const char *field, char *ret_text, size_t size)
{
    const struct layout_field *f = view_field(r, field);
    size_t n = 0;

    while (f && n + 1 < size && n < f->bytes) {
        char c = (char)atomic_load_relaxed(&r->at[f->off + n]);
        if (!c)
            break;
        ret_text[n++] = c >= 32 && c < 127 ? c : '?';
    }
    ret_text[n] = '\0';
    return f != NULL;
}

bool view_inner(const struct view_record *r, const char *field, struct view_record *ret)
{
    const struct layout_field *f = view_field(r, field);

    if (!f || f->kind != FIELD_record)
        return false;
    *ret = (struct view_record){
        .view = r->view, .record = &r->view->records[f->record], .at = r->at + f->off};
    return true;
}
