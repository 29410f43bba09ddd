/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * timer_heap - armed timers of one clock, the first to fire on top
 *
 * Why:         100,000 timers may be armed; each operation touches few cache lines and never fails.
 * Use:         timer_heap_put(&heap, timer); while (timer_heap_first(&heap)) …
 * Concurrency: the caller's lock
 * Lifetime:    zero bytes are an empty heap; deinit frees its array, not the timers.
 * Not here:    clocks, and who is called when (runtime/timer_list.h)
 *
 * Keys are (timer->latest_ns, timer->order). AioTimer.place tells where a timer stands: below
 * TIMER_ROOT in none, or in a list; from there on, in the heap's array.
 */
#include <stdint.h>

#include "runtime/timer.h"

enum timer_place {
    TIMER_IDLE,    /* not armed */
    TIMER_DUE,     /* taken out to be called; its list's (runtime/timer_list.h) */
    TIMER_SPILLED, /* armed, but there was no room in the array */
    TIMER_ROOT,    /* the first place in the array */
};

struct timer_slot {
    int64_t latest_ns;
    AioTimer *timer;
};

struct timer_heap {
    struct timer_slot *slots; /* from TIMER_ROOT to end */
    uint32_t end;             /* 0 or TIMER_ROOT: empty */
    uint32_t capacity;
    uint32_t max_capacity; /* 0: none but memory; a test sets it */
    AioTimer *spilled;     /* by key */
};

/* Puts timer in by its key, or where it is in already, moves it to where its new key belongs. */
void timer_heap_put(struct timer_heap *heap, AioTimer *timer);

/* Takes out timer, which is in. Its place is TIMER_IDLE then. */
void timer_heap_remove(struct timer_heap *heap, AioTimer *timer);

/* The one with the least key, or NULL; its latest_ns, or INT64_MAX. */
AioTimer *timer_heap_first(const struct timer_heap *heap);
int64_t timer_heap_first_ns(const struct timer_heap *heap);

/* Takes out the one with the least key where it may fire by now_ns, or returns NULL. */
AioTimer *timer_heap_pop_due(struct timer_heap *heap, int64_t now_ns);

void timer_heap_deinit(struct timer_heap *heap);
