/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_open - opens a path under the roots, or says why not
 *
 * Why:         every method of the file service begins so, and the reasons are for people.
 * Use:         char *error = NULL;
 *              int fd = file_open_co(roots, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, &error);
 * Concurrency: coroutine of a context.
 * Lifetime:    roots and path outlive the call.
 */
#include "runtime/coroutine.h"
#include "services/file_roots.h"

/*
 * Links are followed as long as they stay under the roots, whichever. The fd, close-on-exec, or
 * -errno with *ret_error: "PATH: what failed; what to do" (free() it), or NULL where there is no
 * memory for it. -EACCES: under no root, or the kernel forbids it; -EROFS: flags ask for writing
 * and the root is read-only; -EINVAL: path is not absolute; else what the kernel says. O_PATH may
 * come with O_WRONLY: then nothing is opened for writing, and whether it might be is looked at.
 */
int coroutine_fn file_open_co(const struct file_roots *roots, const char *path, uint64_t flags,
    uint32_t mode, char **ret_error);

/*
 * As file_open_co(), for a regular file alone: anything else is refused with -EISDIR or -EINVAL
 * without being opened, so that neither a FIFO's other end nor a device notices.
 *
 * 0 or -errno, and a text as above.
 */
struct file_opened {
    int fd;
    int io_fd; /* by which runtime/disk.h reads and writes it: AIO_WORKER_FD() where that may wait */
    uint64_t size;
};

int coroutine_fn file_open_regular_co(const struct file_roots *roots, const char *path,
    uint64_t flags, uint32_t mode, struct file_opened *ret, char **ret_error);
