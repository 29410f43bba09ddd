/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * clock - CLOCK_MONOTONIC in nanoseconds, for programs without an event loop
 */
#include <stdint.h>
#include <time.h>

#define NS_PER_S  INT64_C(1000000000)
#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)

static inline int64_t clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline struct timespec clock_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

/* From now to the deadline; zero where that has passed. */
static inline struct timespec clock_left(int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns - clock_now_ns();
    return clock_timespec(left_ns > 0 ? left_ns : 0);
}
