/* SPDX-License-Identifier: MIT */
#include "shard/view_column.h"
/*
 * What opening the view has checked holds for all records of a region, so an index in range leads
 * to a word in the segment; only its alignment is a matter of the description, and is checked here.
 *
 * Orderings    first      then         ordered by      if broken
 *   LOOK     one load   the next     acquire         who compares two figures takes the later one
 *                                                    for the earlier
 */
#include <string.h>

#include "runtime/atomic.h"

/* The shortest way to the word: from a record, to its nth element. */
struct field_path {
    uint32_t off, bytes, step, n;
};

static const struct layout_field *field_of(const struct segment_view *view,
    const struct layout_record *record, const char *name, size_t len)
{
    const struct layout_field *fields = &view->fields[record->first_field];

    for (uint32_t i = 0; i < record->n_fields; i++)
        if (strlen(fields[i].name) == len && memcmp(fields[i].name, name, len) == 0)
            return &fields[i];
    return NULL;
}

static bool is_word(const struct layout_field *f)
{
    return f && f->kind != FIELD_record && (f->element_bytes == 4 || f->element_bytes == 8);
}

static bool find_inner(const struct segment_view *view, const struct layout_field *outer,
    const char *name, struct field_path *ret)
{
    const struct layout_field *f =
        field_of(view, &view->records[outer->record], name, strlen(name));

    if (!is_word(f) || f->off > outer->element_bytes || f->bytes > outer->element_bytes - f->off)
        return false;
    *ret = (struct field_path){.off = outer->off + f->off,
        .bytes = f->element_bytes,
        .step = outer->element_bytes,
        .n = outer->bytes / outer->element_bytes};
    return true;
}

static bool find_path(const struct segment_view *view, const struct layout_record *record,
    const char *name, struct field_path *ret)
{
    const char *dot = strchrnul(name, '.');
    const struct layout_field *f = field_of(view, record, name, (size_t)(dot - name));

    if (*dot)
        return f && f->kind == FIELD_record && find_inner(view, f, dot + 1, ret);
    if (!is_word(f))
        return false;
    *ret = (struct field_path){.off = f->off,
        .bytes = f->element_bytes,
        .step = f->element_bytes,
        .n = f->bytes / f->element_bytes};
    return true;
}

static bool is_aligned(const struct view_rows *rows, const struct field_path *path)
{
    return (uintptr_t)rows->first % path->bytes == 0 && rows->area_stride % path->bytes == 0 &&
           rows->stride % path->bytes == 0 && path->step % path->bytes == 0;
}

/* False: there is none, or none with such words. */
static bool find_rows(const struct segment_view *view, const struct layout_region *region,
    const char *field, struct view_rows *ret, struct field_path *ret_path)
{
    const struct layout_area *area;

    if (!region || !find_path(view, &view->records[region->record], field, ret_path))
        return false;
    area = &view->areas[region->area];
    *ret = (struct view_rows){.first = view->base + area->off + region->off + ret_path->off,
        .area_stride = area->stride,
        .n_areas = area->n,
        .n_outer = region->n_outer,
        .n_inner = region->n_inner,
        .stride = region->stride,
        .skips_own = region->index == INDEX_OTHER_SHARD};
    return is_aligned(ret, ret_path);
}

static const struct layout_region *shared_region(const struct segment_view *view, const char *name)
{
    const struct layout_region *control = segment_view_region(view, "control", name);

    return control ? control : segment_view_region(view, "commons", name);
}

bool view_column_find(
    const struct segment_view *view, const char *region, const char *field, struct view_column *ret)
{
    const struct layout_region *shared = shared_region(view, region);
    struct field_path path, gateway_path;
    struct view_column column = {.gateway_peer = view->n_shards, .is_in_parts = !shared};

    if (!find_rows(view, shared ? shared : segment_view_region(view, "shard", region), field,
            &column.shards, &path))
        return false;
    if (!shared && (!find_rows(view, segment_view_region(view, "gateway", region), field,
                        &column.gateway, &gateway_path) ||
                       memcmp(&path, &gateway_path, sizeof(path)) != 0))
        return false;
    column.bytes = path.bytes;
    column.step = path.step;
    column.n_elements = path.n;
    *ret = column;
    return true;
}

static const struct view_rows *rows_of(const struct view_column *column, uint32_t *peer)
{
    if (!column->is_in_parts || *peer != column->gateway_peer)
        return &column->shards;
    *peer = 0;
    return &column->gateway;
}

uint64_t view_column_load(
    const struct view_column *column, uint32_t peer, uint32_t other, uint32_t inner, uint32_t nth)
{
    uint32_t self = peer;
    const struct view_rows *rows = rows_of(column, &peer);
    const uint8_t *at;

    if (rows->skips_own && other == self)
        return 0;
    if (rows->skips_own && other > self)
        other--;
    if (peer >= rows->n_areas || other >= rows->n_outer || inner >= rows->n_inner ||
        nth >= column->n_elements)
        return 0;
    at = rows->first + peer * rows->area_stride +
         ((uint64_t)other * rows->n_inner + inner) * rows->stride + (uint64_t)nth * column->step;
    return column->bytes == 8 ? atomic_load_acquire((const uint64_t *)at)  /* LOOK */
                              : atomic_load_acquire((const uint32_t *)at); /* LOOK */
}

uint32_t view_column_n_inner(const struct view_column *column, uint32_t peer)
{
    return rows_of(column, &peer)->n_inner;
}
