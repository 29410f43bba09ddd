/* SPDX-License-Identifier: MIT */
/*
 * lockcnt in real threads. All its interleavings, with the wake that must be passed on, are in
 * tests/explore/scenario_lockcnt.c.
 */
#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/lockcnt.h"
#include "tests/unit/runtime/death.h"

#define N_THREADS 4
#define N_ROUNDS  20000

struct node {
    struct node *next; /* on the list of what was taken off */
    uint32_t value;
};

static struct {
    LockCnt cnt;
    struct node *current; /* written under the lock */
    struct node *removed; /* under the lock */
    uint32_t n_removed;   /* under the lock */
    uint32_t n_freed;     /* under the lock */
} s;

static void visits_are_counted(void **state)
{
    LockCnt cnt;

    lockcnt_init(&cnt);
    assert_int_equal(lockcnt_count(&cnt), 0);
    lockcnt_inc(&cnt);
    lockcnt_inc(&cnt);
    assert_int_equal(lockcnt_count(&cnt), 2);
    lockcnt_dec(&cnt);
    assert_int_equal(lockcnt_count(&cnt), 1);
    lockcnt_dec(&cnt);
    lockcnt_destroy(&cnt);
}

static void only_the_last_visitor_comes_away_with_the_lock(void **state)
{
    LockCnt cnt;

    lockcnt_init(&cnt);
    lockcnt_inc(&cnt);
    lockcnt_inc(&cnt);
    assert_false(lockcnt_dec_if_lock(&cnt));
    assert_int_equal(lockcnt_count(&cnt), 2);
    assert_false(lockcnt_dec_and_lock(&cnt));
    assert_true(lockcnt_dec_and_lock(&cnt));
    assert_int_equal(lockcnt_count(&cnt), 0);
    lockcnt_unlock(&cnt);
    lockcnt_destroy(&cnt);
}

static void the_only_visitor_can_take_the_lock_and_come_back_as_visitor(void **state)
{
    LockCnt cnt;

    lockcnt_init(&cnt);
    lockcnt_inc(&cnt);
    assert_true(lockcnt_dec_if_lock(&cnt));
    lockcnt_inc_and_unlock(&cnt);
    assert_int_equal(lockcnt_count(&cnt), 1);
    lockcnt_dec(&cnt);
    lockcnt_destroy(&cnt);
}

static void visitors_come_while_the_lock_is_held_if_there_is_one(void **state)
{
    LockCnt cnt;

    lockcnt_init(&cnt);
    lockcnt_inc(&cnt);
    lockcnt_lock(&cnt);
    lockcnt_inc(&cnt);
    assert_int_equal(lockcnt_count(&cnt), 2);
    lockcnt_dec(&cnt);
    lockcnt_unlock(&cnt);
    lockcnt_dec(&cnt);
    lockcnt_destroy(&cnt);
}

static void destroy_visited(void)
{
    LockCnt cnt;

    lockcnt_init(&cnt);
    lockcnt_inc(&cnt);
    lockcnt_destroy(&cnt);
}

static void to_destroy_one_that_is_visited_aborts(void **state)
{
    assert_bug(destroy_visited, "cnt->word == 0");
}

/* ---- a list that threads read and change ---- */

static void free_removed(void)
{
    while (s.removed) {
        struct node *node = s.removed;

        s.removed = node->next;
        node->value = UINT32_MAX;
        free(node);
        s.n_freed++;
    }
}

static void visit(void)
{
    lockcnt_inc(&s.cnt);
    const struct node *node = __atomic_load_n(&s.current, __ATOMIC_ACQUIRE);

    if (node)
        assert(node->value < N_THREADS * N_ROUNDS);
    if (lockcnt_dec_and_lock(&s.cnt)) {
        free_removed();
        lockcnt_unlock(&s.cnt);
    }
}

static void replace(uint32_t value)
{
    struct node *node = malloc(sizeof *node);

    assert(node);
    node->value = value;
    lockcnt_lock(&s.cnt);
    if (s.current) {
        s.current->next = s.removed;
        s.removed = s.current;
        s.n_removed++;
    }
    __atomic_store_n(&s.current, node, __ATOMIC_RELEASE);
    if (lockcnt_count(&s.cnt) == 0)
        free_removed();
    lockcnt_unlock(&s.cnt);
}

static void *visit_and_replace(void *opaque)
{
    uint32_t first = (uint32_t)(uintptr_t)opaque * N_ROUNDS;

    for (uint32_t i = 0; i < N_ROUNDS; i++) {
        visit();
        if (i % 4 == 0)
            replace(first + i);
    }
    return NULL;
}

static void threads_that_read_and_change_a_list_free_each_node_once(void **state)
{
    pthread_t threads[N_THREADS];

    lockcnt_init(&s.cnt);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, visit_and_replace, (void *)i), 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    lockcnt_lock(&s.cnt);
    assert_int_equal(lockcnt_count(&s.cnt), 0);
    free_removed();
    lockcnt_unlock(&s.cnt);
    assert_int_equal(s.n_removed, N_THREADS * N_ROUNDS / 4 - 1);
    assert_int_equal(s.n_freed, s.n_removed);
    free(s.current);
    lockcnt_destroy(&s.cnt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(visits_are_counted),
        cmocka_unit_test(only_the_last_visitor_comes_away_with_the_lock),
        cmocka_unit_test(the_only_visitor_can_take_the_lock_and_come_back_as_visitor),
        cmocka_unit_test(visitors_come_while_the_lock_is_held_if_there_is_one),
        cmocka_unit_test(to_destroy_one_that_is_visited_aborts),
        cmocka_unit_test(threads_that_read_and_change_a_list_free_each_node_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
