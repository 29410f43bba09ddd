/* SPDX-License-Identifier: MIT */
#ifndef SHERD_DISK_H
#define SHERD_DISK_H
/*
 * disk - file I/O for coroutines
 *
 * Why:         a coroutine waits for a disk, its thread does not.
 * Use:         as the system calls of the same name, in a coroutine, in its current context's
 *              engine
 * Concurrency: coroutine_fn, all of them. Several coroutines may use one fd at once.
 * Lifetime:    buffers, paths and the fd stay valid until the call returns; it returns when the
 *              kernel is done with them, never earlier.
 * Not here:    pipes and other fds without offsets (sherd/co_fd.h), which io_uring reads and writes
 *              all the same, where other engines say -ESPIPE; sockets (sherd/co_socket.h). Files
 *              and buffers that are used often can be registered (sherd/aio_register.h); then fd
 *              may be AIO_FIXED_FD(place). Of a file system that may not answer: AIO_WORKER_FD(fd).
 *
 * All return a count or 0, or -errno as the system call would. A read returns its whole count,
 * short only at the end of the file; a write its whole count, or an error (-ENOSPC where the file
 * takes nothing more and the kernel has no error for it), after which an unknown part is written.
 *
 * EINTR and EAGAIN are not seen by callers, but for an openat2 that asks for EAGAIN
 * (RESOLVE_CACHED, O_NONBLOCK), and for -EAGAIN where a call needs a worker thread and, tried for
 * up to half a second, not even one can be made (RLIMIT_NPROC).
 *
 * The end of a scope (sherd/co_cancel.h) ends all but co_close() with -ECANCELED or -ETIMEDOUT: at
 * once where the kernel or a worker has not begun; with io_uring also later, as soon as the kernel
 * has let go; else not, and the call returns what it would have. What was moved until then is not
 * told.
 *
 * What is in memory is read without a way through another thread. The same goes for an openat2 with
 * O_NONBLOCK or O_PATH, and for a statx of an open fd (an empty path with AT_EMPTY_PATH) with
 * AT_STATX_DONT_SYNC.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct open_how;
struct statx;

/*
 * In the place of fd, or dirfd: the call is made by a worker thread, whatever the engine, and
 * nothing is tried in the loop. For files, and opens, of a file system that may not answer (FUSE,
 * NFS): the kernel's interfaces take them for ones that do not wait, and so would hold the loop
 * until it does. An fd is below 2^29.
 */
#define AIO_WORKER_FD(fd) ((fd) - (1 << 30))

ssize_t coroutine_fn co_pread(int fd, void *buf, size_t len, uint64_t offset);
ssize_t coroutine_fn co_pwrite(int fd, const void *buf, size_t len, uint64_t offset);
ssize_t coroutine_fn co_preadv(int fd, const struct iovec *iov, int n_iov, uint64_t offset);
ssize_t coroutine_fn co_pwritev(int fd, const struct iovec *iov, int n_iov, uint64_t offset);
int coroutine_fn co_fsync(int fd);
int coroutine_fn co_fdatasync(int fd);
int coroutine_fn co_fallocate(int fd, int mode, uint64_t offset, uint64_t len);

/* The new fd, close-on-exec only where how->flags says so. */
int coroutine_fn co_openat2(int dirfd, const char *path, const struct open_how *how);
int coroutine_fn co_close(int fd);

/* With AT_EMPTY_PATH path may be NULL. */
int coroutine_fn co_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *ret);

#ifdef __cplusplus
}
#endif
#endif
