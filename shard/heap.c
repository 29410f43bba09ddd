/* SPDX-License-Identifier: MIT */
/*
 * Each page says whose it is; first fit. Buffers are few and short-lived (a peer copies them out as
 * soon as it looks into its ring), so the search is short.
 *
 * The shares in which somebody waits form a queue of turns. What comes back is offered to the first
 * of each share, from the front; one that is served goes to the end. A share that is used up does
 * not count as waiting for room: nothing that others give back is for it.
 */
#include "shard/heap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "runtime/bug.h"
#include "shard/segment.h"

static uint32_t pages_of(uint64_t len)
{
    return (uint32_t)((len + SEGMENT_PAGE - 1) / SEGMENT_PAGE);
}

static uint32_t page_at(const struct heap *heap, uint64_t off)
{
    return (uint32_t)((off - heap->off) / SEGMENT_PAGE);
}

/* ---- pages ---- */

static void count_pages(struct heap *heap, uint16_t holder, uint32_t n, bool taken)
{
    uint32_t *of_share = holder <= heap->n_shares ? &heap->shares[holder - 1].n_used : NULL;

    if (taken)
        heap->n_used += n;
    else
        heap->n_used -= n;
    if (of_share)
        *of_share += taken ? n : -n;
    if (heap->n_used > heap->n_high)
        heap->n_high = heap->n_used;
}

static void take_pages(struct heap *heap, uint32_t first, uint32_t n, uint32_t holder)
{
    uint16_t mark = holder < heap->n_shares ? (uint16_t)(holder + 1) : UINT16_MAX;

    for (uint32_t page = first; page < first + n; page++)
        heap->holders[page] = mark;
    count_pages(heap, mark, n, true);
}

/* A page that is free already was given back twice: who got it meanwhile would be written over. */
static void free_pages(struct heap *heap, uint32_t first, uint32_t n)
{
    uint16_t mark = heap->holders[first];

    for (uint32_t page = first; page < first + n; page++) {
        if (!mark || heap->holders[page] != mark)
            bug("page %u of the heap is given back by who does not have it", page);
        heap->holders[page] = 0;
    }
    count_pages(heap, mark, n, false);
}

/* The first of n free pages in a row; heap->n_pages where there are none. */
static uint32_t find_pages(const struct heap *heap, uint32_t n)
{
    uint32_t run = 0;

    if (heap->n_pages - heap->n_used < n)
        return heap->n_pages;
    for (uint32_t page = 0; page < heap->n_pages; page++) {
        run = heap->holders[page] ? 0 : run + 1;
        if (run == n)
            return page + 1 - n;
    }
    return heap->n_pages;
}

/* Whether n more pages are within a holder's share: twice of what is free then, at most. */
static bool is_within_share(const struct heap *heap, uint32_t holder, uint32_t n)
{
    uint32_t has = heap->shares[holder].n_used, n_free = heap->n_pages - heap->n_used;

    return has == 0 || (n <= n_free && has + n <= 2 * (n_free - n));
}

/* ---- life ---- */

static void serve(struct heap *heap);

static void on_patience_over(void *opaque)
{
    serve(opaque);
}

int heap_init(struct heap *heap, AioContext *ctx, uint64_t off, uint64_t bytes, uint32_t n_peers)
{
    *heap =
        (struct heap){.off = off, .n_pages = (uint32_t)(bytes / SEGMENT_PAGE), .n_shares = n_peers};
    heap->holders = calloc(heap->n_pages, sizeof(heap->holders[0]));
    heap->shares = calloc(n_peers, sizeof(heap->shares[0]));
    aio_timer_init(ctx, &heap->patience, on_patience_over, heap);
    if (heap->holders && heap->shares)
        return 0;
    heap_deinit(heap);
    return -ENOMEM;
}

void heap_deinit(struct heap *heap)
{
    if (heap->shares)
        timer_del(&heap->patience);
    free(heap->holders);
    free(heap->shares);
    heap->holders = NULL;
    heap->shares = NULL;
}

/* ---- who waits ---- */

static void append_turn(struct heap *heap, uint32_t holder)
{
    if (heap->last_turn)
        heap->shares[heap->last_turn - 1].next_turn = holder + 1;
    else
        heap->first_turn = holder + 1;
    heap->last_turn = holder + 1;
    heap->shares[holder].next_turn = 0;
}

static void remove_turn(struct heap *heap, uint32_t holder)
{
    uint32_t *link = &heap->first_turn, before = 0;

    while (*link != holder + 1) {
        before = *link;
        link = &heap->shares[before - 1].next_turn;
    }
    *link = heap->shares[holder].next_turn;
    if (heap->last_turn == holder + 1)
        heap->last_turn = before;
}

static void enqueue(struct heap *heap, struct heap_waiter *waiter)
{
    struct heap_share *share = &heap->shares[waiter->holder];

    waiter->next = NULL;
    waiter->prev = share->last;
    if (share->last)
        share->last->next = waiter;
    else
        share->first = waiter;
    share->last = waiter;
    waiter->waits = true;
    waiter->since_ns = 0;
    if (share->first == waiter)
        append_turn(heap, waiter->holder);
}

static void dequeue(struct heap *heap, struct heap_waiter *waiter)
{
    struct heap_share *share = &heap->shares[waiter->holder];

    if (waiter->prev)
        waiter->prev->next = waiter->next;
    else
        share->first = waiter->next;
    if (waiter->next)
        waiter->next->prev = waiter->prev;
    else
        share->last = waiter->prev;
    waiter->waits = false;
    if (!share->first)
        remove_turn(heap, waiter->holder);
}

/* Begins to count the time of those who have not been looked at since they are first. */
static void begin_patience(struct heap *heap, uint32_t turn, int64_t now_ns)
{
    for (; turn; turn = heap->shares[turn - 1].next_turn)
        if (!heap->shares[turn - 1].first->since_ns)
            heap->shares[turn - 1].first->since_ns = now_ns;
}

/* Whether all whose turn comes later have to stand behind one that fits nowhere. */
static bool keeps_others_waiting(struct heap *heap, uint32_t turn)
{
    const struct heap_waiter *waiter = heap->shares[turn - 1].first;
    int64_t now_ns = aio_clock_ns();

    begin_patience(heap, turn, now_ns);
    if (now_ns - waiter->since_ns >= HEAP_PATIENCE_NS)
        return false;
    timer_mod_ns(&heap->patience, waiter->since_ns + HEAP_PATIENCE_NS);
    return true;
}

/* The first waiter whose turn it is and who has room; *ret_page is where. NULL: nobody. */
static struct heap_waiter *find_next(struct heap *heap, uint32_t *ret_page)
{
    for (uint32_t turn = heap->first_turn; turn; turn = heap->shares[turn - 1].next_turn) {
        struct heap_waiter *waiter = heap->shares[turn - 1].first;
        uint32_t n = pages_of(waiter->len);

        if (!is_within_share(heap, turn - 1, n))
            continue;
        *ret_page = find_pages(heap, n);
        if (*ret_page < heap->n_pages)
            return waiter;
        if (keeps_others_waiting(heap, turn))
            return NULL;
    }
    return NULL;
}

static void hand_out(struct heap *heap, struct heap_waiter *waiter, uint32_t page)
{
    uint32_t holder = waiter->holder;

    take_pages(heap, page, pages_of(waiter->len), holder);
    dequeue(heap, waiter);
    if (heap->shares[holder].first) {
        remove_turn(heap, holder);
        append_turn(heap, holder);
    }
    waiter->ready(waiter, heap->off + (uint64_t)page * SEGMENT_PAGE);
}

/* A ready() may get and put again: the queue is looked at anew each time. */
static void serve(struct heap *heap)
{
    struct heap_waiter *waiter;
    uint32_t page;

    while ((waiter = find_next(heap, &page)))
        hand_out(heap, waiter, page);
}

bool heap_has_room(const struct heap *heap, uint32_t holder, uint64_t len)
{
    return !heap->first_turn && is_within_share(heap, holder, pages_of(len)) &&
           find_pages(heap, pages_of(len)) < heap->n_pages;
}

void heap_get(struct heap *heap, struct heap_waiter *waiter, uint32_t holder, uint64_t len,
    heap_ready_fn *ready)
{
    assert(holder < heap->n_shares);
    assert(len > 0 && pages_of(len) <= heap->n_pages); /* else it waited for ever */
    waiter->len = len;
    waiter->holder = holder;
    waiter->ready = ready;
    enqueue(heap, waiter);
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

/* ---- giving back ---- */

void heap_put(struct heap *heap, uint64_t off, uint64_t len)
{
    free_pages(heap, page_at(heap, off), pages_of(len));
    serve(heap);
}

void heap_trim(struct heap *heap, uint64_t off, uint64_t len, uint64_t keep)
{
    if (pages_of(keep) == pages_of(len))
        return;
    free_pages(heap, page_at(heap, off) + pages_of(keep), pages_of(len) - pages_of(keep));
    serve(heap);
}

void heap_disown(struct heap *heap, uint64_t off, uint64_t len)
{
    uint32_t first = page_at(heap, off), n = pages_of(len);

    free_pages(heap, first, n);
    take_pages(heap, first, n, HEAP_NOBODY);
}

bool heap_mark(struct heap *heap, uint32_t holder, uint64_t off, uint64_t len)
{
    uint64_t first;

    if (off < heap->off || len == 0 || (off - heap->off) % SEGMENT_PAGE != 0)
        return false;
    first = (off - heap->off) / SEGMENT_PAGE;
    if (first > heap->n_pages || len > (heap->n_pages - first) * (uint64_t)SEGMENT_PAGE)
        return false;
    for (uint32_t page = 0; page < pages_of(len); page++)
        if (heap->holders[first + page])
            return false;
    take_pages(heap, (uint32_t)first, pages_of(len), holder);
    return true;
}
