/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * probe - static probes, for perf, bpftrace and systemtap
 *
 * Why:         what a loop does in microseconds is seen from outside, in a program that runs, with
 *              no build of its own for it.
 * Use:         PROBE3(bh_run, ctx, bh, name);
 *              bpftrace -e 'usdt:./sherd:sherd:bh_run { @[str(arg2)] = count(); }'
 * Concurrency: any thread, any process, signal handler
 * Not here:    counters and the recorder, which are always on (runtime/instruments.h)
 *
 * A probe that nobody has turned on is one nop; its arguments should be at hand. Without
 * sys/sdt.h (option probes) it is nothing, and its arguments are not evaluated.
 */
#include <stdbool.h>

/* X(name, arguments, when). The manual page comes from here, and a test looks for each. */
#define PROBES(X)                                                                                \
    X(notify, "context, written",                                                                \
        "aio_notify(): a context was told of work; whether that took a write to its eventfd")    \
    X(poll_begin, "context, blocking", "aio_poll(): a turn begins")                              \
    X(poll_end, "context, progress", "aio_poll(): a turn ends")                                  \
    X(sleep, "context, timeout in ns", "the loop begins a wait that may block; -1: without end") \
    X(wake, "context, slept ns", "that wait is over")                                            \
    X(bh_run, "context, bottom half, name", "a bottom half is about to run")                     \
    X(timer_fire, "context, timer", "a timer's callback is about to run")                        \
    X(fd_dispatch, "context, fd, events", "a handler is about to be called")                     \
    X(co_create, "coroutine, name", "a coroutine was made")                                      \
    X(co_enter, "coroutine, context, name", "a coroutine is about to run or go on")              \
    X(co_leave, "coroutine, context", "it has yielded or ended, and its switch is complete")     \
    X(io_submit, "request, operation, fd",                                                       \
        "a disk request goes to the engine; operation as in enum disk_op of runtime/engine.h")   \
    X(io_complete, "request, operation, result", "a disk request has ended: count, 0 or -errno")

enum probe_name {
#define X(name, arguments, when) PROBE_##name,
    PROBES(X)
#undef X
};

#ifdef SHERD_PROBES
/* Not in memory where a register holds it: clang would store each argument for a probe that is
 * off. */
#define STAP_SDT_ARG_CONSTRAINT nr
#include <sys/sdt.h>
#define PROBE2(name, a, b)                \
    do {                                  \
        (void)PROBE_##name;               \
        DTRACE_PROBE2(sherd, name, a, b); \
    } while (0)
#define PROBE3(name, a, b, c)                \
    do {                                     \
        (void)PROBE_##name;                  \
        DTRACE_PROBE3(sherd, name, a, b, c); \
    } while (0)
#else
#define PROBE2(name, a, b) ((void)PROBE_##name, (void)sizeof(a), (void)sizeof(b))
#define PROBE3(name, a, b, c) \
    ((void)PROBE_##name, (void)sizeof(a), (void)sizeof(b), (void)sizeof(c))
#endif
