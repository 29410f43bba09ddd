/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * process - what /proc tells about a process
 *
 * Why:         a pid alone does not say who it is (it may be used again), and fork() copies one
 *              thread, so somebody has to know how many there are.
 * Concurrency: any thread
 */
#include <stdint.h>
#include <sys/types.h>

/* When the process began, in clock ticks since boot: with its pid it tells one process from all
 * others. 0; -ESRCH: there is none, or it is a zombie; -errno. */
int process_start_ticks(pid_t pid, uint64_t *ret_ticks);

/* 1: this process has one thread. 0: it has more, and *ret_names has the others' names (free() it;
 * NULL: no memory). -errno: /proc can't be read. */
int process_is_single_threaded(char **ret_names);
