/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/topology.h"
#include "tests/unit/shard/scratch_dir.h"

static void what_was_read_has_the_quota_in_whole_cores(void **state)
{
    struct topology topology;

    scratch_write(*state, "proc/self/cgroup", "0::/box\n");
    scratch_write(*state, "sys/fs/cgroup/box/cpu.max", "150000 100000\n");
    assert_int_equal(topology_read(*state, &topology), 0);
    assert_int_equal(topology.quota_cores, 2);
    assert_true(topology.n_cores >= 1);
    topology_deinit(&topology);
}

static struct topology topology_of(struct topology_core *cores, uint32_t n, uint32_t quota_cores)
{
    return (struct topology){.cores = cores, .n_cores = n, .quota_cores = quota_cores};
}

static void default_is_one_shard_a_core_within_the_quota(void **state)
{
    struct topology_core cores[8] = {0};
    struct topology topology = topology_of(cores, 8, 0);

    assert_int_equal(topology_default_shards(&topology, 128), 8);
    assert_int_equal(topology_default_shards(&topology, 4), 4);
    topology.quota_cores = 3;
    assert_int_equal(topology_default_shards(&topology, 128), 3);
    topology.quota_cores = 100;
    assert_int_equal(topology_default_shards(&topology, 128), 8);
}

static void shards_get_cores_of_their_own_or_none_at_all(void **state)
{
    struct topology_core cores[2] = {{.first_cpu = 4}, {.first_cpu = 6}};
    struct topology topology = topology_of(cores, 2, 0);

    assert_ptr_equal(topology_core_of(&topology, 0, 2), &cores[0]);
    assert_ptr_equal(topology_core_of(&topology, 1, 2), &cores[1]);
    assert_null(topology_core_of(&topology, 0, 3));
}

static void only_allowed_cpus_make_cores(void **state)
{
    struct topology topology;
    cpu_set_t before, one;
    int cpu = 0;

    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    while (!CPU_ISSET((size_t)cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(topology_read("", &topology), 0);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(topology.n_cores, 1);
    assert_int_equal(topology.cores[0].first_cpu, cpu);
    assert_true(CPU_EQUAL(&topology.cores[0].cpus, &one));
    topology_deinit(&topology);
}

static void cores_of_this_machine_share_no_cpu_and_miss_none(void **state)
{
    struct topology topology;
    cpu_set_t allowed, seen;

    CPU_ZERO(&seen);
    assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    assert_int_equal(topology_read("", &topology), 0);
    for (uint32_t i = 0; i < topology.n_cores; i++) {
        cpu_set_t both;
        CPU_AND(&both, &seen, &topology.cores[i].cpus);
        assert_int_equal(CPU_COUNT(&both), 0);
        CPU_OR(&seen, &seen, &topology.cores[i].cpus);
    }
    assert_true(CPU_EQUAL(&seen, &allowed));
    topology_deinit(&topology);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_was_read_has_the_quota_in_whole_cores),
        cmocka_unit_test(default_is_one_shard_a_core_within_the_quota),
        cmocka_unit_test(shards_get_cores_of_their_own_or_none_at_all),
        cmocka_unit_test(only_allowed_cpus_make_cores),
        cmocka_unit_test(cores_of_this_machine_share_no_cpu_and_miss_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
