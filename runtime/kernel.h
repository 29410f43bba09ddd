/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * kernel - constants of Linux that Debian 12's headers do not have yet
 *
 * Why:         the oldest kernel is 6.1, the headers are 6.1's, and newer kernels have things worth
 *              using. Each is probed at run time: having the number here proves nothing.
 * Not here:    wrappers; who uses one of these keeps the call beside its reason
 */
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* 6.13, anonymous private memory; 6.15, files */
#endif

#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)  /* 6.15; io_uring_enter: sleep as idle, not as iowait */
#define IORING_FEAT_NO_IOWAIT  (1U << 17) /* io_uring_setup's answer: it is known */
#endif

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U /* 6.8; stx_mnt_id is never used again */
#endif

/* Landlock since 6.1's headers: rights that may be taken away, and the first argument of
 * landlock_create_ruleset(), whose size tells the kernel how much of it is meant. */
#define KERNEL_LANDLOCK_FS_TRUNCATE         (UINT64_C(1) << 14) /* ABI 3, 6.2 */
#define KERNEL_LANDLOCK_FS_IOCTL_DEV        (UINT64_C(1) << 15) /* ABI 5, 6.10 */
#define KERNEL_LANDLOCK_NET_BIND_TCP        (UINT64_C(1) << 0)  /* ABI 4, 6.7 */
#define KERNEL_LANDLOCK_NET_CONNECT_TCP     (UINT64_C(1) << 1)
#define KERNEL_LANDLOCK_RULE_NET_PORT       2
#define KERNEL_LANDLOCK_SCOPE_ABSTRACT_UNIX (UINT64_C(1) << 0) /* ABI 6, 6.12 */
#define KERNEL_LANDLOCK_SCOPE_SIGNAL        (UINT64_C(1) << 1)

struct kernel_landlock_ruleset {
    uint64_t handled_access_fs;
    uint64_t handled_access_net; /* ABI 4 */
    uint64_t scoped;             /* ABI 6 */
};

/* What a rule of KERNEL_LANDLOCK_RULE_NET_PORT says. */
struct kernel_landlock_port {
    uint64_t allowed_access;
    uint64_t port; /* 0: whichever is free */
};

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code of a SIGSYS by seccomp; glibc's headers have no name for it */
#endif
