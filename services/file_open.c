/* SPDX-License-Identifier: MIT */
#include "services/file_open.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/disk.h"
#include "runtime/thread_pool.h"
#include "services/file_mounts.h"
#include "services/file_walk.h"
#include "shard/explain.h"

/*
 * The common path is one openat2() beneath the root that the text names. Three cases take the walk,
 * in a worker: the text names no root; the kernel answers that the path leaves the root (an
 * absolute link, or a ".."); and a path is to be written whose root does not settle whether it may
 * be: a read-only one, which a link may leave, and a writable one with a read-only root somewhere
 * below.
 *
 * Opening is itself an effect: a FIFO's writer goes on and then gets SIGPIPE, a tape rewinds. So a
 * path is looked up with O_PATH first, which nobody notices, and opened for real only where that is
 * a regular file; what was exchanged in between is refused after all. The second time, all of the
 * path is in the kernel's cache; /proc/self/fd, which would lead to that very file, costs more.
 *
 * Opening asks the file system too, and one that does not answer would hold the loop, though all of
 * the path is cached: so files of such a one, and those that are to be made, are opened by a
 * worker.
 *
 * fcntl(), and close() of what O_PATH opened, are not worth a trip through the engine: what they
 * want is in memory.
 */

/* "PATH: what error means", and what to do where that is known. Returns error. */
static int explain_path(char **ret_error, int error, const char *path)
{
    const char *meaning = strerrordesc_np(-error);
    switch (error) {
    case -EACCES:
    case -EPERM:
        return explain(ret_error, error, "%s: %s; the shards run as user number %u", path, meaning,
            (unsigned)geteuid());
    case -EMFILE:
    case -ENFILE:
        return explain(ret_error, error,
            "%s: %s; start sherd run with a higher limit (ulimit -n, LimitNOFILE=)", path, meaning);
    default:
        return explain(ret_error, error, "%s: %s", path, meaning ? meaning : "unknown error");
    }
}

/* outside is where path leads, path itself where no link is in the way. */
static int refuse_outside(
    char **ret_error, const struct file_roots *roots, const char *path, const char *outside)
{
    if (roots->n_roots == 0) {
        return explain(ret_error, -EACCES,
            "%s: no folder may be reached; start sherd run with --root DIR", path);
    }
    char *list = file_roots_list(roots);
    int r = strcmp(path, outside) == 0
                ? explain(ret_error, -EACCES,
                      "%s: is under no --root (roots: %s); start sherd run with --root DIR", path,
                      list ? list : "")
                : explain(ret_error, -EACCES,
                      "%s: leads to %.*s, which is under no --root (roots: %s); start sherd run "
                      "with --root DIR",
                      path, PATH_MAX, outside, list ? list : "");
    free(list);
    return r;
}

static int run_walk(void *opaque)
{
    return file_walk_open(opaque);
}

static int coroutine_fn walk_co(const struct file_roots *roots, const char *path, uint64_t flags,
    uint32_t mode, char **ret_error)
{
    struct file_walk walk = {.roots = roots, .path = path, .flags = flags, .mode = mode};
    int fd = thread_pool_submit_co(run_walk, &walk);
    if (fd == -EAGAIN)
        fd = run_walk(
            &walk); /* no thread to be had (RLIMIT_NPROC): late is better than not at all */
    if (fd == -EXDEV && walk.outside) {
        fd = refuse_outside(ret_error, roots, path, walk.outside);
    } else if (fd == -EROFS && walk.root) {
        const char *name = *walk.root->name ? walk.root->name : "/";
        fd = explain(ret_error, fd,
            "%s: the root %s is read-only; start sherd run with --root %s:rw", path, name, name);
    } else if (fd < 0) {
        fd = explain_path(ret_error, fd, path);
    }
    file_walk_deinit(&walk);
    return fd;
}

static bool root_settles(const struct file_root *root, uint64_t flags)
{
    return !file_walk_writes(flags) || (root->writable && !root->is_mixed);
}

static int coroutine_fn open_co(const struct file_roots *roots, const char *path, uint64_t flags,
    uint32_t mode, bool in_worker, char **ret_error)
{
    if (path[0] != '/')
        return explain(ret_error, -EINVAL, "\"%s\": a path must be absolute", path);
    if (roots->n_roots == 0)
        return refuse_outside(ret_error, roots, path, path);
    const char *rest;
    const struct file_root *root = file_roots_find(roots, path, &rest);
    if (!root)
        return walk_co(roots, path, flags, mode, ret_error);
    if (root->fd < 0) {
        return explain(ret_error, root->fd, "%s: the root %s can't be opened: %s", path, root->name,
            strerrordesc_np(-root->fd));
    }
    if (!root_settles(root, flags))
        return walk_co(roots, path, flags, mode, ret_error);
    struct open_how how = {
        .flags = file_walk_kernel_flags(flags),
        .mode = flags & O_CREAT ? mode : 0, /* else it is an error */
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    int fd = co_openat2(in_worker ? AIO_WORKER_FD(root->fd) : root->fd, *rest ? rest : ".", &how);
    if (fd == -EXDEV)
        return walk_co(roots, path, flags, mode, ret_error);
    return fd < 0 ? explain_path(ret_error, fd, path) : fd;
}

int coroutine_fn file_open_co(const struct file_roots *roots, const char *path, uint64_t flags,
    uint32_t mode, char **ret_error)
{
    return open_co(roots, path, flags, mode, false, ret_error);
}

static int refuse_kind(char **ret_error, mode_t mode, const char *path)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return explain(ret_error, -EISDIR, "%s: Is a directory", path);
    case S_IFIFO:
        return explain(ret_error, -EINVAL, "%s: Is a FIFO, not a regular file", path);
    case S_IFSOCK:
        return explain(ret_error, -EINVAL, "%s: Is a socket, not a regular file", path);
    default:
        return explain(ret_error, -EINVAL, "%s: Is a device, not a regular file", path);
    }
}

/* O_NONBLOCK was for the opening; the engines want a file that waits. No other of the flags that
 * F_SETFL sets is ever asked for. */
static int use_blocking(int fd)
{
    return fcntl(fd, F_SETFL, 0) < 0 ? -errno : 0;
}

/* What path is, found out without opening it; it must be a regular file. */
static int coroutine_fn look_up_co(const struct file_roots *roots, const char *path, uint64_t flags,
    struct file_look *ret, char **ret_error)
{
    int fd = file_open_co(roots, path, O_PATH | (flags & O_ACCMODE), 0, ret_error);
    if (fd < 0)
        return fd;
    int r = file_mounts_look_co(roots->mounts, fd, ret);
    close(fd);
    if (r < 0)
        return explain_path(ret_error, r, path);
    return S_ISREG(ret->mode) ? 0 : refuse_kind(ret_error, ret->mode, path);
}

/* The file that was opened, which may have been exchanged just now. */
static int coroutine_fn look_again_co(const struct file_roots *roots, const char *path, int fd,
    struct file_look *ret, char **ret_error)
{
    int r = file_mounts_look_co(roots->mounts, fd, ret);

    if (r == 0 && !S_ISREG(ret->mode))
        return refuse_kind(ret_error, ret->mode, path);
    if (r == 0)
        r = use_blocking(fd);
    return r < 0 ? explain_path(ret_error, r, path) : 0;
}

int coroutine_fn file_open_regular_co(const struct file_roots *roots, const char *path,
    uint64_t flags, uint32_t mode, struct file_opened *ret, char **ret_error)
{
    struct file_look look = {.is_quick = false};
    int r = look_up_co(roots, path, flags, &look, ret_error);
    if (r == -ENOENT && (flags & O_CREAT)) {
        free(*ret_error);
        *ret_error = NULL;
    } else if (r < 0) {
        return r;
    }
    int fd = open_co(roots, path, flags | O_NONBLOCK | O_NOCTTY, mode, !look.is_quick, ret_error);
    if (fd < 0)
        return fd;
    r = look_again_co(roots, path, fd, &look, ret_error);
    if (r < 0) {
        co_close(fd);
        return r;
    }
    *ret = (struct file_opened){
        .fd = fd, .io_fd = look.is_quick ? fd : AIO_WORKER_FD(fd), .size = look.size};
    return 0;
}
