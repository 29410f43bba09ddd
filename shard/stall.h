/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stall - whether a process's loop makes progress, judged from outside by what it is seen to do
 *
 * Why:         a callback that never returns takes its whole shard with it, and nobody inside is
 *              left to say so.
 * Use:         struct stall starts as zero bytes. At each look: fill in a struct stall_look, and
 *              act on what stall_judge() returns.
 * Concurrency: pure functions of their arguments
 * Not here:    how to look (shard/thread_look.h), what is done (shard/watch.c)
 *
 * A loop is in one callback as long as it is awake and none of its counters grows. Only the time
 * counts in which it could have gone on: not that in which it waited for a CPU, was stopped by a
 * signal, was held by a debugger; nor that in which nobody looked, because the supervisor or the
 * whole machine was stopped. Who was killed, by whomever, and does not go is unkillable: the kernel
 * keeps a thread of it.
 */
#include <stdbool.h>
#include <stdint.h>

/* X(name, text): what a process is seen at */
#define STALL_STATES(X)                                            \
    X(NONE, "")                                                    \
    X(SPINNING, "spinning")     /* computes */                     \
    X(BLOCKED, "blocked")       /* asleep in a system call */      \
    X(STOPPED, "stopped")       /* by a signal; no stall */        \
    X(TRACED, "traced")         /* held by a debugger; no stall */ \
    X(UNKILLABLE, "unkillable") /* killed, and the kernel keeps it */

enum stall_state {
#define X(name, text) STALL_##name,
    STALL_STATES(X)
#undef X
};

const char *stall_state_text(uint32_t state);

struct stall_limits {
    uint64_t report_ns;  /* a callback that runs longer is recorded; 0: never */
    uint64_t replace_ns; /* a process in one for longer is replaced; 0: never */
    uint64_t look_ns;    /* time between two looks */
};

struct stall_look {
    uint64_t now_ns;
    uint64_t progress; /* of its counters: changes whenever a callback ends or begins */
    bool asleep;       /* in the wait of its loop, and nobody has rung */
    bool stopped;      /* the kernel said so to its parent */
    bool seen;         /* the rest is known; needed where stall_needs_look() says so */
    char state;        /* of proc(5) */
    bool traced;
    uint64_t queued_ns; /* waited for a CPU, since it was made */
};

struct stall {
    uint64_t progress;
    uint64_t seen_ns;   /* the last look at this callback; 0: none yet */
    uint64_t queued_ns; /* then */
    uint64_t in_callback_ns;
    uint64_t killed_ns; /* SIGKILL was sent; 0: not */
    bool reported;
    uint32_t state; /* enum stall_state, for tools */
};

enum stall_verdict {
    STALL_GOES_ON,  /* nothing to do */
    STALL_REPORT,   /* it has run too long: record it */
    STALL_REPLACE,  /* it will not come back: SIGKILL */
    STALL_OVER,     /* a callback that was reported has ended */
    STALL_WONT_DIE, /* SIGKILL was a while ago */
};

/* Whether /proc has to be read for this look. */
bool stall_needs_look(const struct stall *stall, const struct stall_look *look);

enum stall_verdict stall_judge(
    struct stall *stall, const struct stall_look *look, const struct stall_limits *limits);
