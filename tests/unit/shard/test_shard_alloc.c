/* SPDX-License-Identifier: MIT */
#include "shard/shard_alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "shard/portable.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_BLOCKS 200

enum { WORD_DONE, WORD_BAD };

static struct rig rig;
static struct rig_board *board;
static portable_fn *entry;

static int setup(void **state)
{
    (void)state;
    rig_open(&rig, 2, &rig_nothing);
    board = rig.board;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "%s\n", what);
    atomic_fetch_add(&board->words[WORD_BAD], 1);
}

#define CHECK(condition) check(condition, #condition)

static uint32_t n_tagged(void)
{
    uint32_t n = 0;

    for (uint32_t chunk = 0; chunk < segment_n_chunks(&rig.seg); chunk++)
        n += *segment_chunk_tag(&rig.seg, chunk) != 0;
    return n;
}

static void start_entry(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, entry, NULL, "alloc", NULL) == 0);
    rig_serve(end);
}

static void run_between_two(portable_fn *function)
{
    entry = function;
    rig_thread(&rig, 1, rig_serve);
    rig_thread(&rig, 0, start_entry);
    rig_wait_word(&rig, WORD_DONE, 1);
    rig_stop_all(&rig);
    assert_int_equal(atomic_load(&board->words[WORD_BAD]), 0);
    assert_int_equal(n_tagged(), 0);
}

/* ---- blocks ---- */

static bool is_filled(const uint8_t *block, size_t bytes, uint8_t with)
{
    for (size_t i = 0; i < bytes; i++)
        if (block[i] != with)
            return false;
    return true;
}

static void coroutine_fn fill_and_move(struct mesh *mesh, void *opaque)
{
    static const size_t sizes[] = {1, 16, 17, 100, 1000, 2032, 2033, 5000};
    uint8_t **blocks = shard_alloc(N_BLOCKS * sizeof(*blocks));
    uint32_t n_large = 0;

    (void)opaque;
    CHECK(blocks != NULL);
    for (uint32_t i = 0; i < N_BLOCKS; i++) {
        size_t bytes = sizes[i % 8];
        bool is_large = bytes > 2032;
        blocks[i] = is_large && n_large > 8 ? NULL : shard_alloc(bytes);
        n_large += is_large && blocks[i];
        CHECK(blocks[i] != NULL || is_large || i > 64);
        CHECK((uintptr_t)blocks[i] % 16 == 0);
        if (blocks[i])
            memset(blocks[i], (int)i, bytes);
    }
    CHECK(shard_co_move(&mesh, 1) == 0);
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        CHECK(!blocks[i] || is_filled(blocks[i], sizes[i % 8], (uint8_t)i));
    for (uint32_t i = 0; i < N_BLOCKS; i += 2)
        shard_free(blocks[i]);
    atomic_store(&board->words[WORD_DONE], 1);
}

static void blocks_do_not_overlap_move_along_and_go_with_their_coroutine(void **state)
{
    (void)state;
    run_between_two(fill_and_move);
}

static void coroutine_fn use_all(struct mesh *mesh, void *opaque)
{
    size_t page = ARENA_CHUNK_BYTES - 16;
    void *first = shard_alloc(page), *last = first, *at;
    uint32_t n = 1;

    (void)mesh;
    (void)opaque;
    while ((at = shard_alloc(page))) {
        last = at;
        n++;
    }
    CHECK(n == segment_n_chunks(&rig.seg));
    CHECK(shard_alloc(1) == NULL);
    CHECK(shard_alloc(0) == NULL);
    CHECK(shard_alloc(SHARD_ALLOC_MAX + 1) == NULL);
    shard_free(last);
    at = shard_alloc(1);
    CHECK(at != NULL);
    shard_free(at);
    CHECK(shard_alloc(10) == at); /* used again */
    atomic_store(&board->words[WORD_DONE], 1);
}

static void when_none_is_left_it_says_so_and_what_is_freed_serves_again(void **state)
{
    (void)state;
    assert_null(shard_alloc(10)); /* no portable coroutine */
    shard_free(NULL);
    run_between_two(use_all);
}

static void coroutine_fn take_over(struct mesh *mesh, void *opaque)
{
    (void)mesh;
    (void)opaque;
    for (uint32_t chunk = 0; chunk < segment_n_chunks(&rig.seg); chunk++)
        *segment_chunk_tag(&rig.seg, chunk) = UINT64_C(77) << 24 | 5; /* of one long gone */
    CHECK(shard_alloc(SHARD_ALLOC_MAX) != NULL);
    for (uint32_t chunk = 0; chunk < segment_n_chunks(&rig.seg); chunk++)
        if (*segment_chunk_tag(&rig.seg, chunk) == (UINT64_C(77) << 24 | 5))
            *segment_chunk_tag(&rig.seg, chunk) = 0;
    atomic_store(&board->words[WORD_DONE], 1);
}

static void pages_of_one_that_has_ended_are_free_whatever_their_tag_says(void **state)
{
    (void)state;
    run_between_two(take_over);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(blocks_do_not_overlap_move_along_and_go_with_their_coroutine),
        CASE(when_none_is_left_it_says_so_and_what_is_freed_serves_again),
        CASE(pages_of_one_that_has_ended_are_free_whatever_their_tag_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
