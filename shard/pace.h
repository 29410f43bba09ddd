/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pace - which calls are not worth beginning any more, in a shard that is behind
 *
 * Why:         where more comes than can be done, what is next in line has waited nearly as long as
 *              its caller wants to wait. Begun then, it ends too late: the shard works all the
 *              time, and nobody gets an answer in time.
 * Use:         if (pace_is_late(&pace, method, deadline_ns))
 *                  … it ends as expired, not begun
 *              begun_ns = pace_begin(&pace);
 *              … coroutine_enter() …
 *              pace_end(&pace, method, begun_ns, deadline_ns);
 * Concurrency: owner loop
 *
 * While no call is found whose deadline has passed, only those are late whose own has: a method
 * that takes long keeps its chance. Within PACE_BEHIND_NS of such a find a call is late too where
 * it has left less than what its method lately held the loop, and a margin, which grows by half
 * with each that was begun and ended too late all the same, and shrinks by a 64th with each that
 * did not: so some four of a hundred are in vain, however long the kernel lets others run in
 * between. Each that is late so makes the first figure smaller: a method that has become quick is
 * tried again soon.
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/timer.h"

#define PACE_BEHIND_NS INT64_C(1000000000)

/* Longer than that nobody waits for a shard who would rather be refused. */
#define PACE_WAIT_NS INT64_C(5000000)

struct pace {
    int64_t late_ns; /* when a call was last found whose deadline had passed; 0: never */
    int64_t margin_ns;
    uint32_t n;       /* methods */
    int64_t *held_ns; /* how long each holds the loop, lately */
};

/* 0 or -ENOMEM. */
int pace_init(struct pace *pace, uint32_t n_methods);
void pace_deinit(struct pace *pace);

/* Of a call that has a deadline (CLOCK_MONOTONIC). */
bool pace_is_late_by(struct pace *pace, uint32_t method, int64_t deadline_ns);

static inline bool pace_is_late(struct pace *pace, uint32_t method, int64_t deadline_ns)
{
    return deadline_ns != INT64_MAX && pace_is_late_by(pace, method, deadline_ns);
}

/* For pace_end(). 0: the shard is not behind, and nothing is measured. */
int64_t pace_begin(const struct pace *pace);
void pace_end(struct pace *pace, uint32_t method, int64_t begun_ns, int64_t deadline_ns);
