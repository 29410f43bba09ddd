/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/idset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/gateway/limits.h"

/* The first range that does not lie wholly below id. */
static uint32_t find(const struct idset *set, uint64_t id)
{
    uint32_t low = 0, high = set->n;

    /* The usual id is beyond all others. */
    if (set->n > 0 && set->ranges[set->n - 1].last < id)
        return set->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->ranges[middle].last < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool idset_has(const struct idset *set, uint64_t id)
{
    uint32_t at = find(set, id);

    return id <= set->floor || (at < set->n && set->ranges[at].first <= id);
}

static void take_out(struct idset *set, uint32_t at)
{
    set->n--;
    memmove(&set->ranges[at], &set->ranges[at + 1], (set->n - at) * sizeof(struct id_range));
}

static int grow(struct idset *set)
{
    uint32_t capacity = set->capacity ? set->capacity * 2 : 4;
    struct id_range *ranges = realloc(set->ranges, capacity * sizeof(struct id_range));

    if (!ranges)
        return -ENOMEM;
    set->ranges = ranges;
    set->capacity = capacity;
    return 0;
}

/* Puts a range before the one at *at, which follows when the lowest goes below the floor for it. */
static int put_in(struct idset *set, uint32_t at, struct id_range range)
{
    if (set->n == LIMIT_ID_RANGES) {
        if (set->ranges[0].last > set->floor)
            set->floor = set->ranges[0].last;
        take_out(set, 0);
        at -= at > 0;
    }
    if (set->n == set->capacity) {
        int r = grow(set);
        if (r < 0)
            return r;
    }
    memmove(&set->ranges[at + 1], &set->ranges[at], (set->n - at) * sizeof(struct id_range));
    set->ranges[at] = range;
    set->n++;
    return 0;
}

int idset_add(struct idset *set, uint64_t id)
{
    uint32_t at = find(set, id);
    struct id_range *below = at > 0 ? &set->ranges[at - 1] : NULL;
    struct id_range *above = at < set->n ? &set->ranges[at] : NULL;

    if (id <= set->floor || (above && above->first <= id))
        return 0;
    /* Neighbours exist only where id - 1 and id + 1 do. */
    bool joins_below = below && below->last == id - 1;
    bool joins_above = above && above->first == id + 1;
    if (joins_below && joins_above) {
        below->last = above->last;
        take_out(set, at);
    } else if (joins_below) {
        below->last = id;
    } else if (joins_above) {
        above->first = id;
    } else {
        int r = put_in(set, at, (struct id_range){id, id});
        if (r < 0)
            return r;
    }
    return 1;
}

void idset_raise(struct idset *set, uint64_t floor)
{
    if (floor > set->floor)
        set->floor = floor;
}

void idset_deinit(struct idset *set)
{
    free(set->ranges);
    *set = (struct idset){};
}
