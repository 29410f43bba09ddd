/* SPDX-License-Identifier: MIT */
#include "shard/restart.h"

#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

bool restart_is_crash(int wait_status, bool out_of_memory)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};

    if (WIFEXITED(wait_status))
        return true;
    if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL)
        return out_of_memory;
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == faults[i])
            return true;
    return false;
}

void restart_began(struct restart *restart, uint64_t now_ns)
{
    restart->began_ns = now_ns;
}

/* Notes a crash; true where it is the last that the window allows. */
static bool crash_is_last(
    struct restart *restart, const struct restart_limits *limits, uint64_t now_ns)
{
    uint32_t n = restart->n_crashes++;
    uint32_t oldest = (n + 1 - limits->crashes) % RESTART_CRASHES_MAX;

    restart->crashed_ns[n % RESTART_CRASHES_MAX] = now_ns;
    return restart->n_crashes >= limits->crashes &&
           now_ns - restart->crashed_ns[oldest] <= limits->window_ns;
}

static uint64_t next_delay(const struct restart *restart, uint64_t now_ns)
{
    if (now_ns - restart->began_ns >= RESTART_STEADY_NS || restart->n_crashes == 1)
        return 0;
    if (restart->delay_ns == 0)
        return RESTART_DELAY_MIN_NS;
    return restart->delay_ns * 2 < RESTART_DELAY_MAX_NS ? restart->delay_ns * 2
                                                        : RESTART_DELAY_MAX_NS;
}

bool restart_died(struct restart *restart, const struct restart_limits *limits, bool crash,
    uint64_t now_ns, uint64_t *ret_at_ns)
{
    if (crash) {
        if (crash_is_last(restart, limits, now_ns))
            return false;
        restart->delay_ns = next_delay(restart, now_ns);
        *ret_at_ns = now_ns + restart->delay_ns;
    } else {
        *ret_at_ns = now_ns;
    }
    return true;
}
