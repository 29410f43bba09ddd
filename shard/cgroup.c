/* SPDX-License-Identifier: MIT */
/*
 * /proc/self/cgroup names the group of each hierarchy. Inside a container that path may be the
 * host's, which is not mounted there: what is not found says nothing, and the mount's root is
 * looked at in any case.
 *
 * How a figure of one group is read, and how those of groups above are joined to it, is a struct
 * figure; the walk is the same for all.
 */
#include "shard/cgroup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One thing to know: of one group, from its folder. */
typedef uint64_t figure_fn(const char *root, const char *dir);

struct figure {
    const char *controller; /* of version 1 */
    figure_fn *read_v2, *read_v1;
    uint64_t (*join)(uint64_t a, uint64_t b);
    uint64_t none;
};

/* ---- files ---- */

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

/* ---- the walk ---- */

/* The figure of mount/path and of the groups above it. */
static uint64_t figure_along(const struct figure *figure, figure_fn *read, const char *root,
    const char *mount, const char *path)
{
    uint64_t value = figure->none;
    char *dir = NULL;

    if (asprintf(&dir, "%s%s", mount, path) < 0)
        return value;
    while (strlen(dir) >= strlen(mount)) {
        value = figure->join(value, read(root, dir));
        char *slash = strrchr(dir, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
    free(dir);
    return value;
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
static uint64_t figure_of_line(const struct figure *figure, const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    char *mount = NULL, *alone = NULL;
    uint64_t value = figure->none;

    if (!path)
        return value;
    *controllers++ = 0;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    if (controllers[0] == 0)
        return figure->join(figure_along(figure, figure->read_v2, root, "/sys/fs/cgroup", path),
            figure_along(figure, figure->read_v2, root, "/sys/fs/cgroup/unified", path));
    if (list_has(controllers, figure->controller) &&
        asprintf(&mount, "/sys/fs/cgroup/%s", controllers) >= 0) {
        value = figure_along(figure, figure->read_v1, root, mount, path);
        if (strcmp(controllers, figure->controller) != 0 &&
            asprintf(&alone, "/sys/fs/cgroup/%s", figure->controller) >= 0)
            value = figure->join(value, figure_along(figure, figure->read_v1, root, alone, path));
    }
    free(mount);
    free(alone);
    return value;
}

static uint64_t read_figure(const struct figure *figure, const char *root)
{
    char *path = NULL, *line = NULL;
    size_t size = 0;
    uint64_t value = figure->none;
    FILE *file;

    if (asprintf(&path, "%s/proc/self/cgroup", root) < 0)
        return value;
    file = fopen(path, "re");
    free(path);
    if (!file)
        return value;
    while (getline(&line, &size, file) >= 0)
        value = figure->join(value, figure_of_line(figure, root, line));
    free(line);
    fclose(file);
    return value;
}

/* ---- CPU ---- */

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

static uint64_t tighter_quota(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

uint64_t cgroup_cpu_millis(const char *root)
{
    static const struct figure quota = {
        .controller = "cpu", .read_v2 = quota_v2, .read_v1 = quota_v1, .join = tighter_quota};

    return read_figure(&quota, root);
}

/* ---- memory ---- */

/* A number of bytes; "max" is none. Version 1 says a number near INT64_MAX for it. */
static uint64_t read_limit(const char *root, const char *dir, const char *name)
{
    char *line = read_line(root, dir, name);
    uint64_t limit;
    bool is_number = line && sscanf(line, "%" SCNu64, &limit) == 1;

    free(line);
    return is_number && limit < (uint64_t)INT64_MAX / 2 ? limit : UINT64_MAX;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t memory_v2(const char *root, const char *dir)
{
    return smaller(read_limit(root, dir, "memory.max"), read_limit(root, dir, "memory.high"));
}

static uint64_t memory_v1(const char *root, const char *dir)
{
    return read_limit(root, dir, "memory.limit_in_bytes");
}

uint64_t cgroup_memory_bytes(const char *root)
{
    static const struct figure limit = {.controller = "memory",
        .read_v2 = memory_v2,
        .read_v1 = memory_v1,
        .join = smaller,
        .none = UINT64_MAX};

    return read_figure(&limit, root);
}

/* The number behind "oom_kill " in a file of one key a line. */
static uint64_t read_oom_kills(const char *root, const char *dir, const char *name)
{
    char *path = NULL, *line = NULL;
    size_t size = 0;
    uint64_t n = UINT64_MAX;
    FILE *file;

    if (asprintf(&path, "%s%s/%s", root, dir, name) < 0)
        return n;
    file = fopen(path, "re");
    free(path);
    if (!file)
        return n;
    while (getline(&line, &size, file) >= 0)
        if (sscanf(line, "oom_kill %" SCNu64, &n) == 1)
            break;
    free(line);
    fclose(file);
    return n;
}

static uint64_t oom_v2(const char *root, const char *dir)
{
    return read_oom_kills(root, dir, "memory.events");
}

static uint64_t oom_v1(const char *root, const char *dir)
{
    return read_oom_kills(root, dir, "memory.oom_control");
}

/* The count of the group itself, or of the nearest above it that is mounted here: it has processes
 * of that group that were killed for whatever limit. */
static uint64_t nearest(uint64_t a, uint64_t b)
{
    return a == UINT64_MAX ? b : a;
}

uint64_t cgroup_oom_kills(const char *root)
{
    static const struct figure kills = {.controller = "memory",
        .read_v2 = oom_v2,
        .read_v1 = oom_v1,
        .join = nearest,
        .none = UINT64_MAX};
    uint64_t n = read_figure(&kills, root);

    return n == UINT64_MAX ? 0 : n;
}
