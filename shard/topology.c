/* SPDX-License-Identifier: MIT */
/*
 * hwloc tells cores and NUMA nodes; the affinity mask, which hwloc leaves out, is taken from the
 * kernel. Of hwloc only what reads /sys is used: its plugins are not searched for (57 ms on a cold
 * machine), and its pci, gl, opencl, cuda… components, which load vendors' libraries that start
 * threads, are switched off; so is x86, which visits every CPU to ask it.
 *
 * A quota holds for a cgroup and all below it, so the tightest one on the way from ours up to the
 * root counts. Inside a container the path in /proc/self/cgroup may be the host's, which is not
 * mounted there: what is not found says nothing, and the mount's root is looked at in any case.
 */
#include "shard/topology.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_CPUS_MAX ((int)CPU_SETSIZE)

/* ---- CPU quota ---- */

/* The first line of dir/name below root, without its end; NULL: there is none. */
static char *read_line(const char *root, const char *dir, const char *name)
{
    char *path = NULL, *line = NULL;
    size_t size = 0;
    FILE *file;

    if (asprintf(&path, "%s%s/%s", root, dir, name) < 0)
        return NULL;
    file = fopen(path, "re");
    free(path);
    if (!file)
        return NULL;
    if (getline(&line, &size, file) < 0) {
        free(line);
        line = NULL;
    } else {
        line[strcspn(line, "\n")] = '\0';
    }
    fclose(file);
    return line;
}

static uint64_t millis(long long quota_us, long long period_us)
{
    if (quota_us <= 0 || period_us <= 0)
        return 0;
    /* At least one, for 0 means that there is no quota. */
    return quota_us * 1000 < period_us ? 1 : (uint64_t)(quota_us * 1000 / period_us);
}

/* v2: "max 100000" or "150000 100000" */
static uint64_t quota_v2(const char *root, const char *dir)
{
    char *line = read_line(root, dir, "cpu.max");
    long long quota_us, period_us;
    uint64_t quota = 0;

    if (line && sscanf(line, "%lld %lld", &quota_us, &period_us) == 2)
        quota = millis(quota_us, period_us);
    free(line);
    return quota;
}

/* v1: -1 or a number of us in one file, the period in another */
static uint64_t quota_v1(const char *root, const char *dir)
{
    char *quota = read_line(root, dir, "cpu.cfs_quota_us");
    char *period = read_line(root, dir, "cpu.cfs_period_us");
    uint64_t result = quota && period ? millis(atoll(quota), atoll(period)) : 0;

    free(quota);
    free(period);
    return result;
}

static uint64_t tighter(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The tightest quota of mount/path and the groups above it. */
static uint64_t quota_along(const char *root, const char *mount, const char *path,
    uint64_t (*quota_of)(const char *root, const char *dir))
{
    uint64_t quota = 0;
    char *dir = NULL;

    if (asprintf(&dir, "%s%s", mount, path) < 0)
        return 0;
    while (strlen(dir) >= strlen(mount)) {
        quota = tighter(quota, quota_of(root, dir));
        char *slash = strrchr(dir, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
    free(dir);
    return quota;
}

/* Whether the comma-separated list has the word. */
static bool list_has(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, word, len) == 0 && (p[len] == ',' || p[len] == '\0'))
            return true;
    }
    return false;
}

/* A line of /proc/self/cgroup: "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1). */
static uint64_t quota_of_line(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    char *mount = NULL;
    uint64_t quota;

    if (!path)
        return 0;
    *controllers++ = '\0';
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    if (controllers[0] == '\0')
        return tighter(quota_along(root, "/sys/fs/cgroup", path, quota_v2),
            quota_along(root, "/sys/fs/cgroup/unified", path, quota_v2));
    if (!list_has(controllers, "cpu") || asprintf(&mount, "/sys/fs/cgroup/%s", controllers) < 0)
        return 0;
    quota = tighter(quota_along(root, mount, path, quota_v1),
        quota_along(root, "/sys/fs/cgroup/cpu", path, quota_v1));
    free(mount);
    return quota;
}

uint64_t topology_quota_millis(const char *root)
{
    char *path = NULL, *line = NULL;
    size_t size = 0;
    uint64_t quota = 0;
    FILE *file;

    if (asprintf(&path, "%s/proc/self/cgroup", root) < 0)
        return 0;
    file = fopen(path, "re");
    free(path);
    if (!file)
        return 0;
    while (getline(&line, &size, file) >= 0)
        quota = tighter(quota, quota_of_line(root, line));
    free(line);
    fclose(file);
    return quota;
}

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
    quota = topology_quota_millis(root);
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
