/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pidfd - a process that another one wrote down, told from one that has its number now
 *
 * Use:         int fd = pidfd_open_started(pid, start_ticks); … pidfd_wait(fd, timeout_ns);
 *              close(fd)
 * Concurrency: any thread
 */
#include <stdint.h>
#include <sys/types.h>

/* A pidfd of the process with that number that started then (process_start_ticks()). -ESRCH: it is
 * gone, or a zombie; -errno. */
int pidfd_open_started(pid_t pid, uint64_t start_ticks);

/* 0; -ESRCH: it is gone; -EPERM. */
int pidfd_signal(int pidfd, int signal);

/* The same with a value for who reads it from a signalfd. -EAGAIN: too many signals wait. */
int pidfd_send_word(int pidfd, int signal, uint64_t word);

/* Waits up to timeout_ns until it has ended. 0 or -ETIMEDOUT. */
int pidfd_wait(int pidfd, int64_t timeout_ns);
