/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shard/cgroup.h"
#include "tests/unit/shard/scratch_dir.h"

/* ---- CPU ---- */

static void without_a_cgroup_there_is_no_quota(void **state)
{
    assert_int_equal(cgroup_cpu_millis(*state), 0);
}

static void v2_quota_is_read_from_the_own_group(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/box\n");
    scratch_write(*state, "sys/fs/cgroup/box/cpu.max", "150000 100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 1500);
}

static void v2_max_is_no_quota(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/box\n");
    scratch_write(*state, "sys/fs/cgroup/box/cpu.max", "max 100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 0);
}

static void tightest_quota_on_the_way_up_counts(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/a/b/c\n");
    scratch_write(*state, "sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    scratch_write(*state, "sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    scratch_write(*state, "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 2500);
}

static void path_of_the_host_falls_back_to_the_root_of_the_mount(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/docker/0123456789abcdef\n");
    scratch_write(*state, "sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 500);
}

static void v1_quota_is_read_where_the_controllers_are_mounted(void **state)
{
    scratch_write(*state, "proc/self/cgroup",
        "9:name=systemd:/\n4:memory:/other\n3:cpu,cpuacct:/job\n0::/\n");
    scratch_write(*state, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
    scratch_write(*state, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 3000);
}

static void v1_minus_one_is_no_quota(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "1:cpu:/job\n");
    scratch_write(*state, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
    scratch_write(*state, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cgroup_cpu_millis(*state), 0);
}

static void nonsense_in_cgroup_files_is_no_quota(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0:\nrubbish\n::::\n0::/a\n1:cpu:/b\n");
    scratch_write(*state, "sys/fs/cgroup/a/cpu.max", "many of them\n");
    scratch_write(*state, "sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "100\n");
    scratch_write(*state, "sys/fs/cgroup/cpu/b/cpu.cfs_period_us", "0\n");
    assert_int_equal(cgroup_cpu_millis(*state), 0);
}

/* ---- memory ---- */

static void without_a_cgroup_memory_has_no_limit_and_nobody_was_killed(void **state)
{
    assert_true(cgroup_memory_bytes(*state) == UINT64_MAX);
    assert_int_equal(cgroup_oom_kills(*state), 0);
}

static void v2_memory_is_the_least_of_max_and_high_on_the_way_up(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/a/b\n");
    scratch_write(*state, "sys/fs/cgroup/a/b/memory.max", "max\n");
    scratch_write(*state, "sys/fs/cgroup/a/b/memory.high", "400000000\n");
    assert_int_equal(cgroup_memory_bytes(*state), 400000000);
    scratch_write(*state, "sys/fs/cgroup/a/memory.max", "300000000\n");
    assert_int_equal(cgroup_memory_bytes(*state), 300000000);
}

static void v2_max_is_no_limit_of_memory(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/a\n");
    scratch_write(*state, "sys/fs/cgroup/a/memory.max", "max\n");
    assert_true(cgroup_memory_bytes(*state) == UINT64_MAX);
}

static void v1_memory_is_read_where_its_controller_is(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "4:memory:/job\n3:cpu:/other\n0::/\n");
    scratch_write(*state, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "209715200\n");
    scratch_write(*state, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(cgroup_memory_bytes(*state), 209715200);
}

static void v1_number_near_the_largest_is_no_limit(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "4:memory:/\n");
    scratch_write(*state, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(cgroup_memory_bytes(*state) == UINT64_MAX);
}

static void v2_kills_are_those_of_the_own_group_alone(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/a/b\n");
    scratch_write(*state, "sys/fs/cgroup/a/memory.events", "oom 9\noom_kill 9\n");
    scratch_write(*state, "sys/fs/cgroup/a/b/memory.events",
        "low 0\nhigh 5\nmax 70\noom 3\noom_kill 2\noom_group_kill 0\n");
    assert_int_equal(cgroup_oom_kills(*state), 2);
}

static void kills_of_a_group_that_is_not_mounted_are_those_of_the_mount(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "0::/docker/0123456789abcdef\n");
    scratch_write(*state, "sys/fs/cgroup/memory.events", "oom_kill 4\n");
    assert_int_equal(cgroup_oom_kills(*state), 4);
}

static void v1_kills_are_read_from_oom_control(void **state)
{
    scratch_write(*state, "proc/self/cgroup", "4:memory:/job\n0::/\n");
    scratch_write(*state, "sys/fs/cgroup/memory/job/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n");
    assert_int_equal(cgroup_oom_kills(*state), 7);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(without_a_cgroup_there_is_no_quota),
        CASE(v2_quota_is_read_from_the_own_group),
        CASE(v2_max_is_no_quota),
        CASE(tightest_quota_on_the_way_up_counts),
        CASE(path_of_the_host_falls_back_to_the_root_of_the_mount),
        CASE(v1_quota_is_read_where_the_controllers_are_mounted),
        CASE(v1_minus_one_is_no_quota),
        CASE(nonsense_in_cgroup_files_is_no_quota),
        CASE(without_a_cgroup_memory_has_no_limit_and_nobody_was_killed),
        CASE(v2_memory_is_the_least_of_max_and_high_on_the_way_up),
        CASE(v2_max_is_no_limit_of_memory),
        CASE(v1_memory_is_read_where_its_controller_is),
        CASE(v1_number_near_the_largest_is_no_limit),
        CASE(v2_kills_are_those_of_the_own_group_alone),
        CASE(kills_of_a_group_that_is_not_mounted_are_those_of_the_mount),
        CASE(v1_kills_are_read_from_oom_control),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
