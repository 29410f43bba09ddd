/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * restart - when a dead process is to be replaced, and when it is given up
 *
 * Why:         what died by accident comes back at once; what crashes again and again must neither
 *              burn a CPU nor be tried for ever.
 * Use:         struct restart starts as zero bytes; restart_began() at each fork, restart_died() at
 *              each death
 * Concurrency: pure functions of their arguments.
 * Not here:    forking and reaping (shard/supervisor.h)
 *
 * Crashes alone count: the process ended by a fault of its own, or left unasked. Any other signal
 * is somebody's deed, and the replacement comes at once, always. The first crash is made good at
 * once too; each that follows within RESTART_STEADY_NS of a start doubles the wait, from 100 ms to
 * 5 s. The tenth within 60 s is the last; both figures are limits that an operator may change.
 */
#include <stdbool.h>
#include <stdint.h>

#define RESTART_CRASHES_MAX  64u /* that a limit may allow */
#define RESTART_STEADY_NS    (UINT64_C(10) * 1000000000)
#define RESTART_DELAY_MIN_NS (UINT64_C(100) * 1000000)
#define RESTART_DELAY_MAX_NS (UINT64_C(5) * 1000000000)

/* The n-th crash within the window is the last. */
struct restart_limits {
    uint32_t crashes; /* 1 to RESTART_CRASHES_MAX */
    uint64_t window_ns;
};

#define RESTART_LIMITS_DEFAULT                                \
    {                                                         \
        .crashes = 10, .window_ns = UINT64_C(60) * 1000000000 \
    }

struct restart {
    uint64_t began_ns;                        /* the start of the one that lives or lived last */
    uint64_t delay_ns;                        /* before the last replacement */
    uint64_t crashed_ns[RESTART_CRASHES_MAX]; /* the last crashes, a ring */
    uint32_t n_crashes;
};

/* Whether a wait status is a crash: SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, or an exit,
 * which nobody asked for; or SIGKILL where the cgroup tells that it was for want of memory. */
bool restart_is_crash(int wait_status, bool out_of_memory);

void restart_began(struct restart *restart, uint64_t now_ns);

/* Notes a death. True, with the time from which the replacement may be forked; false: given up. */
bool restart_died(struct restart *restart, const struct restart_limits *limits, bool crash,
    uint64_t now_ns, uint64_t *ret_at_ns);
