/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "shard/heap.h"

#define PAGE    4096u
#define BASE    (PAGE * 10)
#define N_PEERS 4

static AioContext *ctx;

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

static uint64_t want_for(struct heap *heap, struct wish *wish, uint32_t holder, uint64_t len)
{
    *wish = (struct wish){0};
    heap_get(heap, &wish->waiter, holder, len, on_ready);
    return wish->off;
}

/* For a holder that has none yet, so that its share is no matter. */
static uint64_t want(struct heap *heap, struct wish *wish, uint64_t len)
{
    for (uint32_t holder = 0; holder < N_PEERS; holder++)
        if (!heap->shares[holder].n_used && !heap->shares[holder].first)
            return want_for(heap, wish, holder, len);
    abort();
}

static void open_heap(struct heap *heap, uint32_t pages)
{
    n_served = 0;
    assert_int_equal(heap_init(heap, ctx, BASE, (uint64_t)pages * PAGE, N_PEERS), 0);
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
    assert_true(heap_mark(&heap, 0, BASE + PAGE, PAGE + 1));
    assert_false(heap_mark(&heap, 0, BASE + 2 * PAGE, 1));
    assert_false(heap_mark(&heap, 0, BASE + 1, 1));
    assert_false(heap_mark(&heap, 0, BASE - PAGE, 1));
    assert_false(heap_mark(&heap, 0, BASE + 3 * PAGE, PAGE + 1));
    assert_false(heap_mark(&heap, 0, BASE + 4 * PAGE, 1));
    assert_false(heap_mark(&heap, 0, BASE, UINT64_MAX));
    assert_int_equal(want(&heap, &wish, 1), BASE);
    assert_int_equal(want(&heap, &wish, 1), BASE + 3 * PAGE);
    heap_put(&heap, BASE + PAGE, PAGE + 1);
    assert_int_equal(heap.n_used, 2);
    heap_deinit(&heap);
}

/* ---- shares ---- */

static void one_holder_gets_two_thirds_and_the_next_two_thirds_of_the_rest(void **state)
{
    struct heap heap;
    struct wish wishes[32];
    unsigned n = 0;

    (void)state;
    open_heap(&heap, 30);
    while (n < 32 && want_for(&heap, &wishes[n], 0, PAGE))
        n++;
    assert_int_equal(n, 20);
    assert_int_equal(heap.n_waits, 1);
    for (n = 21; n < 32 && want_for(&heap, &wishes[n], 1, PAGE);)
        n++;
    assert_int_equal(n - 21, 6); /* twice of what is left then: 4 */
    assert_int_equal(wishes[20].off, 0);
    /* Room for one more of the first comes with what the second gives back, too. */
    heap_put(&heap, wishes[0].off, PAGE);
    heap_put(&heap, wishes[1].off, PAGE);
    assert_int_not_equal(wishes[27].off, 0);
    heap_deinit(&heap);
}

static void one_buffer_is_for_everybody_however_large(void **state)
{
    struct heap heap;
    struct wish all, more;

    (void)state;
    open_heap(&heap, 8);
    assert_int_equal(want_for(&heap, &all, 2, 8 * PAGE), BASE);
    assert_int_equal(want_for(&heap, &more, 2, PAGE), 0);
    heap_put(&heap, all.off, 8 * PAGE);
    assert_int_equal(more.off, BASE);
    heap_deinit(&heap);
}

static void who_waits_for_its_share_keeps_nobody_else_waiting(void **state)
{
    struct heap heap;
    struct wish held[20], waits[5], other;

    (void)state;
    open_heap(&heap, 30);
    for (int i = 0; i < 20; i++)
        want_for(&heap, &held[i], 0, PAGE);
    for (int i = 0; i < 5; i++)
        assert_int_equal(want_for(&heap, &waits[i], 0, PAGE), 0);
    assert_int_not_equal(want_for(&heap, &other, 1, 4 * PAGE), 0);
    heap_put(&heap, other.off, 4 * PAGE);
    for (int i = 0; i < 5; i++) {
        heap_put(&heap, held[i].off, PAGE);
        assert_int_not_equal(waits[i].off, 0);
        assert_int_equal(waits[i].order, 22 + i);
    }
    heap_deinit(&heap);
}

static void holders_that_wait_are_served_in_turn(void **state)
{
    struct heap heap;
    struct wish all, a[2], b[2];

    (void)state;
    open_heap(&heap, 8);
    want_for(&heap, &all, 3, 8 * PAGE);
    for (int i = 0; i < 2; i++)
        want_for(&heap, &a[i], 0, PAGE);
    for (int i = 0; i < 2; i++)
        want_for(&heap, &b[i], 1, PAGE);
    heap_put(&heap, all.off, 8 * PAGE);
    assert_int_equal(a[0].order, 2);
    assert_int_equal(b[0].order, 3);
    assert_int_equal(a[1].order, 4);
    assert_int_equal(b[1].order, 5);
    heap_deinit(&heap);
}

/* What is behind it comes after HEAP_PATIENCE_NS, with nothing given back meanwhile. */
static void one_that_fits_nowhere_is_passed_by_once_patience_is_over(void **state)
{
    struct heap heap;
    struct wish stuck, large, small;

    (void)state;
    open_heap(&heap, 8);
    want_for(&heap, &stuck, 0, 4 * PAGE);
    assert_int_equal(want_for(&heap, &large, 1, 6 * PAGE), 0);
    assert_int_equal(want_for(&heap, &small, 2, PAGE), 0);
    while (!small.off)
        aio_poll(ctx, true);
    assert_true(aio_clock_ns() - large.waiter.since_ns >= HEAP_PATIENCE_NS);
    assert_int_equal(large.off, 0);
    heap_put(&heap, small.off, PAGE);
    heap_put(&heap, stuck.off, 4 * PAGE);
    assert_int_equal(large.off, BASE);
    heap_deinit(&heap);
}

static void what_is_in_quarantine_is_in_nobodys_share(void **state)
{
    struct heap heap;
    struct wish wish, more;

    (void)state;
    open_heap(&heap, 30);
    assert_int_equal(want_for(&heap, &wish, 0, 15 * PAGE), BASE);
    heap_disown(&heap, wish.off, 15 * PAGE);
    assert_int_equal(heap.shares[0].n_used, 0);
    assert_int_equal(heap.n_used, 15);
    assert_true(heap_has_room(&heap, 0, 15 * PAGE));
    assert_false(heap_has_room(&heap, 0, 15 * PAGE + 1));
    assert_true(heap_mark(&heap, HEAP_NOBODY, BASE + 20 * PAGE, PAGE));
    assert_int_not_equal(want_for(&heap, &more, 0, 5 * PAGE), 0);
    heap_put(&heap, BASE, 15 * PAGE);
    heap_put(&heap, BASE + 20 * PAGE, PAGE);
    assert_int_equal(heap.n_used, 5);
    heap_deinit(&heap);
}

/* ---- what must never be done ---- */

static void dies_of(void (*body)(struct heap *heap))
{
    struct heap heap;
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        open_heap(&heap, 8);
        body(&heap);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void put_twice(struct heap *heap)
{
    struct wish wish;

    want_for(heap, &wish, 0, PAGE);
    heap_put(heap, wish.off, PAGE);
    heap_put(heap, wish.off, PAGE);
}

static void put_more_than_it_had(struct heap *heap)
{
    struct wish a, b;

    want_for(heap, &a, 0, PAGE);
    want_for(heap, &b, 1, PAGE);
    heap_put(heap, a.off, 2 * PAGE);
}

static void who_gives_back_what_it_does_not_have_is_stopped(void **state)
{
    (void)state;
    dies_of(put_twice);
    dies_of(put_more_than_it_had);
}

/* Some tens of thousands of steps against a model: each page has one holder, and the sums are
 * right. */
static void random_steps_leave_each_page_with_one_holder(void **state)
{
    enum { PAGES = 64, WISHES = 48, STEPS = 30000 };
    static struct wish wishes[WISHES];
    struct heap heap;
    uint32_t lens[WISHES] = {0}, seed = 12345;

    (void)state;
    open_heap(&heap, PAGES);
    memset(wishes, 0, sizeof(wishes));
    for (int step = 0; step < STEPS; step++) {
        struct wish *wish;
        uint8_t taken[PAGES] = {0};
        uint32_t used = 0, by_holder[N_PEERS] = {0};

        seed = seed * 1103515245 + 12345;
        uint32_t i = seed >> 16 & 0xffff;
        wish = &wishes[i % WISHES];
        if (wish->off) {
            heap_put(&heap, wish->off, lens[i % WISHES]);
            wish->off = 0;
        } else if (wish->waiter.waits) {
            heap_cancel(&heap, &wish->waiter);
        } else {
            lens[i % WISHES] = 1 + (seed >> 8) % (9 * PAGE);
            want_for(&heap, wish, i % N_PEERS, lens[i % WISHES]);
        }
        for (uint32_t w = 0; w < WISHES; w++) {
            uint32_t n = (lens[w] + PAGE - 1) / PAGE;
            if (!wishes[w].off)
                continue;
            assert_false(wishes[w].waiter.waits);
            for (uint32_t page = 0; page < n; page++)
                assert_int_equal(taken[(wishes[w].off - BASE) / PAGE + page]++, 0);
            used += n;
            by_holder[wishes[w].waiter.holder] += n;
        }
        assert_int_equal(heap.n_used, used);
        for (uint32_t holder = 0; holder < N_PEERS; holder++)
            assert_int_equal(heap.shares[holder].n_used, by_holder[holder]);
    }
    for (uint32_t w = 0; w < WISHES; w++)
        if (!wishes[w].off)
            heap_cancel(&heap, &wishes[w].waiter);
    for (uint32_t w = 0; w < WISHES; w++)
        if (wishes[w].off)
            heap_put(&heap, wishes[w].off, lens[w]);
    assert_int_equal(heap.n_used, 0);
    assert_int_equal(heap.first_turn | heap.last_turn, 0);
    heap_deinit(&heap);
}

static int open_context(void **state)
{
    int r = aio_context_new(&(struct aio_config){.engine = AIO_ENGINE_THREADS}, &ctx);

    (void)state;
    if (r == 0)
        aio_context_set_current(ctx);
    return r;
}

static int close_context(void **state)
{
    (void)state;
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_overlap_and_the_whole_can_be_given_out),
        cmocka_unit_test(who_waits_is_served_in_order_and_a_large_one_is_not_overtaken),
        cmocka_unit_test(a_waiter_that_leaves_lets_the_next_one_in),
        cmocka_unit_test(what_is_found_in_a_segment_is_marked_once_and_only_inside),
        cmocka_unit_test(one_holder_gets_two_thirds_and_the_next_two_thirds_of_the_rest),
        cmocka_unit_test(one_buffer_is_for_everybody_however_large),
        cmocka_unit_test(who_waits_for_its_share_keeps_nobody_else_waiting),
        cmocka_unit_test(holders_that_wait_are_served_in_turn),
        cmocka_unit_test(one_that_fits_nowhere_is_passed_by_once_patience_is_over),
        cmocka_unit_test(what_is_in_quarantine_is_in_nobodys_share),
        cmocka_unit_test(who_gives_back_what_it_does_not_have_is_stopped),
        cmocka_unit_test(random_steps_leave_each_page_with_one_holder),
    };

    return cmocka_run_group_tests(tests, open_context, close_context);
}
