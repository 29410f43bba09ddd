/* SPDX-License-Identifier: MIT */
/*
 * A bitmap of pages, first fit. Buffers are few and short-lived (a peer copies them out as soon as
 * it looks into its ring), so the search is short; what waits is served strictly in order, so that
 * a large piece is not starved by small ones.
 */
#include "shard/heap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "shard/segment.h"

#define WORD_BITS 64u

static bool page_used(const struct heap *heap, uint32_t page)
{
    return heap->used[page / WORD_BITS] >> (page % WORD_BITS) & 1;
}

static void set_pages(struct heap *heap, uint32_t first, uint32_t n, bool used)
{
    for (uint32_t page = first; page < first + n; page++) {
        uint64_t bit = UINT64_C(1) << (page % WORD_BITS);
        if (used)
            heap->used[page / WORD_BITS] |= bit;
        else
            heap->used[page / WORD_BITS] &= ~bit;
    }
    if (used)
        heap->n_used += n;
    else
        heap->n_used -= n;
    if (heap->n_used > heap->n_high)
        heap->n_high = heap->n_used;
}

static uint32_t pages_of(uint64_t len)
{
    return (uint32_t)((len + SEGMENT_PAGE - 1) / SEGMENT_PAGE);
}

/* The first of n free pages in a row; heap->n_pages where there are none. */
static uint32_t find_pages(const struct heap *heap, uint32_t n)
{
    uint32_t run = 0;

    if (heap->n_pages - heap->n_used < n)
        return heap->n_pages;
    for (uint32_t page = 0; page < heap->n_pages; page++) {
        run = page_used(heap, page) ? 0 : run + 1;
        if (run == n)
            return page + 1 - n;
    }
    return heap->n_pages;
}

static bool take(struct heap *heap, uint64_t len, uint64_t *ret_off)
{
    uint32_t n = pages_of(len);
    uint32_t first = find_pages(heap, n);

    if (first == heap->n_pages)
        return false;
    set_pages(heap, first, n, true);
    *ret_off = heap->off + (uint64_t)first * SEGMENT_PAGE;
    return true;
}

int heap_init(struct heap *heap, uint64_t off, uint64_t bytes)
{
    *heap = (struct heap){.off = off, .n_pages = (uint32_t)(bytes / SEGMENT_PAGE)};
    heap->last = &heap->first;
    heap->used = calloc((heap->n_pages + WORD_BITS - 1) / WORD_BITS, sizeof(heap->used[0]));
    return heap->used ? 0 : -ENOMEM;
}

void heap_deinit(struct heap *heap)
{
    free(heap->used);
    heap->used = NULL;
}

static void enqueue(struct heap *heap, struct heap_waiter *waiter)
{
    waiter->next = NULL;
    waiter->prev =
        heap->first
            ? (struct heap_waiter *)((char *)heap->last - offsetof(struct heap_waiter, next))
            : NULL;
    *heap->last = waiter;
    heap->last = &waiter->next;
    waiter->waits = true;
    heap->n_waits++;
}

static void dequeue(struct heap *heap, struct heap_waiter *waiter)
{
    if (waiter->prev)
        waiter->prev->next = waiter->next;
    else
        heap->first = waiter->next;
    if (waiter->next)
        waiter->next->prev = waiter->prev;
    else
        heap->last = waiter->prev ? &waiter->prev->next : &heap->first;
    waiter->waits = false;
}

/* A ready() may get and put again: the queue is looked at anew each time. */
static void serve(struct heap *heap)
{
    uint64_t off;

    while (heap->first && take(heap, heap->first->len, &off)) {
        struct heap_waiter *waiter = heap->first;
        dequeue(heap, waiter);
        waiter->ready(waiter, off);
    }
}

void heap_get(struct heap *heap, struct heap_waiter *waiter, uint64_t len, heap_ready_fn *ready)
{
    assert(
        len > 0 && pages_of(len) <= heap->n_pages); /* else it and all behind it waited for ever */
    waiter->len = len;
    waiter->ready = ready;
    enqueue(heap, waiter);
    if (heap->first != waiter)
        return;
    heap->n_waits--;
    serve(heap);
    heap->n_waits += waiter->waits;
}

void heap_cancel(struct heap *heap, struct heap_waiter *waiter)
{
    if (!waiter->waits)
        return;
    dequeue(heap, waiter);
    serve(heap);
}

void heap_put(struct heap *heap, uint64_t off, uint64_t len)
{
    set_pages(heap, (uint32_t)((off - heap->off) / SEGMENT_PAGE), pages_of(len), false);
    serve(heap);
}

void heap_trim(struct heap *heap, uint64_t off, uint64_t len, uint64_t keep)
{
    uint32_t first = (uint32_t)((off - heap->off) / SEGMENT_PAGE) + pages_of(keep);

    if (pages_of(keep) == pages_of(len))
        return;
    set_pages(heap, first, pages_of(len) - pages_of(keep), false);
    serve(heap);
}

bool heap_mark(struct heap *heap, uint64_t off, uint64_t len)
{
    uint64_t first;

    if (off < heap->off || len == 0 || (off - heap->off) % SEGMENT_PAGE != 0)
        return false;
    first = (off - heap->off) / SEGMENT_PAGE;
    if (first > heap->n_pages || len > (heap->n_pages - first) * (uint64_t)SEGMENT_PAGE)
        return false;
    for (uint32_t page = 0; page < pages_of(len); page++)
        if (page_used(heap, (uint32_t)first + page))
            return false;
    set_pages(heap, (uint32_t)first, pages_of(len), true);
    return true;
}
