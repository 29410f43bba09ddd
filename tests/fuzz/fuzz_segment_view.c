/* SPDX-License-Identifier: MIT */
/*
 * Segments that are damaged, hostile or cut short, as the tools read them: by their own description
 * of themselves. Whatever it says, nothing outside of the segment is read.
 *
 * Input: changes to a good segment of one shard: each an offset of four bytes (of which the
 * description has the most), a length byte and as many bytes. From CUTS on, an offset says where
 * the segment is cut off.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "shard/geometry.h"
#include "shard/segment.h"
#include "shard/segment_view.h"
#include "tests/fuzz/fuzz.h"

#define CHANGES_MAX 64
#define NTHS        3
#define CUTS        0x80000000u /* an offset from here on */

static struct segment good;
static uint8_t *whole;      /* its copy, to which changes are made */
static uint64_t head_bytes; /* with the description; behind it are pages that are zero */

struct change {
    uint64_t offset;
    size_t len;
};

static uint8_t *map(uint64_t bytes)
{
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert(base != MAP_FAILED);
    return base;
}

static void make_segment(void)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    assert(segment_geometry_plan(1, 0, &geometry, &bytes) == 0);
    assert(segment_init(&good, map(bytes), bytes, &geometry, "fuzz") == 0);
    head_bytes = good.control_off;
    whole = map(bytes);
}

static void look_at_field(const struct view_record *record, const struct layout_field *field)
{
    char name[LAYOUT_NAME + 1] = "", text[64];
    struct view_record inner;
    uint64_t value;

    memcpy(name, field->name, LAYOUT_NAME);
    view_u64(record, name, &value);
    view_word(record, name, UINT32_MAX, &value);
    view_word(record, name, 1, &value);
    view_text(record, name, text, sizeof(text));
    if (view_inner(record, name, &inner))
        view_u64(&inner, "state", &value);
}

/* All that is said to be in one record. */
static void look_at_record(const struct view_record *record)
{
    const struct segment_view *view = record->view;

    for (uint32_t i = 0; i < record->record->n_fields; i++)
        look_at_field(record, &view->fields[record->record->first_field + i]);
}

static void look_at_region(const struct segment_view *view, const char *area, const char *region)
{
    static const uint32_t indexes[] = {0, 1, 1000, UINT32_MAX};
    struct view_record record;

    segment_view_region(view, area, region);
    for (uint64_t nth = 0; nth < NTHS; nth++)
        for (size_t i = 0; i < sizeof(indexes) / sizeof(*indexes); i++)
            if (segment_view_at(view, area, nth, region, indexes[i], indexes[i ^ 1], &record))
                look_at_record(&record);
    for (uint32_t peer = 0; peer < NTHS; peer++)
        if (segment_view_of_peer(view, peer, region, 1 - peer % 2, 0, &record))
            look_at_record(&record);
}

static void look(const struct segment_view *view)
{
    char area[LAYOUT_NAME + 1] = "", region[LAYOUT_NAME + 1] = "";

    for (uint32_t r = 0; r < view->n_regions; r++) {
        memcpy(region, view->regions[r].name, LAYOUT_NAME);
        for (uint32_t a = 0; a < view->n_areas; a++) {
            memcpy(area, view->areas[a].name, LAYOUT_NAME);
            look_at_region(view, area, region);
        }
    }
}

/* Makes the changes that the input asks for, and says how long the segment is after them. */
static uint64_t change_segment(struct fuzz_bytes bytes, struct change *changes, unsigned *ret_n)
{
    uint64_t size = good.bytes;

    while (bytes.len > 0 && *ret_n < CHANGES_MAX) {
        uint64_t offset = fuzz_number(&bytes, 4);
        struct fuzz_bytes change = fuzz_take(&bytes, (size_t)fuzz_number(&bytes, 1));
        if (offset >= CUTS) {
            size = offset % head_bytes;
        } else if (change.len <= good.bytes - offset % good.bytes) {
            offset %= good.bytes;
            memcpy(whole + offset, change.at, change.len);
            changes[(*ret_n)++] = (struct change){offset, change.len};
        }
    }
    return size;
}

/* One that is cut off is a copy of its own size, behind which a sanitizer sees each byte. */
static void view(uint64_t size)
{
    uint8_t *base = size < good.bytes ? malloc(size ? size : 1) : whole;
    struct segment_view view;
    const char *why = NULL;

    assert(base);
    if (base != whole)
        memcpy(base, whole, size);
    int r = segment_view_on(base, size, &view, &why);
    assert(r == 0 || (why && *why));
    if (r == 0) {
        look(&view);
        segment_view_close(&view);
    }
    if (base != whole)
        free(base);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct change changes[CHANGES_MAX];
    unsigned n = 0;

    if (!whole)
        make_segment();
    memcpy(whole, good.base, head_bytes);
    view(change_segment((struct fuzz_bytes){data, len}, changes, &n));
    for (unsigned i = 0; i < n; i++)
        memset(whole + changes[i].offset, 0, changes[i].len);
}
