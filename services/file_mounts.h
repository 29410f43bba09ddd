/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_mounts - which file systems answer at once, and which may let one wait
 *
 * Why:         a file system in user space or across a network may not answer for long, or ever.
 *              Who asks it anything waits, and io_uring and linux-aio ask it in the thread that
 *              submits: a shard's loop must not.
 * Use:         r = file_mounts_look_co(mounts, fd, &look);
 *              co_pread(look.is_quick ? fd : AIO_WORKER_FD(fd), …)
 * Concurrency: coroutine of a context, always the same one.
 * Lifetime:    of the shard's struct file_roots; what is known of a mount is forgotten for
 *              another's sake at any time.
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/coroutine.h"

struct file_mounts;

struct file_look {
    uint64_t size;
    uint16_t mode;
    bool
        is_quick; /* of those that are known to answer from memory, or from a disk of this machine */
};

struct file_mounts *file_mounts_new(void); /* NULL: no memory */
void file_mounts_free(struct file_mounts *mounts);

/* What fd is, O_PATH or not, without ever holding the loop. 0, or -errno of statx(2); -ECANCELED or
 * -ETIMEDOUT: the end of a scope. */
int coroutine_fn file_mounts_look_co(struct file_mounts *mounts, int fd, struct file_look *ret);
