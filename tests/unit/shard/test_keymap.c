/* SPDX-License-Identifier: MIT */
#include "shard/keymap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "shard/segment.h"

static void every_slot_of_the_key_map_has_a_shard_and_shares_are_even(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= SEGMENT_MAX_SHARDS; n++) {
        uint32_t share[SEGMENT_MAX_SHARDS] = {0};
        for (uint32_t slot = 0; slot < KEYMAP_SLOTS; slot++) {
            assert_true(keymap_shard(slot, n) < n);
            share[keymap_shard(slot, n)]++;
        }
        for (uint32_t shard = 0; shard < n; shard++)
            assert_true(share[shard] >= KEYMAP_SLOTS / n && share[shard] <= KEYMAP_SLOTS / n + 1);
    }
}

static void keys_that_differ_little_spread_over_the_shards(void **state)
{
    uint32_t share[4] = {0};
    char key[32];

    (void)state;
    for (int i = 0; i < 40000; i++) {
        int len = snprintf(key, sizeof(key), "/usr/lib/file-%d", i);
        share[keymap_shard(keymap_slot(keymap_hash(key, (size_t)len)), 4)]++;
    }
    for (int shard = 0; shard < 4; shard++)
        assert_in_range(share[shard], 9500, 10500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slot_of_the_key_map_has_a_shard_and_shares_are_even),
        cmocka_unit_test(keys_that_differ_little_spread_over_the_shards),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
