/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * io_depth - how many disk requests each process of an instance may have in the kernel
 *
 * Why:         the machine has one limit for all (fs.aio-max-nr), taken by each context as it is
 *              made; the first process must not leave too little for the last.
 * Use:         io_depth_plan(max, used, n_peers) before the first fork
 * Concurrency: pure.
 * Not here:    reading the limit (supervisor.c); what an engine does with the depth.
 */
#include <stdint.h>

#define IO_DEPTH_MAX 256u
#define IO_DEPTH_MIN 8u

/* The share of each of n_processes in what is left of max. One share more is set aside for a dead
 * process's context, which goes a little after it. IO_DEPTH_MIN to IO_DEPTH_MAX. */
uint32_t io_depth_plan(uint64_t max, uint64_t used, uint32_t n_processes);
