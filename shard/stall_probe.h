/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stall_probe - a forked helper looks at a process that hangs, and writes its crash record
 *
 * Why:         looking may itself hang, or be forbidden; the supervisor must do neither.
 * Use:         pid_t helper = stall_probe_begin(&target);
 *              later, until it is not 0: r = stall_probe_ended(helper);
 * Concurrency: the supervisor's only thread
 * Lifetime:    the helper ends by itself within STALL_PROBE_SECONDS, or with the supervisor.
 * Not here:    when to look (shard/stall.h)
 *
 * Who computes is stopped by ptrace() for the time of reading its registers and the top of its
 * stack: 15 us, where a bare stop takes 8 (test_stall_probe). Who is asleep in a system call is not
 * stopped, because some calls would then fail with EINTR: where it stands is read from /proc, its
 * stack from its memory. Where tracing is forbidden, the record says what anyone may know.
 */
#include "shard/segment.h"

#define STALL_PROBE_SECONDS 2u

struct stall_target {
    const struct segment *segment;
    uint32_t peer;
    pid_t pid;
    uint64_t callback_ns; /* how long it has run the callback */
};

/* The helper's pid, or -errno. */
pid_t stall_probe_begin(const struct stall_target *target);

/* 0: it is at work yet. 1: it has ended, and there is a record or none. */
int stall_probe_ended(pid_t helper);
