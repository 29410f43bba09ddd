/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * instruments_inside - how a loop writes its instruments (instruments.h)
 *
 * Why:         whoever reads them asks the loop nothing, so it pays for plain stores alone.
 * Use:         counter_add(&in->counters->polls, 1);
 *              recorder_note(in, RECORDER_STATE, state, 0);
 * Concurrency: owner loop
 * Lifetime:    the context's, or longer where its creator handed them in
 * Not here:    reading them (instruments.h)
 */
#include "runtime/atomic.h"
#include "runtime/coroutine.h"
#include "runtime/instruments.h"

/* One writer, so a load and a store do: no read-modify-write on the hot path. Relaxed, since
 * nothing is ordered by a counter: each is read by itself, by people, stale and never torn. */
#define counter_add(p, n) atomic_store_relaxed(p, *(p) + (uint64_t)(n))
#define counter_set(p, v) atomic_store_relaxed(p, (uint64_t)(v))

/* Notes one event that happens now, or at a time the caller has read already. Context: owner loop,
 * coroutine. */
void recorder_note(
    const struct aio_instruments *in, enum recorder_kind kind, uint64_t a, uint64_t b);
void recorder_note_at(const struct aio_instruments *in, uint64_t now_ns, enum recorder_kind kind,
    uint64_t a, uint64_t b);

/* From now on *instruments.running is work while the calling coroutine runs, in whatever context,
 * and 0 while the loop does: whoever looks in after a crash reads there what was on the CPU.
 * Context: coroutine. */
void coroutine_fn coroutine_set_work(uint64_t work);

/* Private memory for a context that was handed none: ret_memory is for free(). 0 or -ENOMEM. */
int instruments_alloc(struct aio_instruments *ret, void **ret_memory);
