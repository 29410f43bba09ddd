/* SPDX-License-Identifier: MIT */
#include "runtime/timer_heap.h"
/*
 * A four-ary heap with the keys in its array. A timer is looked at only where two keys are equal,
 * and written to (its place) where it moves. The array is aligned, and the root stands at 3: the
 * four children of p, at 4 * (p - 2) and after, share one cache line, so a way down of log4(n)
 * steps touches as many lines.
 *
 * Where the array can't grow, a timer goes to a sorted list instead, linked through itself: slow
 * with many, but right, and arming has no error. Those in the list do not go back to the array.
 */
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE     64
#define FIRST_CAPACITY 64
#define CHILDREN       4

static uint32_t parent_of(uint32_t place)
{
    return place / CHILDREN + 2;
}

static uint32_t first_child_of(uint32_t place)
{
    return CHILDREN * (place - 2);
}

static bool is_before(const struct timer_slot *a, const struct timer_slot *b)
{
    return a->latest_ns != b->latest_ns ? a->latest_ns < b->latest_ns
                                        : a->timer->order < b->timer->order;
}

/* ---- the array ---- */

static void set_slot(struct timer_heap *heap, uint32_t place, struct timer_slot slot)
{
    heap->slots[place] = slot;
    slot.timer->place = place;
}

/* Puts slot at place, which is free, or above. */
static void sift_up(struct timer_heap *heap, uint32_t place, struct timer_slot slot)
{
    while (place > TIMER_ROOT && is_before(&slot, &heap->slots[parent_of(place)])) {
        set_slot(heap, place, heap->slots[parent_of(place)]);
        place = parent_of(place);
    }
    set_slot(heap, place, slot);
}

/* The lesser of two places, without a jump that nobody can foretell. */
static uint32_t lesser(const struct timer_heap *heap, uint32_t a, uint32_t b)
{
    int64_t a_ns = heap->slots[a].latest_ns;
    int64_t b_ns = heap->slots[b].latest_ns;

    if (__builtin_expect(a_ns == b_ns, 0))
        return heap->slots[a].timer->order < heap->slots[b].timer->order ? a : b;
    return a_ns < b_ns ? a : b;
}

/* The least of place's children; 0 where it has none. */
static uint32_t least_child(const struct timer_heap *heap, uint32_t place)
{
    uint32_t child = first_child_of(place);
    uint32_t end = heap->end;

    if (child + CHILDREN <= end)
        return lesser(heap, lesser(heap, child, child + 1), lesser(heap, child + 2, child + 3));
    if (child >= end)
        return 0;
    uint32_t least = child;

    while (++child < end)
        least = lesser(heap, least, child);
    return least;
}

/* The way down is a chain of cache misses: ask for all that the next step may need. */
static void prefetch_grandchildren(const struct timer_heap *heap, uint32_t place)
{
    const struct timer_slot *line = &heap->slots[first_child_of(first_child_of(place))];

    for (int i = 0; i < CHILDREN; i++)
        __builtin_prefetch(line + i * CHILDREN);
}

/* Puts slot at place, which is free, or below. */
static void sift_down(struct timer_heap *heap, uint32_t place, struct timer_slot slot)
{
    for (uint32_t child; (child = least_child(heap, place)) != 0; place = child) {
        prefetch_grandchildren(heap, place);
        if (!is_before(&heap->slots[child], &slot))
            break;
        set_slot(heap, place, heap->slots[child]);
    }
    set_slot(heap, place, slot);
}

static void settle(struct timer_heap *heap, uint32_t place, struct timer_slot slot)
{
    if (place > TIMER_ROOT && is_before(&slot, &heap->slots[parent_of(place)]))
        sift_up(heap, place, slot);
    else
        sift_down(heap, place, slot);
}

/* Room for one more. */
static bool reserve(struct timer_heap *heap)
{
    if (heap->end < heap->capacity)
        return true;
    uint32_t capacity = heap->capacity ? 2 * heap->capacity : FIRST_CAPACITY;

    if (capacity < heap->capacity || (heap->max_capacity && capacity > heap->max_capacity))
        return false;
    struct timer_slot *slots = aligned_alloc(CACHE_LINE, capacity * sizeof(*slots));

    if (!slots)
        return false;
    if (heap->slots)
        memcpy(slots + TIMER_ROOT, heap->slots + TIMER_ROOT,
            (heap->end - TIMER_ROOT) * sizeof(*slots));
    else
        heap->end = TIMER_ROOT;
    free(heap->slots);
    heap->slots = slots;
    heap->capacity = capacity;
    return true;
}

/* ---- the list of those for whom there was no room ---- */

static bool is_timer_before(const AioTimer *a, const AioTimer *b)
{
    return a->latest_ns != b->latest_ns ? a->latest_ns < b->latest_ns : a->order < b->order;
}

static void spill(struct timer_heap *heap, AioTimer *timer)
{
    AioTimer **link = &heap->spilled;

    while (*link && is_timer_before(*link, timer))
        link = &(*link)->next;
    timer->place = TIMER_SPILLED;
    timer->next = *link;
    timer->link = link;
    if (timer->next)
        timer->next->link = &timer->next;
    *link = timer;
}

static void unspill(AioTimer *timer)
{
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
}

/* ---- both ---- */

void timer_heap_put(struct timer_heap *heap, AioTimer *timer)
{
    struct timer_slot slot = {.latest_ns = timer->latest_ns, .timer = timer};

    if (timer->place >= TIMER_ROOT) {
        settle(heap, timer->place, slot);
        return;
    }
    if (timer->place == TIMER_SPILLED)
        unspill(timer);
    if (reserve(heap))
        sift_up(heap, heap->end++, slot);
    else
        spill(heap, timer);
}

static void empty_slot(struct timer_heap *heap, uint32_t place)
{
    struct timer_slot last = heap->slots[--heap->end];

    if (place < heap->end)
        settle(heap, place, last);
}

void timer_heap_remove(struct timer_heap *heap, AioTimer *timer)
{
    if (timer->place == TIMER_SPILLED)
        unspill(timer);
    else
        empty_slot(heap, timer->place);
    timer->place = TIMER_IDLE;
}

static const struct timer_slot *root_of(const struct timer_heap *heap)
{
    return heap->end > TIMER_ROOT ? &heap->slots[TIMER_ROOT] : NULL;
}

AioTimer *timer_heap_first(const struct timer_heap *heap)
{
    const struct timer_slot *root = root_of(heap);

    if (!root || (heap->spilled && is_timer_before(heap->spilled, root->timer)))
        return heap->spilled;
    return root->timer;
}

int64_t timer_heap_first_ns(const struct timer_heap *heap)
{
    const struct timer_slot *root = root_of(heap);
    int64_t first_ns = root ? root->latest_ns : INT64_MAX;

    return heap->spilled && heap->spilled->latest_ns < first_ns ? heap->spilled->latest_ns
                                                                : first_ns;
}

/* Whether a timer with that key may fire: looks at it only where its slack decides. */
static bool may_fire(const AioTimer *timer, int64_t latest_ns, int64_t now_ns)
{
    bool never = latest_ns == INT64_MAX && timer->expire_ns == INT64_MAX;

    return !never && (latest_ns <= now_ns || timer->expire_ns <= now_ns);
}

AioTimer *timer_heap_pop_due(struct timer_heap *heap, int64_t now_ns)
{
    AioTimer *first = timer_heap_first(heap);

    if (!first || !may_fire(first, timer_heap_first_ns(heap), now_ns))
        return NULL;
    if (first == heap->spilled)
        unspill(first);
    else
        empty_slot(heap, TIMER_ROOT);
    first->place = TIMER_IDLE;
    return first;
}

void timer_heap_deinit(struct timer_heap *heap)
{
    free(heap->slots);
}
