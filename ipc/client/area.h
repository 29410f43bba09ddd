/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * area - an allocator of the data area
 *
 * Why:         arguments and answers of any length lie there for as long as a request takes, and
 *              buffers for as long as their user likes: neither the search nor the memory left may
 *              get worse with time.
 * Use:         area_init(); area_alloc(), area_free() in any order; area_deinit()
 * Concurrency: one thread
 * Lifetime:    the memory is the caller's, and nothing of the area's own stands in it: who else
 *              writes there harms no list.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AREA_PAGE   4096u
#define AREA_ALIGN  64u /* of what is 2,048 bytes or shorter; else a page */
#define AREA_ORDERS 32u
#define AREA_STEPS  8u /* lists an order: a run is at most an eighth longer than its list says */
#define AREA_SIZES  6u /* of slots: 64, 128 … 2,048 */

struct area_page {
    uint64_t free_slots; /* of a page of slots: a bit each */
    uint32_t n_pages;    /* of a run, at its first and its last page */
    uint32_t next, prev; /* in a list of free runs, or of pages with free slots */
    uint8_t kind;        /* enum area_kind */
    uint8_t size;        /* of a page of slots: which */
};

struct area {
    uint8_t *base;
    uint32_t n_pages;
    struct area_page *pages;
    uint32_t orders; /* bit: an order has free runs */
    uint8_t steps[AREA_ORDERS];
    uint32_t free_runs[AREA_ORDERS][AREA_STEPS];
    uint32_t with_slots[AREA_SIZES];
    size_t used; /* bytes, in whole pages */
};

/* base: aligned to a page; bytes: whole pages. 0 or -ENOMEM. */
int area_init(struct area *area, void *base, size_t bytes);
void area_deinit(struct area *area);

/* NULL: no piece of that length is free. */
void *area_alloc(struct area *area, size_t len);
void area_free(struct area *area, void *piece);

/* Of a piece, at least what was asked for. */
size_t area_length(const struct area *area, const void *piece);

/* What is in use, to the same places of other memory of that size. */
void area_copy(const struct area *area, void *to);

bool area_has(const struct area *area, const void *start, size_t len);
