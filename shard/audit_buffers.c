/* SPDX-License-Identifier: MIT */
/*
 * Shared buffers of one peer's heap: those that its slots name, those that I/O may touch, and how
 * many pages its heap has in use. Which pages those are stands in private memory; here they are
 * counted again from the slots.
 *
 * A peer shows how much of its heap is in use once a turn, and between two turns holds no buffer
 * that no slot names but for who waits with one: then somebody's call is under way, or a coroutine
 * is alive.
 */
#include <stdlib.h>
#include <string.h>

#include "shard/audit_inside.h"

/* ---- which there are ---- */

static void add_buffer(struct audit *a, const struct audit_buffer *buffer)
{
    if (buffer->off && a->n_buffers < a->max_buffers)
        a->buffers[a->n_buffers++] = *buffer;
}

/* A call's arguments are its caller's until the callee has told that it has copied them. */
static void add_arguments(struct audit *a, uint32_t peer, uint32_t to, uint32_t slot)
{
    uint64_t off = AUDIT_LOAD(a, args_off, peer, to, slot, 0);

    if ((AUDIT_LOAD(a, call, peer, to, slot, 0) & 0xff) != CALL_FREE)
        add_buffer(a, &(struct audit_buffer){.off = off,
                          .len = AUDIT_LOAD(a, args_len, peer, to, slot, 0),
                          .to = to,
                          .column = &a->args_off,
                          .peer = peer,
                          .other = to,
                          .slot = slot,
                          .was = off});
}

static void add_answer(struct audit *a, uint32_t peer, uint32_t to, uint32_t slot)
{
    bool by_gateway = to == a->gateway;
    const struct view_column *answered = by_gateway ? &a->gateway_answered : &a->answered;
    const struct view_column *off = by_gateway ? &a->gateway_answer_off : &a->answer_off;
    const struct view_column *len = by_gateway ? &a->gateway_answer_len : &a->answer_len;
    uint32_t row = by_gateway ? 0 : to;
    uint64_t generation = view_column_load(answered, peer, row, slot, 0);

    if (generation)
        add_buffer(a, &(struct audit_buffer){.off = view_column_load(off, peer, row, slot, 0),
                          .len = view_column_load(len, peer, row, slot, 0),
                          .to = to,
                          .column = answered,
                          .peer = peer,
                          .other = row,
                          .slot = slot,
                          .was = generation});
}

static void collect_buffers(struct audit *a, uint32_t peer)
{
    a->n_buffers = 0;
    for (uint32_t to = 0; to < a->n_peers; to++) {
        if (to == peer)
            continue;
        for (uint32_t slot = 0; slot < audit_call_slots(a, peer, to); slot++)
            add_arguments(a, peer, to, slot);
        for (uint32_t slot = 0; slot < audit_call_slots(a, to, peer); slot++)
            add_answer(a, peer, to, slot);
    }
}

static int by_offset(const void *one, const void *other)
{
    const struct audit_buffer *x = one, *y = other;

    return (x->off > y->off) - (x->off < y->off);
}

static bool is_unchanged(const struct audit_buffer *b)
{
    return view_column_load(b->column, b->peer, b->other, b->slot, 0) == b->was;
}

/* ---- where they lie ---- */

static bool lies_in(const struct audit_buffer *b, const struct audit_heap *heap)
{
    return b->off >= heap->off && b->off - heap->off <= heap->bytes &&
           b->len <= heap->bytes - (b->off - heap->off);
}

/* Looks once at all of peer's buffers, sorted. */
static bool buffers_are_right(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    struct audit_heap heap = audit_heap_of(a, of.peer);

    collect_buffers(a, of.peer);
    qsort(a->buffers, a->n_buffers, sizeof(a->buffers[0]), by_offset);
    for (size_t i = 0; i < a->n_buffers; i++) {
        const struct audit_buffer *b = &a->buffers[i], *next = b + 1;

        *ret = (struct audit_finding){.from = of.peer, .to = b->to};
        if (!lies_in(b, &heap) && is_unchanged(b)) {
            ret->account = AUDIT_BUFFER;
            ret->expected = heap.bytes;
            ret->found = b->off - heap.off + b->len;
            return false;
        }
        if (i + 1 < a->n_buffers && b->off + b->len > next->off && is_unchanged(b) &&
            is_unchanged(next)) {
            ret->account = AUDIT_SHARED_BUFFER;
            ret->expected = 1;
            ret->found = 2;
            return false;
        }
    }
    return true;
}

/* ---- how many pages are in use ---- */

static void mark_pages(struct audit *a, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n && page < a->max_pages; page++)
        a->pages[page / 64] |= UINT64_C(1) << page % 64;
}

static uint64_t count_pages(const struct audit *a)
{
    uint64_t n = 0;

    for (uint32_t word = 0; word <= a->max_pages / 64; word++)
        n += (uint64_t)__builtin_popcountll(a->pages[word]);
    return n;
}

/* Of the buffers that were collected, and of the in-flight table. */
static uint64_t count_used_pages(struct audit *a, uint32_t peer)
{
    struct audit_heap heap = audit_heap_of(a, peer);
    uint32_t n_pages = view_column_n_inner(&a->flight, peer);

    memset(a->pages, 0, ((size_t)a->max_pages / 64 + 1) * sizeof(a->pages[0]));
    for (size_t i = 0; i < a->n_buffers; i++) {
        const struct audit_buffer *b = &a->buffers[i];
        if (lies_in(b, &heap))
            mark_pages(a, (b->off - heap.off) / SEGMENT_PAGE,
                ((b->off - heap.off) % SEGMENT_PAGE + b->len + SEGMENT_PAGE - 1) / SEGMENT_PAGE);
    }
    for (uint32_t page = 0; page < n_pages; page++)
        mark_pages(a, page, flight_pages(AUDIT_LOAD(a, flight, peer, 0, page, 0)));
    return count_pages(a);
}

/* Whether somebody may hold a buffer that no slot names: it has a call to make, or serves one. */
static bool has_work(const struct audit *a, uint32_t peer)
{
    if (AUDIT_OF(a, co_alive, peer) || AUDIT_OF(a, requests_in_flight, peer))
        return true;
    for (uint32_t other = 0; other < a->n_peers; other++) {
        for (uint32_t slot = 0; slot < audit_call_slots(a, peer, other); slot++)
            if ((AUDIT_LOAD(a, call, peer, other, slot, 0) & 0xff) != CALL_FREE)
                return true;
        for (uint32_t slot = 0; slot < audit_call_slots(a, other, peer); slot++)
            if ((AUDIT_LOAD(a, call, other, peer, slot, 0) & 0xff) != CALL_FREE)
                return true;
    }
    return false;
}

/* Exact where the peer sleeps with nothing to do, and has not been woken since. */
static bool heap_is_right(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    struct audit_rest rest = audit_rest_begin(a, of.peer);
    bool has_nothing_to_do = !has_work(a, of.peer);
    uint64_t used = AUDIT_OF(a, heap_used_bytes, of.peer) / SEGMENT_PAGE;

    collect_buffers(a, of.peer);
    *ret = (struct audit_finding){.account = AUDIT_HEAP,
        .from = of.peer,
        .to = of.peer,
        .expected = count_used_pages(a, of.peer),
        .found = used};
    return !has_nothing_to_do || used == ret->expected || has_work(a, of.peer) ||
           !audit_rest_lasted(a, of.peer, &rest);
}

void audit_buffers(struct audit *a, uint32_t peer)
{
    audit_look(a, (struct audit_subject){peer, peer}, buffers_are_right);
    audit_look(a, (struct audit_subject){peer, peer}, heap_is_right);
    a->result->heap_pages += count_used_pages(a, peer);
}

/* ---- what I/O may touch ---- */

static bool flight_is_unchanged(const struct audit *a, uint32_t peer, uint32_t page, uint64_t word)
{
    return AUDIT_LOAD(a, flight, peer, 0, page, 0) == word;
}

/* A buffer begins where its word stands, and ends before the next one's. */
static bool flights_fit(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    uint32_t n_pages = view_column_n_inner(&a->flight, of.peer), last = 0;
    uint64_t ends = 0, last_word = 0;

    *ret = (struct audit_finding){.account = AUDIT_FLIGHT, .from = of.peer, .to = of.peer};
    for (uint32_t page = 0; page < n_pages; page++) {
        uint64_t word = AUDIT_LOAD(a, flight, of.peer, 0, page, 0);
        if (!word)
            continue;
        if ((page < ends && flight_is_unchanged(a, of.peer, last, last_word)) ||
            page + flight_pages(word) > n_pages) {
            ret->expected = page < ends ? page : n_pages;
            ret->found = page < ends ? ends : page + (uint64_t)flight_pages(word);
            if (flight_is_unchanged(a, of.peer, page, word))
                return false;
        }
        last = page;
        last_word = word;
        ends = page + (uint64_t)flight_pages(word);
    }
    return true;
}

/* Each names a process that there was. */
static bool flights_have_owners(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    *ret = (struct audit_finding){.account = AUDIT_FLIGHT_OWNER, .from = of.peer};
    for (uint32_t page = 0; page < view_column_n_inner(&a->flight, of.peer); page++) {
        uint64_t word = AUDIT_LOAD(a, flight, of.peer, 0, page, 0);
        uint32_t owner = flight_peer(word);
        uint64_t newest = owner < a->n_peers ? AUDIT_CONTROL(a, incarnation, owner) : 0;

        if (!word || (owner < a->n_peers && flight_incarnation(word) <= newest) ||
            !flight_is_unchanged(a, of.peer, page, word))
            continue;
        ret->to = owner < a->n_peers ? owner : of.peer;
        ret->expected = newest;
        ret->found = flight_incarnation(word);
        return false;
    }
    return true;
}

static uint64_t foreign_pages(const struct audit *a, uint32_t peer)
{
    uint64_t own = AUDIT_OF(a, own_incarnation, peer), n = 0;

    for (uint32_t page = 0; page < view_column_n_inner(&a->flight, peer); page++) {
        uint64_t word = AUDIT_LOAD(a, flight, peer, 0, page, 0);
        if (word && (flight_peer(word) != peer || flight_incarnation(word) != own))
            n += flight_pages(word);
    }
    return n;
}

/* Exact where the peer sleeps: it shows the figure once a turn. */
static bool quarantine_is_right(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    struct audit_rest rest = audit_rest_begin(a, of.peer);
    uint64_t shown = AUDIT_OF(a, heap_quarantined_bytes, of.peer) / SEGMENT_PAGE;

    *ret = (struct audit_finding){.account = AUDIT_QUARANTINE,
        .from = of.peer,
        .to = of.peer,
        .expected = foreign_pages(a, of.peer),
        .found = shown};
    return shown == ret->expected || !audit_rest_lasted(a, of.peer, &rest);
}

void audit_flights(struct audit *a, uint32_t peer)
{
    audit_look(a, (struct audit_subject){peer, peer}, flights_fit);
    audit_look(a, (struct audit_subject){peer, peer}, flights_have_owners);
    audit_look(a, (struct audit_subject){peer, peer}, quarantine_is_right);
    a->result->quarantined_pages += foreign_pages(a, peer);
    for (uint32_t page = 0; page < view_column_n_inner(&a->flight, peer); page++)
        a->result->flights += AUDIT_LOAD(a, flight, peer, 0, page, 0) != 0;
}
