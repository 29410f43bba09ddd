/* SPDX-License-Identifier: MIT */
/*
 * hwloc tells cores and NUMA nodes; the affinity mask, which hwloc leaves out, is taken from the
 * kernel. Of hwloc only what reads /sys is used: its plugins are not searched for (57 ms on a cold
 * machine), and its pci, gl, opencl, cuda… components, which load vendors' libraries that start
 * threads, are switched off; so is x86, which visits every CPU to ask it.
 */
#include "shard/topology.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/cgroup.h"

#define N_CPUS_MAX ((int)CPU_SETSIZE)

/* ---- cores ---- */

static int add_core(struct topology *topology, const cpu_set_t *cpus, int32_t node)
{
    struct topology_core *grown, core = {.cpus = *cpus, .first_cpu = -1, .node = node};

    for (int cpu = 0; cpu < N_CPUS_MAX && core.first_cpu < 0; cpu++)
        if (CPU_ISSET((size_t)cpu, cpus))
            core.first_cpu = cpu;
    if (core.first_cpu < 0)
        return 0;
    grown = reallocarray(topology->cores, topology->n_cores + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    topology->cores = grown;
    grown[topology->n_cores++] = core;
    return 0;
}

static int add_each_cpu(struct topology *topology, const cpu_set_t *allowed)
{
    int r = 0;

    for (int cpu = 0; r == 0 && cpu < N_CPUS_MAX; cpu++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        if (CPU_ISSET((size_t)cpu, allowed))
            CPU_SET((size_t)cpu, &one);
        r = add_core(topology, &one, -1);
    }
    return r;
}

static int add_hwloc_core(struct topology *topology, hwloc_obj_t core, const cpu_set_t *allowed)
{
    int node = core->nodeset ? hwloc_bitmap_first(core->nodeset) : -1;
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    for (int cpu = hwloc_bitmap_first(core->cpuset); cpu >= 0 && cpu < N_CPUS_MAX;
         cpu = hwloc_bitmap_next(core->cpuset, cpu))
        if (CPU_ISSET((size_t)cpu, allowed))
            CPU_SET((size_t)cpu, &cpus);
    return add_core(topology, &cpus, node);
}

/* Loads what /sys says, in this thread alone. */
static int load_hwloc(hwloc_topology_t *ret)
{
    static const char *const unwanted[] = {
        "pci", "gl", "opencl", "cuda", "nvml", "rsmi", "levelzero", "x86"};
    hwloc_topology_t hw;

    if (hwloc_topology_init(&hw) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
        hwloc_topology_set_components(hw, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, unwanted[i]);
    hwloc_topology_set_all_types_filter(hw, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(hw, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc_topology_load(hw) < 0) {
        hwloc_topology_destroy(hw);
        return -EIO;
    }
    *ret = hw;
    return 0;
}

/* What hwloc reads from the environment, set for the time it is loaded. */
static const struct setting {
    const char *name, *value;
} settings[] = {
    {"HWLOC_PLUGINS_PATH", "/nonexistent"},
    {"HWLOC_HIDE_ERRORS", "2"}, /* it would write to standard error */
};

#define N_SETTINGS (sizeof(settings) / sizeof(settings[0]))

static void put_setting(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static int load_hwloc_quietly(hwloc_topology_t *ret)
{
    char *before[N_SETTINGS];
    int r;

    for (size_t i = 0; i < N_SETTINGS; i++) {
        const char *value = getenv(settings[i].name);
        before[i] = value ? strdup(value) : NULL;
        put_setting(settings[i].name, settings[i].value);
    }
    r = load_hwloc(ret);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        put_setting(settings[i].name, before[i]);
        free(before[i]);
    }
    return r;
}

static int add_hwloc_cores(struct topology *topology, const cpu_set_t *allowed)
{
    hwloc_topology_t hw;
    int r = load_hwloc_quietly(&hw);

    if (r < 0)
        return r;
    for (hwloc_obj_t core = NULL;
         r == 0 && (core = hwloc_get_next_obj_by_type(hw, HWLOC_OBJ_CORE, core));)
        r = add_hwloc_core(topology, core, allowed);
    hwloc_topology_destroy(hw);
    return r;
}

static int compare_cores(const void *a, const void *b)
{
    const struct topology_core *x = a, *y = b;

    return x->node != y->node ? x->node - y->node : x->first_cpu - y->first_cpu;
}

int topology_read(const char *root, struct topology *ret)
{
    struct topology topology = {0};
    cpu_set_t allowed;
    uint64_t quota;
    int r;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
        return -errno;
    r = add_hwloc_cores(&topology, &allowed);
    if (r != -ENOMEM && topology.n_cores == 0)
        r = add_each_cpu(&topology, &allowed);
    if (r < 0) {
        topology_deinit(&topology);
        return r;
    }
    qsort(topology.cores, topology.n_cores, sizeof(*topology.cores), compare_cores);
    quota = cgroup_cpu_millis(root);
    topology.quota_cores = (uint32_t)((quota + 999) / 1000);
    *ret = topology;
    return 0;
}

void topology_deinit(struct topology *topology)
{
    free(topology->cores);
    *topology = (struct topology){0};
}

uint32_t topology_default_shards(const struct topology *topology, uint32_t max)
{
    uint32_t n = topology->n_cores;

    if (topology->quota_cores && topology->quota_cores < n)
        n = topology->quota_cores;
    if (n > max)
        n = max;
    return n ? n : 1;
}

const struct topology_core *topology_core_of(
    const struct topology *topology, uint32_t shard, uint32_t n_shards)
{
    return n_shards <= topology->n_cores ? &topology->cores[shard] : NULL;
}
