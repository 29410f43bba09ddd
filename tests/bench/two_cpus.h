/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * two_cpus - a benchmark of two processes, each on a CPU of its own, and memory between them
 *
 * Why:         what crosses from one core to another is measured where nobody else runs in between.
 * Use:         two_cpus_begin(); before each fork two_cpus_anywhere(), so that a child is not born
 *              on a core where its parent spins; then two_cpus_pin(0) in one, (1) in the other
 * Concurrency: each process for itself
 */
#include <stddef.h>
#include <stdint.h>

/* Notes which CPUs this process may use. */
void two_cpus_begin(void);

/* The n-th of those, from 0; where there are fewer it stays where it may be. */
void two_cpus_pin(uint32_t nth);

void two_cpus_anywhere(void);

/* Zero bytes that children share, for as long as the process lives. Aborts where there are none. */
void *two_cpus_memory(size_t bytes);
