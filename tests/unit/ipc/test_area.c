/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "ipc/client/area.h"

#define BYTES ((size_t)64 * 1024 * 1024)

struct fixture {
    struct area area;
    uint8_t *base;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->base = mmap(
        NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *state = f;
    return f->base == MAP_FAILED ? -1 : area_init(&f->area, f->base, BYTES);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    area_deinit(&f->area);
    munmap(f->base, BYTES);
    free(f);
    return 0;
}

static void all_of_it_is_one_piece_at_first_and_again_at_last(void **state)
{
    struct fixture *f = *state;

    for (size_t len = 1; len <= BYTES; len = len * 3 + 1) {
        void *piece = area_alloc(&f->area, len);
        assert_non_null(piece);
        assert_true(area_has(&f->area, piece, len));
        area_free(&f->area, piece);
    }
    assert_ptr_equal(area_alloc(&f->area, BYTES), f->base);
    assert_null(area_alloc(&f->area, 1));
    area_free(&f->area, f->base);
    assert_int_equal(f->area.used, 0);
}

static void more_than_there_is_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_null(area_alloc(&f->area, BYTES + 1));
    assert_null(area_alloc(&f->area, SIZE_MAX));
    assert_false(area_has(&f->area, f->base + BYTES - 1, 2));
    assert_false(area_has(&f->area, f->base - 1, 1));
}

static void pieces_are_aligned_for_what_they_are(void **state)
{
    struct fixture *f = *state;

    for (size_t len = 1; len < 20000; len += 61) {
        uint8_t *piece = area_alloc(&f->area, len);
        assert_int_equal((uintptr_t)piece % (len > 2048 ? AREA_PAGE : AREA_ALIGN), 0);
    }
}

/* Any order and any lengths: no two pieces share a byte, and what is freed is whole again. */
static void pieces_never_overlap_and_all_comes_back(void **state)
{
    struct fixture *f = *state;
    static uint8_t *pieces[2000];
    static size_t lens[2000];
    unsigned seed = 1;

    for (int i = 0; i < 60000; i++) {
        size_t at = (size_t)rand_r(&seed) % 2000;
        if (pieces[at]) {
            assert_int_equal(pieces[at][0], (uint8_t)at);
            assert_int_equal(pieces[at][lens[at] - 1], (uint8_t)at);
            area_free(&f->area, pieces[at]);
            pieces[at] = NULL;
            continue;
        }
        lens[at] = (size_t)1 << rand_r(&seed) % 20;
        lens[at] += (size_t)rand_r(&seed) % lens[at];
        pieces[at] = area_alloc(&f->area, lens[at]);
        if (!pieces[at])
            continue;
        pieces[at][0] = pieces[at][lens[at] - 1] = (uint8_t)at;
    }
    for (size_t at = 0; at < 2000; at++)
        if (pieces[at])
            area_free(&f->area, pieces[at]);
    memset(pieces, 0, sizeof(pieces));
    assert_ptr_equal(area_alloc(&f->area, BYTES), f->base);
}

/* A small piece in each of many long ones' places would keep any long one from ever being had. */
static void small_pieces_that_stay_leave_room_for_long_ones(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 4000; i++) {
        void *piece = area_alloc(&f->area, 1024 * 1024);
        assert_non_null(area_alloc(&f->area, 100)); /* stays */
        area_free(&f->area, piece);
    }
    assert_non_null(area_alloc(&f->area, BYTES - 2 * 1024 * 1024));
}

static void what_is_in_use_is_copied_to_its_place(void **state)
{
    struct fixture *f = *state;
    uint8_t *to = mmap(
        NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *small = area_alloc(&f->area, 64), *large = area_alloc(&f->area, 100000);

    memset(small, 1, 64);
    memset(large, 2, 100000);
    area_copy(&f->area, to);
    assert_memory_equal(to + (small - f->base), small, 64);
    assert_memory_equal(to + (large - f->base), large, 100000);
    munmap(to, BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            all_of_it_is_one_piece_at_first_and_again_at_last, set_up, tear_down),
        cmocka_unit_test_setup_teardown(more_than_there_is_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pieces_are_aligned_for_what_they_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pieces_never_overlap_and_all_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            small_pieces_that_stay_leave_room_for_long_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_in_use_is_copied_to_its_place, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
