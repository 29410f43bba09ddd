/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * cgroup - what the control groups of this process leave it: CPU, memory; and who ran out
 *
 * Why:         a machine of 64 cores may grant a container one and a half, and 200 MiB; and a
 *              process that the kernel killed for want of memory looks like one that somebody
 *              killed.
 * Use:         root is a folder to look for /proc and /sys/fs/cgroup in, "" for the machine's
 * Concurrency: any thread; each call reads the files again
 * Not here:    which CPUs are allowed (the affinity mask tells: shard/topology.h)
 *
 * Version 2 and version 1, whichever of them has the controller. A limit holds for a group and all
 * below it, so the tightest on the way up counts.
 */
#include <stdint.h>

/* CPU quota in 1/1000 of a core; 0: none. */
uint64_t cgroup_cpu_millis(const char *root);

/* memory.max and memory.high (v2), memory.limit_in_bytes (v1), in bytes; UINT64_MAX: none. */
uint64_t cgroup_memory_bytes(const char *root);

/* How many processes of this group the kernel has killed for want of memory; 0 where nothing
 * tells. */
uint64_t cgroup_oom_kills(const char *root);
