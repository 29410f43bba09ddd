/* SPDX-License-Identifier: MIT */
#include "runtime/timer_heap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define N_TIMERS 300
#define N_STEPS  20000

struct model {
    struct timer_heap heap;
    AioTimer timers[N_TIMERS];
    bool is_in[N_TIMERS];
    uint64_t n_orders;
};

static AioTimer *least_of(struct model *m)
{
    AioTimer *least = NULL;

    for (int i = 0; i < N_TIMERS; i++) {
        AioTimer *timer = &m->timers[i];

        if (m->is_in[i] &&
            (!least || timer->latest_ns < least->latest_ns ||
                (timer->latest_ns == least->latest_ns && timer->order < least->order)))
            least = timer;
    }
    return least;
}

static void assert_first_is_least(struct model *m)
{
    const AioTimer *least = least_of(m);

    assert_ptr_equal(timer_heap_first(&m->heap), least);
    assert_true(timer_heap_first_ns(&m->heap) == (least ? least->latest_ns : INT64_MAX));
}

static void put(struct model *m, int i, int64_t latest_ns)
{
    m->timers[i].latest_ns = m->timers[i].expire_ns = latest_ns;
    m->timers[i].order = m->n_orders++;
    m->is_in[i] = true;
    timer_heap_put(&m->heap, &m->timers[i]);
}

static void take_out(struct model *m, int i)
{
    timer_heap_remove(&m->heap, &m->timers[i]);
    assert_int_equal(m->timers[i].place, TIMER_IDLE);
    m->is_in[i] = false;
}

/* Few keys, so that many are equal. */
static void change_at_random(uint32_t max_capacity, int64_t n_keys)
{
    struct model *m = calloc(1, sizeof *m);

    m->heap.max_capacity = max_capacity;
    srandom(7);
    for (int step = 0; step < N_STEPS; step++) {
        int i = (int)(random() % N_TIMERS);

        if (m->is_in[i] && random() % 3 == 0)
            take_out(m, i);
        else
            put(m, i, random() % n_keys);
        if (step % 16 == 0)
            assert_first_is_least(m);
    }
    for (AioTimer *least; (least = least_of(m)) != NULL;) {
        assert_null(timer_heap_pop_due(&m->heap, least->latest_ns - 1));
        assert_ptr_equal(timer_heap_pop_due(&m->heap, least->latest_ns), least);
        assert_int_equal(least->place, TIMER_IDLE);
        m->is_in[least - m->timers] = false;
    }
    assert_null(timer_heap_pop_due(&m->heap, INT64_MAX));
    assert_null(least_of(m));
    timer_heap_deinit(&m->heap);
    free(m);
}

static void first_is_the_least_through_random_changes(void **state)
{
    change_at_random(0, 1000000);
}

static void equal_keys_come_out_as_they_were_put_in(void **state)
{
    change_at_random(0, 5);
    change_at_random(0, 1);
}

static void timers_for_whom_there_is_no_room_keep_their_order(void **state)
{
    change_at_random(64, 1000);
    change_at_random(64, 5);
    change_at_random(1, 1000); /* no array at all */
}

static void timer_with_slack_may_be_popped_from_its_expiry_on(void **state)
{
    for (uint32_t max_capacity = 0; max_capacity < 2; max_capacity++) { /* array, list */
        struct timer_heap heap = {.max_capacity = max_capacity};
        AioTimer timer = {.expire_ns = 10, .latest_ns = 20};

        timer_heap_put(&heap, &timer);
        assert_null(timer_heap_pop_due(&heap, 9));
        assert_ptr_equal(timer_heap_pop_due(&heap, 10), &timer);
        assert_null(timer_heap_first(&heap));
        timer_heap_deinit(&heap);
    }
}

static void empty_heap_has_no_first(void **state)
{
    struct timer_heap heap = {0};

    assert_null(timer_heap_first(&heap));
    assert_true(timer_heap_first_ns(&heap) == INT64_MAX);
    timer_heap_deinit(&heap);
}

int main(void)
{
    static const struct CMUnitTest timer_heap[] = {
        cmocka_unit_test(empty_heap_has_no_first),
        cmocka_unit_test(first_is_the_least_through_random_changes),
        cmocka_unit_test(equal_keys_come_out_as_they_were_put_in),
        cmocka_unit_test(timer_with_slack_may_be_popped_from_its_expiry_on),
        cmocka_unit_test(timers_for_whom_there_is_no_room_keep_their_order),
    };

    return cmocka_run_group_tests(timer_heap, NULL, NULL);
}
