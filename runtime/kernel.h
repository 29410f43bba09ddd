/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * kernel - constants of Linux that Debian 12's headers do not have yet
 *
 * Why:         the oldest kernel is 6.1, the headers are 6.1's, and newer kernels have things worth
 *              using. Each is probed at run time: having the number here proves nothing.
 * Not here:    wrappers; who uses one of these keeps the call beside its reason
 */
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* 6.13, anonymous private memory; 6.15, files */
#endif

#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)  /* 6.15; io_uring_enter: sleep as idle, not as iowait */
#define IORING_FEAT_NO_IOWAIT  (1U << 17) /* io_uring_setup's answer: it is known */
#endif
