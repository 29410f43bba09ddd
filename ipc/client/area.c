/* SPDX-License-Identifier: MIT */
/*
 * Pages are handed out in runs, by two-level segregated fit: free runs stand in lists by length, an
 * order (a power of two) in eight steps; bitmaps find the first list whose runs are all long
 * enough, and what is left over goes back. A run that is freed joins its free neighbours at once.
 * What is longer than 64 KiB is cut from the end of a run, what is shorter from its start: so
 * short-lived small pieces and long buffers keep apart.
 *
 * What is 2,048 bytes or shorter is a slot of a page of such, at most 64 of them, with a bit each;
 * an empty page goes back. So small pieces cost no page each, and never stand between runs but in
 * pages of their own.
 */
#include "ipc/client/area.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE      UINT32_MAX
#define SLOT_MAX  2048u
#define LONG_RUN  16u /* pages */
#define LOOKS_MAX 16u /* at runs that may be too short */

enum area_kind {
    AREA_INSIDE, /* neither first nor last of a run */
    AREA_FREE,
    AREA_USED,
    AREA_SLOTS,
};

/* ---- lists ---- */

static void list_add(struct area *area, uint32_t *list, uint32_t page)
{
    area->pages[page].next = *list;
    area->pages[page].prev = NONE;
    if (*list != NONE)
        area->pages[*list].prev = page;
    *list = page;
}

static void list_remove(struct area *area, uint32_t *list, uint32_t page)
{
    struct area_page *entry = &area->pages[page];

    if (entry->prev != NONE)
        area->pages[entry->prev].next = entry->next;
    else
        *list = entry->next;
    if (entry->next != NONE)
        area->pages[entry->next].prev = entry->prev;
}

/* ---- runs ---- */

static uint32_t order_of(uint32_t n)
{
    return 31u - (uint32_t)__builtin_clz(n);
}

/* The list in which a run of n pages stands. */
static void place_of(uint32_t n, uint32_t *ret_order, uint32_t *ret_step)
{
    uint32_t order = order_of(n);

    *ret_order = order;
    *ret_step = order >= 3 ? (n >> (order - 3)) & 7 : (n << (3 - order)) & 7;
}

static void set_run(struct area *area, uint32_t first, uint32_t n, enum area_kind kind)
{
    struct area_page *last = &area->pages[first + n - 1];

    last->n_pages = area->pages[first].n_pages = n;
    last->kind = area->pages[first].kind = (uint8_t)kind;
}

static void put_run(struct area *area, uint32_t first, uint32_t n)
{
    uint32_t order, step;

    place_of(n, &order, &step);
    set_run(area, first, n, AREA_FREE);
    list_add(area, &area->free_runs[order][step], first);
    area->orders |= 1u << order;
    area->steps[order] |= (uint8_t)(1u << step);
}

static void take_run(struct area *area, uint32_t first)
{
    uint32_t order, step;

    place_of(area->pages[first].n_pages, &order, &step);
    list_remove(area, &area->free_runs[order][step], first);
    if (area->free_runs[order][step] != NONE)
        return;
    area->steps[order] &= (uint8_t) ~(1u << step);
    if (area->steps[order] == 0)
        area->orders &= ~(1u << order);
}

/* A run of a list whose runs are all long enough. */
static uint32_t find_sure(const struct area *area, uint32_t n)
{
    uint32_t order, step;
    uint32_t round = order_of(n) >= 3 ? (1u << (order_of(n) - 3)) - 1 : 0;

    place_of(n + round, &order, &step);
    uint32_t steps = area->steps[order] & (0xffu << step);
    if (steps == 0) {
        uint32_t orders = order + 1 < AREA_ORDERS ? area->orders & (~0u << (order + 1)) : 0;
        if (orders == 0)
            return NONE;
        order = (uint32_t)__builtin_ctz(orders);
        steps = area->steps[order];
    }
    return area->free_runs[order][__builtin_ctz(steps)];
}

/* Else one of those as long as this, some of which may be too short. */
static uint32_t find_exact(const struct area *area, uint32_t n)
{
    uint32_t order, step;

    place_of(n, &order, &step);
    uint32_t run = area->free_runs[order][step];
    for (uint32_t i = 0; i < LOOKS_MAX && run != NONE; i++) {
        if (area->pages[run].n_pages >= n)
            return run;
        run = area->pages[run].next;
    }
    return NONE;
}

static uint32_t alloc_run(struct area *area, uint32_t n, enum area_kind kind)
{
    uint32_t run = find_sure(area, n);

    if (run == NONE)
        run = find_exact(area, n);
    if (run == NONE)
        return NONE;
    uint32_t rest = area->pages[run].n_pages - n;
    take_run(area, run);
    if (rest > 0 && n >= LONG_RUN) {
        put_run(area, run, rest);
        run += rest;
    } else if (rest > 0) {
        put_run(area, run + n, rest);
    }
    set_run(area, run, n, kind);
    area->used += (size_t)n * AREA_PAGE;
    return run;
}

static void free_run(struct area *area, uint32_t run)
{
    uint32_t n = area->pages[run].n_pages;

    area->used -= (size_t)n * AREA_PAGE;
    set_run(area, run, n, AREA_INSIDE);
    if (run + n < area->n_pages && area->pages[run + n].kind == AREA_FREE) {
        uint32_t behind = area->pages[run + n].n_pages;
        take_run(area, run + n);
        set_run(area, run + n, behind, AREA_INSIDE);
        n += behind;
    }
    if (run > 0 && area->pages[run - 1].kind == AREA_FREE) {
        uint32_t before = area->pages[run - 1].n_pages;
        take_run(area, run - before);
        set_run(area, run - before, before, AREA_INSIDE);
        run -= before;
        n += before;
    }
    put_run(area, run, n);
}

/* ---- slots ---- */

static uint32_t size_of(size_t len)
{
    return len <= AREA_ALIGN ? 0 : order_of((uint32_t)len - 1) - 5;
}

static size_t slot_bytes(uint32_t size)
{
    return (size_t)AREA_ALIGN << size;
}

static uint64_t all_slots(uint32_t size)
{
    uint32_t n = (uint32_t)(AREA_PAGE / slot_bytes(size));

    return n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

static void *alloc_slot(struct area *area, uint32_t size)
{
    uint32_t page = area->with_slots[size];

    if (page == NONE) {
        page = alloc_run(area, 1, AREA_SLOTS);
        if (page == NONE)
            return NULL;
        area->pages[page].size = (uint8_t)size;
        area->pages[page].free_slots = all_slots(size);
        list_add(area, &area->with_slots[size], page);
    }
    struct area_page *entry = &area->pages[page];
    uint32_t slot = (uint32_t)__builtin_ctzll(entry->free_slots);
    entry->free_slots &= entry->free_slots - 1;
    if (entry->free_slots == 0)
        list_remove(area, &area->with_slots[size], page);
    return area->base + (size_t)page * AREA_PAGE + slot * slot_bytes(size);
}

/* The last page of a size is kept: a lone piece that comes and goes costs no run each time. */
static void free_slot(struct area *area, uint32_t page, size_t off)
{
    struct area_page *entry = &area->pages[page];
    uint32_t size = entry->size;

    if (entry->free_slots == 0)
        list_add(area, &area->with_slots[size], page);
    entry->free_slots |= UINT64_C(1) << off / slot_bytes(size);
    if (entry->free_slots == all_slots(size) && (entry->next != NONE || entry->prev != NONE)) {
        list_remove(area, &area->with_slots[size], page);
        free_run(area, page);
    }
}

/* Pages kept for slots that nobody has. */
static bool give_slots_back(struct area *area)
{
    bool any = false;

    for (uint32_t size = 0; size < AREA_SIZES; size++) {
        uint32_t page = area->with_slots[size];
        if (page == NONE || area->pages[page].free_slots != all_slots(size))
            continue;
        list_remove(area, &area->with_slots[size], page);
        free_run(area, page);
        any = true;
    }
    return any;
}

/* ---- all ---- */

int area_init(struct area *area, void *base, size_t bytes)
{
    *area = (struct area){.base = base, .n_pages = (uint32_t)(bytes / AREA_PAGE)};
    memset(area->free_runs, 0xff, sizeof(area->free_runs));
    memset(area->with_slots, 0xff, sizeof(area->with_slots));
    area->pages = calloc((size_t)area->n_pages + 1, sizeof(*area->pages));
    if (!area->pages)
        return -ENOMEM;
    if (area->n_pages > 0)
        put_run(area, 0, area->n_pages);
    return 0;
}

void area_deinit(struct area *area)
{
    free(area->pages);
    *area = (struct area){};
}

void *area_alloc(struct area *area, size_t len)
{
    if (len <= SLOT_MAX)
        return alloc_slot(area, size_of(len));
    if (len > (size_t)area->n_pages * AREA_PAGE)
        return NULL;
    uint32_t n = (uint32_t)((len + AREA_PAGE - 1) / AREA_PAGE);
    uint32_t run = alloc_run(area, n, AREA_USED);
    if (run == NONE && give_slots_back(area))
        run = alloc_run(area, n, AREA_USED);
    return run == NONE ? NULL : area->base + (size_t)run * AREA_PAGE;
}

void area_free(struct area *area, void *piece)
{
    size_t off = (size_t)((uint8_t *)piece - area->base);
    uint32_t page = (uint32_t)(off / AREA_PAGE);

    if (area->pages[page].kind == AREA_SLOTS)
        free_slot(area, page, off % AREA_PAGE);
    else
        free_run(area, page);
}

size_t area_length(const struct area *area, const void *piece)
{
    size_t page = (size_t)((const uint8_t *)piece - area->base) / AREA_PAGE;
    const struct area_page *entry = &area->pages[page];

    return entry->kind == AREA_SLOTS ? slot_bytes(entry->size) : (size_t)entry->n_pages * AREA_PAGE;
}

bool area_has(const struct area *area, const void *start, size_t len)
{
    uintptr_t from = (uintptr_t)start - (uintptr_t)area->base;
    size_t bytes = (size_t)area->n_pages * AREA_PAGE;

    return from < bytes && len <= bytes - from;
}

void area_copy(const struct area *area, void *to)
{
    for (uint32_t run = 0; run < area->n_pages; run += area->pages[run].n_pages)
        if (area->pages[run].kind != AREA_FREE)
            memcpy((uint8_t *)to + (size_t)run * AREA_PAGE, area->base + (size_t)run * AREA_PAGE,
                (size_t)area->pages[run].n_pages * AREA_PAGE);
}
