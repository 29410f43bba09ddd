/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * topology - the cores that this process may use, and how much of them
 *
 * Why:         a shard belongs on a core of its own, and there are as many as the affinity mask and
 *              the cgroup's CPU quota leave, not as many as the machine has.
 * Use:         topology_read(), topology_default_shards(); in a child, sched_setaffinity() to
 *              topology_core_of()
 * Concurrency: read once by the supervisor before the first fork, constant after.
 * Lifetime:    topology_deinit() frees; children inherit it.
 */
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

/* A core, and of its hardware threads those that are allowed. */
struct topology_core {
    cpu_set_t cpus;
    int32_t first_cpu; /* the lowest of them: the core's name in status */
    int32_t node;      /* NUMA node; -1: unknown */
};

struct topology {
    struct topology_core *cores; /* ordered by node, then by number */
    uint32_t n_cores;
    uint32_t quota_cores; /* CPU quota in whole cores, rounded up; 0: none */
};

/* root: a folder to look for /proc and /sys/fs/cgroup in; "" for the machine's. 0 or -errno. Where
 * hwloc can't tell, each allowed CPU counts as a core. */
int topology_read(const char *root, struct topology *ret);
void topology_deinit(struct topology *topology);

/* One shard a core, as far as the quota goes; 1 to max. */
uint32_t topology_default_shards(const struct topology *topology, uint32_t max);

/* The core for that shard, or NULL: there are more shards than cores, so none has one of its
 * own. */
const struct topology_core *topology_core_of(
    const struct topology *topology, uint32_t shard, uint32_t n_shards);
