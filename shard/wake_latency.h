/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * wake_latency - keeps the CPUs of the machine from sleeping deeply
 *
 * Why:         a CPU in a deep sleep takes tens of microseconds to wake, which is most of what a
 *              call to a sleeping shard costs; the kernel lets whoever pays the power ask for less.
 * Use:         int fd = wake_latency_hold("/dev/cpu_dma_latency"); as long as fd is open, it holds
 * Concurrency: any thread
 * Lifetime:    the fd is the caller's; it is closed on exec
 */

/* An fd, or -errno: -EACCES where only root may, -ENOENT where the kernel has no such thing. */
int wake_latency_hold(const char *device);
