/* SPDX-License-Identifier: MIT */
#include "shard/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rings of io_uring are mapped as shared, but no other process has them. */
static enum memory_kind kind_of(const char *rights, const char *path)
{
    if (rights[1] == 'w' && (rights[3] == 'p' || strstr(path, "[io_uring]")))
        return MEMORY_PRIVATE;
    return rights[2] == 'x' ? MEMORY_CODE : MEMORY_SAME;
}

/* A line is "begin-end rights offset device inode   path". */
static bool parse_line(const char *line, struct memory_range *ret)
{
    char rights[5];
    int path = 0;

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %*u %n", &ret->begin, &ret->end, rights,
            &path) != 3 ||
        strlen(rights) != 4 || !path)
        return false;
    const char *name = line + path, *slash = strrchr(name, '/');

    if (slash)
        name = slash + 1;
    size_t len = strcspn(name, "\n");

    snprintf(ret->name, sizeof(ret->name), "%.*s", (int)len, name);
    ret->kind = kind_of(rights, line + path);
    return true;
}

int memory_map_read(struct memory_map *map)
{
    struct memory_map new = {.n = 0};
    FILE *f = fopen("/proc/self/maps", "re");
    uint32_t room = 0;
    size_t size = 0;
    char *line = NULL;
    int r = f ? 0 : -errno;

    while (r == 0 && getline(&line, &size, f) >= 0) {
        if (new.n == room) {
            room = room ? 2 * room : 64;
            struct memory_range *more = reallocarray(new.ranges, room, sizeof(*more));
            if (!more) {
                r = -ENOMEM;
                break;
            }
            new.ranges = more;
        }
        new.n += parse_line(line, &new.ranges[new.n]);
    }
    free(line);
    if (f)
        fclose(f);
    if (r < 0) {
        memory_map_deinit(&new);
        return r;
    }
    memory_map_deinit(map);
    *map = new;
    return 0;
}

void memory_map_deinit(struct memory_map *map)
{
    free(map->ranges);
    *map = (struct memory_map){.n = 0};
}

const struct memory_range *memory_map_find(const struct memory_map *map, uint64_t address)
{
    uint32_t low = 0, high = map->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (map->ranges[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < map->n && map->ranges[low].begin <= address ? &map->ranges[low] : NULL;
}
