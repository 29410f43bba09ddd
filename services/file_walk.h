/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_walk - opens a path of which the kernel says that it leaves its root
 *
 * Why:         an absolute link, or a "..", may lead from one root into another, and the kernel
 *              follows neither beneath a root.
 * Use:         struct file_walk walk = {.roots = roots, .path = path, .flags = O_RDONLY};
 *              int fd = file_walk_open(&walk);
 *              …
 *              file_walk_deinit(&walk);
 * Concurrency: any thread; it blocks, so coroutines run it in a worker (services/file_open.h).
 * Lifetime:    roots and path outlive it.
 */
#include "services/file_roots.h"

#define FILE_WALK_LINKS_MAX 40u

struct file_walk {
    const struct file_roots *roots;
    const char *path; /* absolute */
    uint64_t flags;   /* of open(2); with O_PATH, O_WRONLY says what it is looked up for */
    uint32_t mode;    /* of a file that O_CREAT makes */

    char *outside;                /* with -EXDEV: where it leads; malloc */
    const struct file_root *root; /* set with -EROFS: the root it ends in */
};

/* The fd, close-on-exec, or -errno: -EXDEV: it leads to where no root is; -EROFS: opened for
 * writing and it ends in a read-only root; -ELOOP: more than FILE_WALK_LINKS_MAX links; else what
 * the kernel says. */
int file_walk_open(struct file_walk *walk);

void file_walk_deinit(struct file_walk *walk);

/* Whether opening with them may change anything, or lets one. */
bool file_walk_writes(uint64_t flags);

/* The flags as openat2() takes them: with O_PATH it refuses an access mode. */
uint64_t file_walk_kernel_flags(uint64_t flags);
