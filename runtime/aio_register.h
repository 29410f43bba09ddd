/* SPDX-License-Identifier: MIT */
#ifndef SHERD_AIO_REGISTER_H
#define SHERD_AIO_REGISTER_H
/*
 * aio_register - files and buffers that a context is told of once, for disk I/O that uses them
 * often
 *
 * Why:         the kernel then looks up a file, or pins the pages of a buffer, once instead of for
 *              each request: with io_uring a tenth of a read from the page cache.
 * Use:         aio_register_files(fds, 2);
 *              n = co_pread(AIO_FIXED_FD(1), buf, len, offset);        by its place, not its number
 *              aio_register_buffers(&arena, 1);
 *              n = co_pread(fd, arena.iov_base, 4096, offset);         found by its address
 * Concurrency: the current context's home thread. What is registered is one context's own.
 * Lifetime:    until it is unregistered or replaced, or the context is freed. An fd stays open, and
 *              a buffer mapped, while it is registered: the kernel goes on using what it was told
 *              of, whatever stands at that number or address by then.
 * Not here:    the reads and writes (sherd/disk.h)
 *
 * On an engine that can't make use of it everything works the same and gains nothing, but for
 * buffers that the kernel refuses: only io_uring says so.
 *
 * Calls of sherd/disk.h that are under way keep what they began with, so an fd or buffer that is
 * taken out or replaced stays open or mapped until they have returned. An entry of the program's
 * (sherd/aio_sqe.h) keeps what the kernel has found for it, which with IOSQE_ASYNC may be what
 * stands there later. Unregistering, and replacing, may wait for both on some kernels.
 *
 * All return 0 or -errno, and change nothing on an error: -EINVAL: nothing, or more than
 * AIO_MOST_FIXED_FILES or AIO_MOST_FIXED_BUFFERS; -EBUSY: there is a table already; -ENXIO: there
 * is none, or not that many places; -EBADF: an fd that is none; -EFAULT: a buffer that is not
 * mapped, or is longer than 1 GiB; -ENOMEM, also where RLIMIT_MEMLOCK has no room for a buffer,
 * which holds its pages in memory; -EMFILE: more files than RLIMIT_NOFILE, or, in a shard, than
 * AIO_MOST_GUARDED_FILES; -EAGAIN: the kernel can't take over now what was begun before; later
 * it can. Context: owner loop | coroutine.
 */
#include <limits.h>
#include <stdint.h>
#include <sys/uio.h>

#include "runtime/aio.h"

#ifdef __cplusplus
extern "C" {
#endif

#define AIO_MOST_FIXED_FILES   32768
#define AIO_MOST_FIXED_BUFFERS 16384
#define AIO_MOST_GUARDED_FILES 1023 /* in a context with a life_fd (sherd/aio.h) */

/* What the calls of sherd/disk.h take for the file registered at place. A place that is empty, or
 * is none, is -EBADF to them. co_close() takes none. */
#define AIO_FIXED_FD(place) (INT_MIN + (int)(place))

/* A table of n_fds places, those with -1 empty. */
int aio_register_files(const int *fds, uint32_t n_fds);

/* Other files for the places from first on; -1 empties one. */
int aio_update_files(uint32_t first, const int *fds, uint32_t n_fds);
int aio_unregister_files(void);

/* A table of buffers; an element all zero is an empty place. A read or write with one buffer that
 * lies inside a registered one makes use of it; where registered ones overlap, maybe not. */
int aio_register_buffers(const struct iovec *buffers, uint32_t n_buffers);

/* Other buffers for the places from first on; all zero empties one. */
int aio_update_buffers(uint32_t first, const struct iovec *buffers, uint32_t n_buffers);
int aio_unregister_buffers(void);

#ifdef __cplusplus
}
#endif
#endif
