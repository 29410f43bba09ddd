/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "shard/geometry.h"
#include "shard/segment.h"
#include "shard/segment_view.h"

static void *map(uint64_t bytes)
{
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(base != MAP_FAILED);
    return base;
}

static void open_segment(struct segment *seg, uint32_t n_shards)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    assert_int_equal(segment_geometry_plan(n_shards, 0, &geometry, &bytes), 0);
    assert_int_equal(segment_init(seg, map(bytes), bytes, &geometry, "test"), 0);
}

static void open_view(const struct segment *seg, struct segment_view *ret)
{
    const char *why;

    assert_int_equal(segment_view_on(seg->base, seg->bytes, ret, &why), 0);
}

static uint64_t word_of(const struct view_record *record, const char *field)
{
    uint64_t value;

    assert_true(view_u64(record, field, &value));
    return value;
}

/* ---- this version's ---- */

static void names_lead_to_where_the_accessors_lead(void **state)
{
    struct segment seg;
    struct segment_view view;
    struct view_record record;

    (void)state;
    open_segment(&seg, 3);
    open_view(&seg, &view);
    uint32_t gateway = segment_gateway(&seg), last = segment_call_slots(&seg, 2, 1) - 1;
    assert_true(segment_view_at(&view, "control", 0, "supervisor", 0, 0, &record));
    assert_ptr_equal(record.at, segment_supervisor(&seg));
    assert_true(segment_view_at(&view, "control", 0, "peers", gateway, 0, &record));
    assert_ptr_equal(record.at, segment_control(&seg, gateway));
    assert_true(segment_view_at(&view, "commons", 0, "bells", 1, 0, &record));
    assert_ptr_equal(record.at, segment_bell(&seg, 1));
    assert_true(segment_view_of_peer(&view, gateway, "head", 0, 0, &record));
    assert_ptr_equal(record.at, segment_part(&seg, gateway));
    assert_true(segment_view_of_peer(&view, 2, "pairs", gateway, 0, &record));
    assert_ptr_equal(record.at, segment_pair(&seg, 2, gateway));
    assert_true(segment_view_of_peer(&view, 2, "calls", 1, last, &record));
    assert_ptr_equal(record.at, segment_call(&seg, 2, 1, last));
    assert_true(segment_view_of_peer(&view, gateway, "calls", 2, 0, &record));
    assert_ptr_equal(record.at, segment_call(&seg, gateway, 2, 0));
    assert_true(segment_view_of_peer(&view, 1, "serves_shards", 2, last, &record));
    assert_ptr_equal(record.at, segment_serve(&seg, 1, 2, last));
    assert_true(segment_view_of_peer(&view, 1, "serves_gateway", 0, 5, &record));
    assert_ptr_equal(record.at, segment_serve(&seg, 1, gateway, 5));
    assert_true(segment_view_of_peer(&view, 2, "rings_to_shards", 1, 0, &record));
    assert_ptr_equal(record.at, segment_ring(&seg, 2, 1, LANE_NORMAL));
    assert_true(segment_view_of_peer(&view, 2, "urgent_to_gateway", 0, 3, &record));
    assert_ptr_equal(record.at, segment_ring(&seg, 2, gateway, LANE_URGENT) + 3);
    assert_true(segment_view_of_peer(&view, 2, "tails", 1, LANE_URGENT, &record));
    assert_ptr_equal(record.at, segment_tail(&seg, 2, 1, LANE_URGENT));
    assert_true(segment_view_at(&view, "commons", 0, "stacks", 7, 0, &record));
    assert_ptr_equal(record.at, segment_stack(&seg, 7));
    assert_true(segment_view_of_peer(&view, 2, "heap", 0, 0, &record));
    assert_int_equal(record.at - seg.base, segment_heap_off(&seg, 2));
    segment_view_close(&view);
    munmap(seg.base, seg.bytes);
}

static void what_is_out_of_range_is_not_there(void **state)
{
    struct segment seg;
    struct segment_view view;
    struct view_record record;
    uint64_t value = 1;

    (void)state;
    open_segment(&seg, 2);
    open_view(&seg, &view);
    assert_false(segment_view_at(&view, "shard", 2, "head", 0, 0, &record));
    assert_false(segment_view_at(&view, "shard", 0, "head", 1, 0, &record));
    assert_false(segment_view_at(&view, "shard", 0, "head", 0, 1, &record));
    assert_false(segment_view_at(&view, "shard", 0, "tail of a dog", 0, 0, &record));
    assert_false(segment_view_of_peer(&view, 1, "calls", 1, 0, &record));
    assert_false(segment_view_of_peer(&view, 1, "calls", 2, 0, &record));
    assert_false(segment_view_of_peer(&view, 3, "head", 0, 0, &record));
    assert_true(segment_view_of_peer(&view, 1, "pairs", 0, 0, &record));
    assert_false(view_word(&record, "ends", N_CALL_ENDS, &value));
    assert_false(view_u64(&record, "no such field", &value));
    assert_int_equal(value, 0);
    segment_view_close(&view);
    munmap(seg.base, seg.bytes);
}

static void words_texts_and_inner_records_are_read(void **state)
{
    struct segment seg;
    struct segment_view view;
    struct view_record record, redo;
    char text[8];
    uint64_t value;

    (void)state;
    open_segment(&seg, 2);
    segment_control(&seg, 1)->core = -1;
    segment_part(&seg, 1)->redo.value = 77;
    segment_pair(&seg, 1, 0)->ends[CALL_END_EXPIRED] = 5;
    snprintf(segment_part(&seg, 1)->engine, 16, "a\nlong engine");
    open_view(&seg, &view);
    assert_true(segment_view_at(&view, "control", 0, "peers", 1, 0, &record));
    assert_true((int64_t)word_of(&record, "core") == -1);
    assert_true(segment_view_of_peer(&view, 1, "pairs", 0, 0, &record));
    assert_true(view_word(&record, "ends", CALL_END_EXPIRED, &value));
    assert_int_equal(value, 5);
    assert_true(segment_view_of_peer(&view, 1, "head", 0, 0, &record));
    assert_true(view_text(&record, "engine", text, sizeof(text)));
    assert_string_equal(text, "a?long ");
    assert_true(view_inner(&record, "redo", &redo));
    assert_int_equal(word_of(&redo, "value"), 77);
    assert_false(view_inner(&record, "engine", &redo));
    segment_view_close(&view);
    munmap(seg.base, seg.bytes);
}

static void every_field_of_every_record_says_what_it_is_for(void **state)
{
    struct segment seg;
    struct segment_view view;

    (void)state;
    open_segment(&seg, 1);
    open_view(&seg, &view);
    for (uint32_t n = 0; n < view.n_records; n++) {
        const struct layout_record *record = &view.records[n];
        uint32_t bytes = 0;
        for (uint32_t i = 0; i < record->n_fields; i++) {
            const struct layout_field *field = &view.fields[record->first_field + i];
            bytes += field->bytes;
            if (field->kind != FIELD_spare && !*layout_help(record->name, field->name))
                fail_msg("%s.%s has no help", record->name, field->name);
        }
        assert_int_equal(bytes, record->bytes);
    }
    assert_string_equal(layout_help("message", "no such field"), "");
    segment_view_close(&view);
    munmap(seg.base, seg.bytes);
}

/* ---- another version's ---- */

/* A later version: rows are larger, there is an area nobody knows, the words of a head are in
 * another order with one more between them, and one that this version has is gone. */
struct later_head {
    uint64_t news;
    uint64_t heartbeat;
    uint32_t drained;
    uint32_t incarnation;
};

struct later_field {
    struct layout_field known;
    uint64_t news;
};

struct later {
    struct segment_super super;
    struct layout_head head;
    uint32_t more_head[6];
    struct layout_area areas[2];
    struct layout_region regions[2];
    struct layout_record records[1];
    struct later_field fields[4];
    struct later_head parts[2][3]; /* a part holds three of them */
};

#define FIELD(member, kind_)                                           \
    {                                                                  \
        {                                                              \
            .name = #member,                                           \
            .off = offsetof(struct later_head, member),                \
            .bytes = sizeof(((struct later_head *)0)->member),         \
            .element_bytes = sizeof(((struct later_head *)0)->member), \
            .kind = (kind_),                                           \
        },                                                             \
    }

static struct later later_segment(void)
{
    return (struct later){
        .super = {.magic = SEGMENT_MAGIC,
            .format = SEGMENT_FORMAT,
            .abi = SEGMENT_ABI + 7,
            .layout_off = offsetof(struct later, head),
            .layout_bytes = offsetof(struct later, parts) - offsetof(struct later, head)},
        .head = {.head_bytes = offsetof(struct later, areas) - offsetof(struct later, head),
            .area_bytes = sizeof(struct layout_area),
            .region_bytes = sizeof(struct layout_region),
            .record_bytes = sizeof(struct layout_record),
            .field_bytes = sizeof(struct later_field),
            .n_areas = 2,
            .n_regions = 2,
            .n_records = 1,
            .n_fields = 4,
            .n_shards = 2},
        .areas = {{.name = "attic"}, {.name = "shard",
                                         .off = offsetof(struct later, parts),
                                         .stride = sizeof(struct later_head[3]),
                                         .n = 2}},
        .regions = {{.name = "ghosts", .area = 0}, {.name = "head",
                                                       .area = 1,
                                                       .n_outer = 1,
                                                       .n_inner = 1,
                                                       .stride = sizeof(struct later_head),
                                                       .off = sizeof(struct later_head)}},
        .records = {{.name = "part_head", .bytes = sizeof(struct later_head), .n_fields = 4}},
        .fields = {FIELD(news, FIELD_word), FIELD(heartbeat, 99), FIELD(drained, FIELD_word),
            FIELD(incarnation, FIELD_word)},
        .parts = {[1] = {[1] = {.news = 1, .heartbeat = 2, .drained = 3, .incarnation = 4}}},
    };
}

static void another_versions_segment_is_read_right(void **state)
{
    struct later later = later_segment();
    struct segment_view view;
    struct segment seg;
    struct view_record head;
    const char *why;
    uint64_t value;

    (void)state;
    assert_int_equal(segment_attach(&seg, &later, sizeof(later), &why), -EPROTO);
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), 0);
    assert_int_equal(view.abi, SEGMENT_ABI + 7);
    assert_true(segment_view_of_peer(&view, 1, "head", 0, 0, &head));
    assert_int_equal(word_of(&head, "heartbeat"), 2);
    assert_int_equal(word_of(&head, "incarnation"), 4);
    assert_int_equal(word_of(&head, "news"), 1);
    assert_false(view_u64(&head, "ready_ns", &value));
    assert_false(segment_view_at(&view, "control", 0, "supervisor", 0, 0, &head));
    assert_false(segment_view_at(&view, "attic", 0, "ghosts", 0, 0, &head));
    segment_view_close(&view);
}

static void one_that_cannot_be_read_is_refused_by_name(void **state)
{
    struct later later = later_segment();
    struct segment_view view;
    const char *why;

    (void)state;
    later.super.format++;
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), -EPROTO);
    assert_non_null(strstr(why, "another version"));
    later.super.format--;
    assert_int_equal(segment_view_on(&later, sizeof(later) - 1, &view, &why), -EPROTO);
    assert_non_null(strstr(why, "makes no sense"));
    later.fields[2].known.off = sizeof(struct later_head);
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), -EPROTO);
    later = later_segment();
    memset(later.records[0].name, 'x', LAYOUT_NAME);
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), -EPROTO);
    later = later_segment();
    later.regions[1].n_outer = later.regions[1].n_inner = UINT32_MAX;
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), -EPROTO);
    later.super.magic[0] = 'x';
    assert_int_equal(segment_view_on(&later, sizeof(later), &view, &why), -EPROTO);
    assert_non_null(strstr(why, "no Sherd segment"));
    assert_int_equal(segment_view_on(&later, 100, &view, &why), -EPROTO);
    assert_int_equal(segment_view_open("/dev/null", &view, &why), -EPROTO);
    assert_int_equal(segment_view_open("/nowhere/at/all", &view, &why), -ENOENT);
}

/* ---- hostile ones ---- */

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void read_record(const struct view_record *record)
{
    struct view_record inner;
    char text[300];
    uint64_t value;

    for (uint32_t i = 0; i < record->record->n_fields; i++) {
        const char *name = record->view->fields[record->record->first_field + i].name;
        view_text(record, name, text, sizeof(text));
        for (uint32_t nth = 0; nth < 3; nth++)
            view_word(record, name, nth, &value);
        if (view_inner(record, name, &inner))
            view_u64(&inner, "notified", &value);
    }
}

/* The first and the last record of each region. */
static void read_all(const struct segment_view *view)
{
    struct view_record record;

    for (uint32_t i = 0; i < view->n_regions; i++) {
        const struct layout_region *r = &view->regions[i];
        const struct layout_area *area = &view->areas[r->area];
        if (segment_view_at(view, area->name, 0, r->name, 0, 0, &record))
            read_record(&record);
        if (segment_view_at(
                view, area->name, area->n - 1, r->name, r->n_outer - 1, r->n_inner - 1, &record))
            read_record(&record);
    }
}

/* Of exactly this size, with nothing behind it that may be read. */
static void look_at_copy(const void *from, size_t bytes)
{
    struct segment_view view;
    const char *why;
    uint8_t *copy = malloc(bytes ? bytes : 1);

    assert_non_null(copy);
    memcpy(copy, from, bytes);
    if (segment_view_on(copy, bytes, &view, &why) == 0) {
        read_all(&view);
        segment_view_close(&view);
    }
    free(copy);
}

static void damaged_and_cut_short_ones_harm_nobody(void **state)
{
    struct later whole = later_segment(), later;
    uint64_t seed = 88172645463325252u;

    (void)state;
    for (size_t bytes = 0; bytes <= sizeof(whole); bytes += 4)
        look_at_copy(&whole, bytes);
    for (int i = 0; i < 20000; i++) {
        later = whole;
        for (uint64_t n = 1 + next_random(&seed) % 3; n > 0; n--) {
            uint32_t value = next_random(&seed) % 2 ? (uint32_t)next_random(&seed)
                                                    : (uint32_t)(next_random(&seed) % 200);
            size_t at = offsetof(struct segment_super, format) +
                        next_random(&seed) % (sizeof(later) - sizeof(value) -
                                                 offsetof(struct segment_super, format));
            memcpy((uint8_t *)&later + at, &value, sizeof(value));
        }
        look_at_copy(&later, sizeof(later));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_lead_to_where_the_accessors_lead),
        cmocka_unit_test(what_is_out_of_range_is_not_there),
        cmocka_unit_test(words_texts_and_inner_records_are_read),
        cmocka_unit_test(every_field_of_every_record_says_what_it_is_for),
        cmocka_unit_test(another_versions_segment_is_read_right),
        cmocka_unit_test(one_that_cannot_be_read_is_refused_by_name),
        cmocka_unit_test(damaged_and_cut_short_ones_harm_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
