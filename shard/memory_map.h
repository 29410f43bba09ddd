/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * memory_map - what an address of this process points into, from /proc/self/maps
 *
 * Why:         a pointer says nothing of whether another process has the same bytes there.
 * Use:         memory_map_read(&map); found = memory_map_find(&map, address);
 *              memory_map_deinit(&map)
 * Concurrency: owner
 * Lifetime:    a snapshot: what is mapped later is not in it
 */
#include <stdbool.h>
#include <stdint.h>

enum memory_kind {
    MEMORY_SAME,    /* the same in all processes of one image, or shared by them */
    MEMORY_CODE,    /* that, and code */
    MEMORY_PRIVATE, /* this process may write it, and no other sees that */
};

struct memory_range {
    uint64_t begin, end;
    enum memory_kind kind;
    char name[48]; /* the last of the path, or what the kernel calls it; "" where it has no name */
};

struct memory_map {
    struct memory_range *ranges; /* by address */
    uint32_t n;
};

/* Anew. 0 or -errno, with the map as it was. */
int memory_map_read(struct memory_map *map);
void memory_map_deinit(struct memory_map *map);

/* NULL: nothing was mapped there. */
const struct memory_range *memory_map_find(const struct memory_map *map, uint64_t address);
