/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "ipc/gateway/idset.h"
#include "ipc/gateway/limits.h"

static void an_id_is_new_once(void **state)
{
    struct idset set = {};

    assert_false(idset_has(&set, 1));
    assert_int_equal(idset_add(&set, 1), 1);
    assert_int_equal(idset_add(&set, 1), 0);
    assert_true(idset_has(&set, 1));
    idset_deinit(&set);
}

static void ids_in_a_row_are_one_range_in_whatever_order_they_come(void **state)
{
    struct idset set = {};
    static const uint64_t ids[] = {5, 3, 4, 1, 2, 7, 6};

    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        assert_int_equal(idset_add(&set, ids[i]), 1);
    assert_int_equal(set.n, 1);
    for (uint64_t id = 1; id <= 7; id++)
        assert_int_equal(idset_add(&set, id), 0);
    assert_false(idset_has(&set, 8));
    idset_deinit(&set);
}

static void a_million_ids_in_order_take_one_range(void **state)
{
    struct idset set = {};

    for (uint64_t id = 1; id <= 1000000; id++)
        idset_add(&set, id);
    assert_int_equal(set.n, 1);
    assert_true(idset_has(&set, 500000));
    idset_deinit(&set);
}

static void it_agrees_with_a_table_of_flags(void **state)
{
    enum { N = 2000 };
    bool used[N] = {};
    struct idset set = {};
    uint32_t seed = 12345;

    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525 + 1013904223;
        uint64_t id = 1 + (seed >> 8) % (N - 1);
        assert_int_equal(idset_add(&set, id), used[id] ? 0 : 1);
        used[id] = true;
    }
    for (uint64_t id = 1; id < N; id++)
        assert_int_equal(idset_has(&set, id), used[id]);
    idset_deinit(&set);
}

static void at_its_limit_the_lowest_go_below_the_floor(void **state)
{
    struct idset set = {};

    for (uint64_t i = 0; i < LIMIT_ID_RANGES + 10; i++)
        assert_int_equal(idset_add(&set, 1 + 2 * i), 1);
    assert_int_equal(set.n, LIMIT_ID_RANGES);
    assert_int_equal(set.floor, 19);
    assert_true(idset_has(&set, 1));
    assert_true(idset_has(&set, 2)); /* as if it had been used */
    assert_int_equal(idset_add(&set, 2), 0);
    assert_false(idset_has(&set, 20));
    assert_true(idset_has(&set, 21));
    assert_true(idset_has(&set, 1 + 2 * (LIMIT_ID_RANGES + 9)));
    idset_deinit(&set);
}

static void the_highest_ids_have_no_neighbours_beyond_them(void **state)
{
    struct idset set = {};

    assert_int_equal(idset_add(&set, UINT64_MAX), 1);
    assert_int_equal(idset_add(&set, 1), 1);
    assert_int_equal(idset_add(&set, UINT64_MAX - 1), 1);
    assert_int_equal(set.n, 2);
    assert_int_equal(idset_add(&set, UINT64_MAX), 0);
    idset_deinit(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_id_is_new_once),
        cmocka_unit_test(ids_in_a_row_are_one_range_in_whatever_order_they_come),
        cmocka_unit_test(a_million_ids_in_order_take_one_range),
        cmocka_unit_test(it_agrees_with_a_table_of_flags),
        cmocka_unit_test(at_its_limit_the_lowest_go_below_the_floor),
        cmocka_unit_test(the_highest_ids_have_no_neighbours_beyond_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
