/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/heap.h"

#define PAGE 4096u
#define BASE (PAGE * 10)

struct wish {
    struct heap_waiter waiter;
    uint64_t off;
    unsigned order;
};

static unsigned n_served;

static void on_ready(struct heap_waiter *waiter, uint64_t off)
{
    struct wish *wish = (struct wish *)waiter;

    wish->off = off;
    wish->order = ++n_served;
}

static uint64_t want(struct heap *heap, struct wish *wish, uint64_t len)
{
    *wish = (struct wish){0};
    heap_get(heap, &wish->waiter, len, on_ready);
    return wish->off;
}

static void open_heap(struct heap *heap, uint32_t pages)
{
    n_served = 0;
    assert_int_equal(heap_init(heap, BASE, (uint64_t)pages * PAGE), 0);
}

static void pieces_do_not_overlap_and_the_whole_can_be_given_out(void **state)
{
    struct heap heap;
    struct wish a, b, c;

    (void)state;
    open_heap(&heap, 4);
    assert_int_equal(want(&heap, &a, 1), BASE);
    assert_int_equal(want(&heap, &b, PAGE + 1), BASE + PAGE);
    assert_int_equal(want(&heap, &c, PAGE), BASE + 3 * PAGE);
    assert_int_equal(heap.n_used, 4);
    heap_put(&heap, a.off, 1);
    heap_put(&heap, b.off, PAGE + 1);
    heap_put(&heap, c.off, PAGE);
    assert_int_equal(heap.n_used, 0);
    assert_int_equal(want(&heap, &a, 4 * PAGE), BASE);
    assert_int_equal(heap.n_waits, 0);
    heap_deinit(&heap);
}

static void who_waits_is_served_in_order_and_a_large_one_is_not_overtaken(void **state)
{
    struct heap heap;
    struct wish a, b, large, small;

    (void)state;
    open_heap(&heap, 4);
    want(&heap, &a, 2 * PAGE);
    want(&heap, &b, PAGE);
    assert_int_equal(want(&heap, &large, 3 * PAGE), 0);
    assert_int_equal(want(&heap, &small, PAGE), 0);
    assert_int_equal(heap.n_waits, 2);
    heap_put(&heap, b.off, PAGE);
    assert_int_equal(large.off + small.off, 0);
    heap_put(&heap, a.off, 2 * PAGE);
    assert_int_equal(large.order, 3);
    assert_int_equal(small.order, 4);
    heap_deinit(&heap);
}

static void a_waiter_that_leaves_lets_the_next_one_in(void **state)
{
    struct heap heap;
    struct wish a, large, small, last;

    (void)state;
    open_heap(&heap, 2);
    want(&heap, &a, PAGE);
    want(&heap, &large, 2 * PAGE);
    want(&heap, &small, PAGE);
    want(&heap, &last, PAGE);
    heap_cancel(&heap, &large.waiter);
    assert_int_equal(small.off, BASE + PAGE);
    heap_cancel(&heap, &last.waiter);
    heap_cancel(&heap, &last.waiter);
    heap_put(&heap, a.off, PAGE);
    assert_int_equal(last.off, 0);
    assert_int_equal(want(&heap, &last, PAGE), BASE);
    heap_deinit(&heap);
}

static void what_is_found_in_a_segment_is_marked_once_and_only_inside(void **state)
{
    struct heap heap;
    struct wish wish;

    (void)state;
    open_heap(&heap, 4);
    assert_true(heap_mark(&heap, BASE + PAGE, PAGE + 1));
    assert_false(heap_mark(&heap, BASE + 2 * PAGE, 1));
    assert_false(heap_mark(&heap, BASE + 1, 1));
    assert_false(heap_mark(&heap, BASE - PAGE, 1));
    assert_false(heap_mark(&heap, BASE + 3 * PAGE, PAGE + 1));
    assert_false(heap_mark(&heap, BASE + 4 * PAGE, 1));
    assert_false(heap_mark(&heap, BASE, UINT64_MAX));
    assert_int_equal(want(&heap, &wish, 1), BASE);
    assert_int_equal(want(&heap, &wish, 1), BASE + 3 * PAGE);
    heap_put(&heap, BASE + PAGE, PAGE + 1);
    assert_int_equal(heap.n_used, 2);
    heap_deinit(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_overlap_and_the_whole_can_be_given_out),
        cmocka_unit_test(who_waits_is_served_in_order_and_a_large_one_is_not_overtaken),
        cmocka_unit_test(a_waiter_that_leaves_lets_the_next_one_in),
        cmocka_unit_test(what_is_found_in_a_segment_is_marked_once_and_only_inside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
