/* SPDX-License-Identifier: MIT */
#include "runtime/instruments_inside.h"
/*
 * The recorder overwrites its oldest event while somebody may be reading it. An event's time is
 * therefore 0 while the event changes: a reader takes the time before and after the rest, and
 * drops what was 0 or has changed.
 *
 * Orderings  first       then        ordered by                        if broken
 *   VOID     ns = 0      kind, a, b  release stores, reader's acquire  a mix of two events
 *   NOTE     kind, a, b  ns          release, reader's acquire         looks like one
 *   COUNT    the event   n_recorded  release, reader's acquire         newest event is an old one
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/aio.h"

#define PRIVATE_COROUTINES 1024
#define PRIVATE_EVENTS     256 /* a power of two */

void recorder_note_at(const struct aio_instruments *in, uint64_t now_ns, enum recorder_kind kind,
    uint64_t a, uint64_t b)
{
    if (in->n_events == 0)
        return;
    uint64_t position = *in->n_recorded; /* own: nobody else writes it */
    struct recorder_event *event = &in->events[position & (in->n_events - 1)];

    atomic_store_relaxed(&event->ns, 0);
    atomic_store_release(&event->kind, (uint64_t)kind); /* VOID */
    atomic_store_release(&event->a, a);                 /* VOID */
    atomic_store_release(&event->b, b);                 /* VOID */
    atomic_store_release(&event->ns, now_ns);           /* NOTE */
    atomic_store_release(in->n_recorded, position + 1); /* COUNT */
}

void recorder_note(
    const struct aio_instruments *in, enum recorder_kind kind, uint64_t a, uint64_t b)
{
    recorder_note_at(in, (uint64_t)aio_clock_ns(), kind, a, b);
}

int instruments_alloc(struct aio_instruments *ret, void **ret_memory)
{
    struct private_instruments {
        struct aio_counters counters;
        uint64_t n_recorded;
        struct recorder_event events[PRIVATE_EVENTS];
        struct co_entry coroutines[PRIVATE_COROUTINES];
    } *memory = calloc(1, sizeof *memory);

    if (!memory)
        return -ENOMEM;
    *ret = (struct aio_instruments){.counters = &memory->counters,
        .coroutines = memory->coroutines,
        .events = memory->events,
        .n_recorded = &memory->n_recorded,
        .n_coroutines = PRIVATE_COROUTINES,
        .n_events = PRIVATE_EVENTS};
    *ret_memory = memory;
    return 0;
}
