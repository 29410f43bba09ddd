/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * waiter - the one pollable fd of a client: an epoll set of what may have something to say
 *
 * Why:         a program with a loop of its own has one fd to watch, whatever the plane.
 * Use:         waiter_watch() each fd; waiter_arm() for what happens without one; waiter_wait();
 *              waiter_quiet() before looking, so that what comes meanwhile shows again
 * Concurrency: one thread; only waiter_wake() is for any thread and signal handlers
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct waiter {
    int epoll_fd;
    int event_fd; /* rung by ourselves, and by waiter_wake() */
    int timer_fd;
    int64_t armed_ns; /* of the timer; INT64_MAX: not */
    bool rung;        /* event_fd is readable, as far as this thread knows */
    uint32_t woken;   /* by waiter_wake(), since waiter_take_wake() */
};

/* 0 or -errno; waiter_deinit() in any case. */
int waiter_init(struct waiter *waiter);
void waiter_deinit(struct waiter *waiter);

/* tag: comes back in the events' data.u64, and is not 0. 0 or -errno. */
int waiter_watch(struct waiter *waiter, int fd, uint64_t tag);
void waiter_unwatch(struct waiter *waiter, int fd);

/* Makes the fd readable, until waiter_quiet(). */
void waiter_ring(struct waiter *waiter);
void waiter_quiet(struct waiter *waiter);

/* CLOCK_MONOTONIC; INT64_MAX: not. */
void waiter_arm(struct waiter *waiter, int64_t when_ns);

/* Waits until then at most; INT64_MAX: for ever. How many events, or -errno. */
int waiter_wait(struct waiter *waiter, int64_t until_ns, struct epoll_event *ret_events, int n);

void waiter_wake(struct waiter *waiter);
bool waiter_take_wake(struct waiter *waiter);

int64_t waiter_now_ns(void);
