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

#define MIB (UINT64_C(1) << 20)

static void *map(uint64_t bytes)
{
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(base != MAP_FAILED);
    return base;
}

static void open_segment(struct segment *seg, uint32_t n_shards)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    assert_int_equal(segment_geometry_plan(n_shards, 0, &geometry, &bytes), 0);
    assert_int_equal(segment_init(seg, map(bytes), bytes, &geometry, "test"), 0);
    assert_int_equal(seg->bytes, bytes);
}

static void two_shards_fit_24_mib_and_every_count_of_shards_has_a_plan(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    (void)state;
    for (uint32_t n = 1; n <= SEGMENT_MAX_SHARDS; n++) {
        assert_int_equal(segment_geometry_plan(n, 0, &geometry, &bytes), 0);
        assert_true(n > 2 || bytes <= 24 * MIB);
        assert_true(geometry.heap_bytes > SEGMENT_PAYLOAD_MAX);
        assert_int_equal(geometry.slots_shard % SEGMENT_MIN_SLOTS, 0);
    }
    assert_int_equal(segment_geometry_plan(0, 0, &geometry, &bytes), -EINVAL);
    assert_int_equal(segment_geometry_plan(SEGMENT_MAX_SHARDS + 1, 0, &geometry, &bytes), -EINVAL);
}

static void however_many_shards_there_are_clients_and_sessions_have_what_is_promised(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    (void)state;
    for (uint32_t n = 1; n <= SEGMENT_MAX_SHARDS; n++) {
        assert_int_equal(segment_geometry_plan(n, 0, &geometry, &bytes), 0);
        assert_int_equal(geometry.n_clients, n <= 16 ? 8192 : 4096);
        assert_int_equal(geometry.n_ledger, n <= 16 ? 2048 : 512);
        assert_int_equal(geometry.n_fates, 3 * 4096);
    }
}

static void where_memory_is_short_what_takes_most_gives_way_and_fates_that_were_asked_for_stay(
    void **state)
{
    struct segment_geometry usual, small, asked;
    uint64_t bytes;

    (void)state;
    assert_int_equal(segment_geometry_plan(2, 0, &usual, &bytes), 0);
    assert_int_equal(segment_geometry_plan(2, 8 * MIB, &small, &bytes), 0);
    assert_true(bytes <= 8 * MIB);
    assert_true(small.n_clients < usual.n_clients && small.n_fates < usual.n_fates);
    assert_int_equal(segment_geometry_plan_fates(
                         2, 8 * MIB, usual.n_fates * sizeof(struct fate), &asked, &bytes),
        0);
    assert_int_equal(asked.n_fates, usual.n_fates);
    assert_true(asked.n_clients <= small.n_clients);
}

static void a_limit_too_small_names_the_least_that_works(void **state)
{
    struct segment_geometry geometry;
    uint64_t least, bytes;

    (void)state;
    assert_int_equal(segment_geometry_plan(8, MIB, &geometry, &least), -ENOSPC);
    assert_int_equal(segment_geometry_plan(8, least - 1, &geometry, &bytes), -ENOSPC);
    assert_int_equal(segment_geometry_plan(8, least, &geometry, &bytes), 0);
    assert_true(bytes <= least);
}

/* ---- no two things share a byte ---- */

struct span {
    uint64_t first, end;
};

struct spans {
    struct span *at;
    size_t n, capacity;
};

static void add(struct spans *spans, const struct segment *seg, const void *first, uint64_t bytes)
{
    uint64_t off = (uint64_t)((const uint8_t *)first - seg->base);

    if (!bytes)
        return;
    if (spans->n == spans->capacity) {
        spans->capacity = spans->capacity * 2 + 1024;
        spans->at = realloc(spans->at, spans->capacity * sizeof(spans->at[0]));
    }
    assert_true(off + bytes <= seg->bytes);
    spans->at[spans->n++] = (struct span){off, off + bytes};
}

static void add_pair(struct spans *spans, const struct segment *seg, uint32_t a, uint32_t b)
{
    uint64_t n_calls = segment_call_slots(seg, a, b);

    add(spans, seg, segment_pair(seg, a, b), sizeof(struct pair_stats));
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++) {
        add(spans, seg, segment_head(seg, a, b, lane), 64);
        add(spans, seg, segment_tail(seg, a, b, lane), 64);
    }
    if (a == b)
        return;
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        add(spans, seg, segment_ring(seg, a, b, lane),
            segment_ring_slots(seg, a, b, lane) * sizeof(struct ring_slot));
    if (n_calls) {
        add(spans, seg, segment_call(seg, a, b, 0), n_calls * sizeof(struct call_slot));
        add(spans, seg, segment_serve(seg, b, a, 0), n_calls * sizeof(struct serve_slot));
    }
}

static int by_first(const void *a, const void *b)
{
    const struct span *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static void check_shards(uint32_t n_shards)
{
    struct spans spans = {0};
    struct segment seg;

    open_segment(&seg, n_shards);
    add(&spans, &seg, segment_super(&seg), sizeof(struct segment_super));
    add(&spans, &seg, segment_supervisor(&seg), sizeof(struct supervisor_head));
    add(&spans, &seg, segment_culprits(&seg), SEGMENT_CULPRITS * sizeof(struct culprit));
    add(&spans, &seg, segment_client_users(&seg),
        SEGMENT_CLIENT_USERS * sizeof(struct client_user));
    add(&spans, &seg, segment_bell(&seg, seg.n_peers), sizeof(struct commons_bell));
    add(&spans, &seg, segment_arena(&seg, 0), seg.geometry.n_portable * sizeof(struct arena_slot));
    add(&spans, &seg, segment_chunk_tag(&seg, 0), segment_n_chunks(&seg) * sizeof(uint64_t));
    add(&spans, &seg, segment_chunk(&seg, 0), segment_n_chunks(&seg) * (uint64_t)ARENA_CHUNK_BYTES);
    add(&spans, &seg, segment_stack(&seg, 0),
        seg.geometry.n_portable * (uint64_t)seg.geometry.stack_bytes);
    assert_int_equal((uintptr_t)segment_arena(&seg, 0) % 64, 0);
    assert_int_equal((uint64_t)(segment_stack(&seg, 0) - seg.base) % SEGMENT_PAGE, 0);
    for (uint32_t peer = 0; peer < seg.n_peers; peer++) {
        struct aio_instruments in;
        segment_instruments(&seg, peer, &in);
        add(&spans, &seg, segment_control(&seg, peer), sizeof(struct peer_control));
        add(&spans, &seg, segment_bell(&seg, peer), sizeof(struct commons_bell));
        add(&spans, &seg, segment_part(&seg, peer), sizeof(struct part_head));
        add(&spans, &seg, in.counters, sizeof(*in.counters));
        add(&spans, &seg, in.coroutines, in.n_coroutines * sizeof(struct co_entry));
        add(&spans, &seg, in.events, in.n_events * sizeof(struct recorder_event));
        add(&spans, &seg, in.n_recorded, 8);
        add(&spans, &seg, seg.base + segment_heap_off(&seg, peer), seg.geometry.heap_bytes);
        assert_int_equal(segment_heap_off(&seg, peer) % SEGMENT_PAGE, 0);
        if (peer == segment_gateway(&seg)) {
            add(&spans, &seg, segment_client(&seg, 0),
                seg.geometry.n_clients * sizeof(struct client_row));
            add(&spans, &seg, segment_session(&seg, 0),
                segment_sessions_of(seg.geometry.n_fates) * sizeof(struct session_row));
            add(&spans, &seg, segment_fate(&seg, 0), seg.geometry.n_fates * sizeof(struct fate));
        } else {
            add(&spans, &seg, segment_client_lane(&seg, peer, 0),
                seg.geometry.n_clients * sizeof(struct client_lane));
            add(&spans, &seg, segment_ledger(&seg, peer, 0),
                seg.geometry.n_ledger * sizeof(struct ledger_slot));
        }
        for (uint32_t other = 0; other < seg.n_peers; other++)
            add_pair(&spans, &seg, peer, other);
    }
    qsort(spans.at, spans.n, sizeof(spans.at[0]), by_first);
    for (size_t i = 1; i < spans.n; i++)
        assert_true(spans.at[i - 1].end <= spans.at[i].first);
    free(spans.at);
    munmap(seg.base, seg.bytes);
}

static void no_two_records_overlap(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 8, 65, SEGMENT_MAX_SHARDS};

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        check_shards(counts[i]);
}

static void count_classes(const struct segment *seg, uint32_t caller, uint32_t callee,
    uint32_t counts[N_LANES][SEGMENT_SLOT_CLASSES])
{
    uint32_t n = segment_call_slots(seg, caller, callee);

    memset(counts, 0, sizeof(uint32_t[N_LANES][SEGMENT_SLOT_CLASSES]));
    for (uint32_t slot = 0; slot < n; slot++)
        counts[segment_slot_lane(n, slot)][segment_slot_depth(seg, caller, callee, slot)]++;
}

static void each_lane_has_slots_for_each_depth(void **state)
{
    static const uint32_t shards[] = {2, 16, SEGMENT_MAX_SHARDS};
    uint32_t counts[N_LANES][SEGMENT_SLOT_CLASSES];

    (void)state;
    for (size_t i = 0; i < sizeof(shards) / sizeof(shards[0]); i++) {
        struct segment seg;
        open_segment(&seg, shards[i]);
        count_classes(&seg, 0, 1, counts);
        for (uint32_t depth = 0; depth < SEGMENT_SLOT_CLASSES; depth++) {
            assert_int_equal(counts[LANE_URGENT][depth], 2);
            assert_true(counts[LANE_NORMAL][depth] >= 1);
        }
        count_classes(&seg, segment_gateway(&seg), 1, counts);
        assert_int_equal(counts[LANE_URGENT][0], SEGMENT_URGENT_SLOTS);
        assert_int_equal(counts[LANE_NORMAL][0], seg.geometry.slots_gateway);
        munmap(seg.base, seg.bytes);
    }
}

static void what_is_not_a_segment_of_this_build_is_refused_by_name(void **state)
{
    struct segment seg, again;
    const char *why;
    struct segment_super *super;

    (void)state;
    open_segment(&seg, 2);
    super = (struct segment_super *)seg.base;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), 0);
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes - 1, &why), -EPROTO);
    assert_int_equal(segment_attach(&again, seg.base, 100, &why), -EPROTO);
    seg.base[super->layout_off + 200]++; /* an area's place, or a region's */
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    assert_non_null(strstr(why, "another build"));
    seg.base[super->layout_off + 200]--;
    super->format++;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    assert_non_null(strstr(why, "another version"));
    super->format--;
    super->abi++;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    assert_non_null(strstr(why, "another version"));
    super->abi--;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), 0);
    super->geometry.n_shards = UINT32_MAX;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    super->geometry.n_shards = 3;
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    super->magic[0] = 'x';
    assert_int_equal(segment_attach(&again, seg.base, seg.bytes, &why), -EPROTO);
    munmap(seg.base, seg.bytes);
}

static void offsets_from_others_are_confined_to_their_heap(void **state)
{
    struct segment seg;
    uint64_t first, bytes;

    (void)state;
    open_segment(&seg, 2);
    first = segment_heap_off(&seg, 1);
    bytes = seg.geometry.heap_bytes;
    assert_ptr_equal(segment_heap_at(&seg, 1, first, bytes), seg.base + first);
    assert_null(segment_heap_at(&seg, 1, first, bytes + 1));
    assert_null(segment_heap_at(&seg, 1, first - 1, 1));
    assert_null(segment_heap_at(&seg, 1, first + bytes, 1));
    assert_null(segment_heap_at(&seg, 1, UINT64_MAX, 2));
    assert_null(segment_heap_at(&seg, 1, first + 8, UINT64_MAX));
    assert_null(segment_heap_at(&seg, 0, first, 1));
    munmap(seg.base, seg.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_shards_fit_24_mib_and_every_count_of_shards_has_a_plan),
        cmocka_unit_test(however_many_shards_there_are_clients_and_sessions_have_what_is_promised),
        cmocka_unit_test(
            where_memory_is_short_what_takes_most_gives_way_and_fates_that_were_asked_for_stay),
        cmocka_unit_test(a_limit_too_small_names_the_least_that_works),
        cmocka_unit_test(no_two_records_overlap),
        cmocka_unit_test(each_lane_has_slots_for_each_depth),
        cmocka_unit_test(what_is_not_a_segment_of_this_build_is_refused_by_name),
        cmocka_unit_test(offsets_from_others_are_confined_to_their_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
