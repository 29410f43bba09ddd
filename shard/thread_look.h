/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * thread_look - what /proc tells of a process's main thread at a moment
 *
 * Why:         a loop that makes no progress may be computing, asleep in a system call, stopped,
 *              traced by a debugger, or waiting for a CPU: each means something else.
 * Use:         struct thread_look look;
 *              r = thread_look(pid, &look);       for everyone
 *              thread_look_closer(pid, &look);    for whom may trace it
 * Concurrency: any thread
 * Not here:    what is done about it (shard/stall.h)
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct thread_look {
    char state;         /* of proc(5): R, S, D, T, t, Z … */
    uint64_t ran_ns;    /* on a CPU, since it was made */
    uint64_t queued_ns; /* runnable, and waiting for one; 0 where the kernel does not count it */
    bool traced;        /* by somebody: a debugger */
    /* closer */
    int64_t syscall_number; /* -1: none is under way, or may not be seen */
    uint64_t sp, pc;        /* 0: not seen */
    char wait_channel[36];  /* "" where it tells nothing */
};

/* 0; -ESRCH: it is gone; -errno. */
int thread_look(pid_t pid, struct thread_look *ret);

/* Fills in the rest, as far as this process may see it. */
void thread_look_closer(pid_t pid, struct thread_look *look);
