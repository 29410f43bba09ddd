/* SPDX-License-Identifier: MIT */
/*
 * A word for each page of the heap, so that a buffer needs no search, no allocation and one store
 * to be entered, and a table can't be full. A process that dies leaves its words; each stays, with
 * the incarnation that it names, over any number of replacements, until that one is quiet. A word
 * may name another peer: one that died while it wrote to a disk from arguments in this heap.
 *
 * Orderings    first                  then               ordered by                 if broken
 *   FLIGHT   word stored            I/O submitted      release store, the call    a buffer in flight that
 *                                                      into the kernel            the table does not name
 *   QUIET    kernel's last write    buffer used again  supervisor's release once  a reused buffer is
 *                                                      it has the proof, our      written over by the
 *                                                      acquire (quiet.c)          kernel
 */
#include "shard/flight.h"

#include "runtime/atomic.h"

static uint64_t *word_of(const struct flights *flights, uint64_t off)
{
    return &flights->words[(off - flights->heap->off) / SEGMENT_PAGE];
}

void flight_begin(struct flights *flights, uint64_t off, uint64_t len)
{
    uint32_t n_pages = (uint32_t)((len + SEGMENT_PAGE - 1) / SEGMENT_PAGE);

    atomic_store_release(word_of(flights, off), /* FLIGHT */
        flight_word(flights->incarnation, flights->self, n_pages));
}

void flight_end(struct flights *flights, uint64_t off)
{
    atomic_store_release(word_of(flights, off), 0); /* FLIGHT */
}

/* Incarnations wrap. A peer that is none was never written by us, so nothing is known of it. */
static bool is_quiet(const struct flights *flights, uint64_t word)
{
    if (flight_peer(word) >= flights->seg->n_peers)
        return true;
    const struct peer_control *control = segment_control(flights->seg, flight_peer(word));
    uint32_t quiet = atomic_load_acquire(&control->quiet_incarnation); /* QUIET */

    return (int32_t)(quiet - flight_incarnation(word)) >= 0;
}

void flight_leave(
    struct flights *flights, uint64_t off, uint64_t len, uint32_t peer, uint32_t incarnation)
{
    uint32_t n_pages = (uint32_t)((len + SEGMENT_PAGE - 1) / SEGMENT_PAGE);
    uint64_t word = flight_word(incarnation, peer, n_pages);

    if (is_quiet(flights, word)) {
        heap_put(flights->heap, off, len);
        return;
    }
    heap_disown(flights->heap, off, len);
    atomic_store_release(word_of(flights, off), word); /* FLIGHT */
    flights->n_quarantined += n_pages;
}

static bool is_own(const struct flights *flights, uint64_t word)
{
    return flight_peer(word) == flights->self && flight_incarnation(word) == flights->incarnation;
}

static uint64_t off_of_page(const struct flights *flights, uint32_t page)
{
    return flights->heap->off + (uint64_t)page * SEGMENT_PAGE;
}

void flights_init(struct flights *flights, const struct segment *seg, struct heap *heap,
    uint32_t self, uint32_t incarnation)
{
    *flights = (struct flights){.seg = seg,
        .heap = heap,
        .words = segment_flights(seg, self),
        .self = self,
        .incarnation = incarnation};
    for (uint32_t page = 0; page < heap->n_pages; page++) {
        uint64_t word = flights->words[page];
        uint64_t len = (uint64_t)flight_pages(word) * SEGMENT_PAGE;

        if (!word)
            continue;
        if (!is_quiet(flights, word) &&
            heap_mark(heap, HEAP_NOBODY, off_of_page(flights, page), len))
            flights->n_quarantined += flight_pages(word);
        else
            atomic_store_release(&flights->words[page], 0); /* FLIGHT */
    }
}

/* What heap_put() serves may begin flights of its own, on pages that come later. */
bool flights_look(struct flights *flights)
{
    uint32_t before = flights->n_quarantined;

    for (uint32_t page = 0; page < flights->heap->n_pages && flights->n_quarantined; page++) {
        uint64_t word = flights->words[page];

        if (!word || is_own(flights, word) || !is_quiet(flights, word))
            continue;
        atomic_store_release(&flights->words[page], 0); /* FLIGHT */
        flights->n_quarantined -= flight_pages(word);
        heap_put(
            flights->heap, off_of_page(flights, page), (uint64_t)flight_pages(word) * SEGMENT_PAGE);
    }
    return flights->n_quarantined != before;
}
