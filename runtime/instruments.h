/* SPDX-License-Identifier: MIT */
#ifndef SHERD_INSTRUMENTS_H
#define SHERD_INSTRUMENTS_H
/*
 * instruments - what a context tells about itself: counters, coroutine registry, event recorder
 *
 * Why:         a tool in another process reads them without a message to the loop, live or after a
 *              crash; so the memory is handed in by whoever creates the context: the segment for a
 *              shard, private memory otherwise.
 * Use:         struct aio_config's instruments, or NULL for private memory; and to look:
 *              struct aio_instruments in;
 *              aio_context_instruments(ctx, &in);
 *              n = __atomic_load_n(&in.counters->co_alive, __ATOMIC_RELAXED);
 * Concurrency: written by the owner loop alone (one writer), with relaxed stores that never tear;
 *              read by anyone (stale, never torn). Counters only grow, gauges go both ways.
 *              What a thread does to a context that is not its own it counts in its own.
 * Lifetime:    the creator's memory outlives the context. Zero bytes are the empty state.
 * Not here:    probes, which cost nothing until somebody looks (runtime/probe.h)
 */
#include <stdint.h>

#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, kind, unit, help): struct, tool columns and manual come from here. kind: counter or
 * gauge. */
#define AIO_COUNTERS(X)                                                                       \
    X(polls, counter, "calls", "turns of the loop (aio_poll calls)")                          \
    X(sleeps, counter, "calls", "waits that were allowed to block")                           \
    X(rings_sent, counter, "rings", "eventfd writes paid to wake another context")            \
    X(rings_saved, counter, "rings", "notifications of another context that found it awake")  \
    X(bh_run, counter, "calls", "bottom halves run")                                          \
    X(timers_fired, counter, "calls", "timer callbacks run")                                  \
    X(fds_dispatched, counter, "calls", "fd callbacks run")                                   \
    X(co_created, counter, "coroutines", "coroutines created")                                \
    X(co_alive, gauge, "coroutines", "coroutines alive now")                                  \
    X(co_alive_high, gauge, "coroutines", "most coroutines alive at once")                    \
    X(co_switches, counter, "switches", "coroutine enters")                                   \
    X(co_unlisted, counter, "coroutines", "coroutines that found the registry full")          \
    X(asleep, gauge, "loops", "1 while the loop is in a wait that may block")                 \
    X(io_submitted, counter, "requests", "disk requests handed to the engine")                \
    X(io_completed, counter, "requests", "disk requests that ended")                          \
    X(io_failed, counter, "requests", "disk requests that ended with an error")               \
    X(io_syscalls, counter, "calls", "system calls the engine made to submit")                \
    X(io_read_bytes, counter, "bytes", "bytes read by disk requests")                         \
    X(io_write_bytes, counter, "bytes", "bytes written by disk requests")                     \
    X(busy_ns, counter, "ns", "time between the end of a wait and the beginning of the next") \
    X(longest_turn_ns, gauge, "ns", "longest time from a wait to the next so far")

struct aio_counters {
#define X(name, kind, unit, help) uint64_t name;
    AIO_COUNTERS(X)
#undef X
};

/* One coroutine's entry. Written by its loop; id last at birth (release), cleared first at end. */
struct co_entry {
    uint64_t id;          /* 0: free; else unique in this context */
    uint64_t entry;       /* address of its first function */
    uint64_t created_ns;  /* CLOCK_MONOTONIC */
    uint64_t wait_site;   /* address of the string that names why it waits, 0 while it runs */
    uint64_t position_at; /* address, in its process, of the word that holds its stack pointer while
                             it waits; lies at the top of its stack */
    char name[32];        /* NUL-terminated, cut if longer */
};

#define RECORDER_EVENTS(X)                                           \
    X(NONE, "nothing")                                               \
    X(SLEEP, "loop begins a blocking wait; a: timeout ns")           \
    X(WAKE, "loop woke; a: ns slept")                                \
    X(CO_CREATE, "coroutine created; a: id, b: entry")               \
    X(CO_END, "coroutine ended; a: id")                              \
    X(IO_ERROR, "disk request failed; a: -errno, b: operation")      \
    X(CALL_START, "method begins; a: method, b: caller and slot")    \
    X(CALL_END, "method ended; a: status, b: caller and slot")       \
    X(JUDGE, "calls to a dead peer judged; a: peer, b: incarnation") \
    X(STATE, "process changed state; a: new state")                  \
    X(CO_OVERFLOW, "coroutine overflowed; a: id, b: fault address")

enum recorder_kind {
#define X(name, help) RECORDER_##name,
    RECORDER_EVENTS(X)
#undef X
};

/* CO_CREATE and CO_END bear the time of their turn, and lag by 64 such events at most. */
struct recorder_event {
    uint64_t ns; /* CLOCK_MONOTONIC; stored last (release) */
    uint64_t kind;
    uint64_t a;
    uint64_t b;
};

/* Where each instrument lives. n_events is a power of two. */
struct aio_instruments {
    struct aio_counters *counters;
    struct co_entry *coroutines;
    struct recorder_event *events;
    uint64_t *n_recorded; /* events recorded so far; the newest is at (n_recorded - 1) % n_events */
    uint64_t *running;    /* what the coroutine that runs now works on (coroutine_set_work()); 0:
                             none runs, or it has said nothing. NULL: a word of the context's own */
    uint32_t n_coroutines;
    uint32_t n_events;
};

/* Where ctx has its instruments; its own memory is gone with it. Context: any thread. */
void aio_context_instruments(const AioContext *ctx, struct aio_instruments *ret);

#ifdef __cplusplus
}
#endif
#endif
