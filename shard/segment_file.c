/* SPDX-License-Identifier: MIT */
/*
 * A file is made without a name (O_TMPFILE), allocated, locked and laid out, and only then given
 * one: a start that fails or dies half-way leaves nothing, and whoever sees a name sees its lock.
 * The lock is one of the open file description, which the mapping keeps alive: it goes when the
 * last process that has the segment mapped goes, though none of them keeps the fd.
 *
 * A start looks at every segment of its user in shm_dir, those of other instances included. What
 * it may remove is what nobody has mapped and what no runtime directory links to; which directory
 * that would be says a second name, TOKEN.dir, a link made before the first and removed after it.
 */
#include "shard/segment_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "shard/explain.h"

#define TOKEN_DIGITS 16u

/* ---- names ---- */

static char *join(const char *dir, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* A malloc'ed readlink(); NULL: no link, or no memory. */
static char *link_target(const char *path)
{
    size_t size = 128;
    char *target = NULL;

    for (;;) {
        char *grown = realloc(target, size);
        if (!grown)
            break;
        target = grown;
        ssize_t n = readlink(path, target, size);
        if (n < 0)
            break;
        if ((size_t)n < size) {
            target[n] = '\0';
            return target;
        }
        size *= 2;
    }
    free(target);
    return NULL;
}

/* Whether name is sherd-UID-TOKEN of this user. */
static bool is_segment_name(const char *name)
{
    char prefix[32];
    int n = snprintf(prefix, sizeof(prefix), "sherd-%u-", (unsigned)geteuid());

    return strncmp(name, prefix, (size_t)n) == 0 && strlen(name) == (size_t)n + TOKEN_DIGITS &&
           strspn(name + n, "0123456789abcdef") == TOKEN_DIGITS;
}

/* Whether path names a segment of this user. Links in a runtime directory are followed no
 * further. */
static bool is_segment_path(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && is_segment_name(slash + 1);
}

static int new_path(const char *shm_dir, char **ret_path)
{
    uint64_t token;

    if (getrandom(&token, sizeof(token), 0) != (ssize_t)sizeof(token))
        return -errno;
    return asprintf(ret_path, "%s/sherd-%u-%016llx", shm_dir, (unsigned)geteuid(),
               (unsigned long long)token) < 0
               ? -ENOMEM
               : 0;
}

/* "/run/sherd/x/crashed-2" */
static char *crashed_path(const char *rundir, unsigned n)
{
    char *path = NULL;

    return asprintf(&path, "%s/crashed-%u", rundir, n) < 0 ? NULL : path;
}

/* ---- the lock ---- */

static int lock_file(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* Whether somebody has the segment mapped. What can't be told counts as yes. */
static bool is_in_use(const char *path)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool in_use;

    if (fd < 0)
        return errno != ENOENT;
    in_use = fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
    close(fd);
    return in_use;
}

/* ---- removing ---- */

/* The segment first: one without its .dir is a leftover that the next start finds. */
static void remove_segment(const char *path)
{
    char *dir_link = NULL;

    unlink(path);
    if (asprintf(&dir_link, "%s.dir", path) >= 0) {
        unlink(dir_link);
        free(dir_link);
    }
}

static void remove_crashed(const char *rundir, unsigned n)
{
    char *path = crashed_path(rundir, n);
    char *target = path ? link_target(path) : NULL;

    if (target && is_segment_path(target) && !is_in_use(target))
        remove_segment(target);
    if (path)
        unlink(path);
    free(target);
    free(path);
}

static bool is_linked_as(const char *rundir, const char *name, const char *segment)
{
    char *path = join(rundir, name);
    char *target = path ? link_target(path) : NULL;
    bool linked = target && strcmp(target, segment) == 0;

    free(target);
    free(path);
    return linked;
}

/* Whether the runtime directory it is of links to it. */
static bool is_linked(const char *segment)
{
    char *dir_link = NULL, *rundir = NULL, name[16];
    bool linked = false;

    if (asprintf(&dir_link, "%s.dir", segment) < 0)
        return true;
    rundir = link_target(dir_link);
    if (rundir) {
        linked = is_linked_as(rundir, "segment", segment);
        for (unsigned n = 1; !linked && n <= SEGMENT_FILE_CRASHED_MAX; n++) {
            snprintf(name, sizeof(name), "crashed-%u", n);
            linked = is_linked_as(rundir, name, segment);
        }
    }
    free(rundir);
    free(dir_link);
    return linked;
}

/* Links of segments that are gone go as well. The directory may have been made by anybody. */
static void sweep_entry(const char *shm_dir, const char *name)
{
    size_t len = strlen(name);
    bool is_dir_link = len > 4 && strcmp(name + len - 4, ".dir") == 0;
    char *path = join(shm_dir, name);
    struct stat st;

    if (path && is_dir_link)
        path[strlen(path) - 4] = '\0';
    if (path && is_segment_path(path)) {
        if (lstat(path, &st) < 0) {
            if (errno == ENOENT && is_dir_link)
                remove_segment(path);
        } else if (!is_dir_link && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
                   !is_in_use(path) && !is_linked(path)) {
            remove_segment(path);
        }
    }
    free(path);
}

static void sweep(const char *shm_dir)
{
    DIR *dir = opendir(shm_dir);

    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        sweep_entry(shm_dir, entry->d_name);
    closedir(dir);
}

/* ---- taking over ---- */

static int rename_crashed(const char *rundir, unsigned from, unsigned to)
{
    char *old = crashed_path(rundir, from), *new = crashed_path(rundir, to);
    int r = !old || !new ? -ENOMEM : rename(old, new) < 0 ? -errno : 0;

    free(old);
    free(new);
    return r == -ENOENT ? 0 : r;
}

/* segment → crashed-1 → crashed-2 → crashed-3 → nothing */
static int keep_as_crashed(const char *rundir, const char *link)
{
    char *newest;
    int r = 0;

    remove_crashed(rundir, SEGMENT_FILE_CRASHED_MAX);
    for (unsigned n = SEGMENT_FILE_CRASHED_MAX - 1; r == 0 && n >= 1; n--)
        r = rename_crashed(rundir, n, n + 1);
    if (r < 0)
        return r;
    newest = crashed_path(rundir, 1);
    r = !newest ? -ENOMEM : rename(link, newest) < 0 ? -errno : 0;
    free(newest);
    return r;
}

static uint64_t free_bytes(const char *shm_dir)
{
    struct statfs fs;

    if (statfs(shm_dir, &fs) < 0)
        return 0;
    /* tmpfs without a limit says 0 blocks. */
    return fs.f_blocks ? (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize : UINT64_MAX;
}

static void make_room(const char *shm_dir, const char *rundir, uint64_t bytes)
{
    for (unsigned n = SEGMENT_FILE_CRASHED_MAX; n >= 1 && free_bytes(shm_dir) < bytes; n--)
        remove_crashed(rundir, n);
}

int segment_file_take_over(
    const char *shm_dir, const char *rundir, uint64_t bytes, char **ret_error)
{
    char *link = join(rundir, "segment"), *target;
    bool died = false;
    int r = 0;

    if (!link)
        return explain(ret_error, -ENOMEM, "segment of %s: %s", rundir, strerror(ENOMEM));
    target = link_target(link);
    if (target && is_segment_path(target) && access(target, F_OK) == 0) {
        died = true;
        r = keep_as_crashed(rundir, link);
    } else if (unlink(link) < 0 && errno != ENOENT) {
        r = -errno;
    }
    if (r < 0)
        explain(ret_error, r, "%s, which a dead instance left: %s", link, strerror(-r));
    free(target);
    free(link);
    if (r < 0)
        return r;
    sweep(shm_dir);
    make_room(shm_dir, rundir, bytes);
    return died;
}

/* ---- making ---- */

static int check_tmpfs(const char *shm_dir, char **ret_error)
{
    struct statfs fs;

    if (statfs(shm_dir, &fs) < 0)
        return explain(
            ret_error, -errno, "%s, where the segment goes: %m; mount a tmpfs there", shm_dir);
    if (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC)
        return explain(ret_error, -EMEDIUMTYPE,
            "%s, where the segment goes, is no tmpfs; mount one there (mount -t tmpfs tmpfs %s)",
            shm_dir, shm_dir);
    return 0;
}

#define MIB(bytes) ((double)(bytes) / (1024 * 1024))

/* Allocates every page now: what is not there later would be a SIGBUS. */
static int allocate(int fd, const char *shm_dir, uint64_t bytes, char **ret_error)
{
    int r;

    do {
        r = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
    } while (r == -EINTR);
    if (r == -ENOSPC)
        return explain(ret_error, r,
            "the segment needs %.1f MiB in %s, of which %.1f MiB are free; use --segment-size with "
            "less, fewer --shards, or a bigger one (mount -o remount,size=… %s)",
            MIB(bytes), shm_dir, MIB(free_bytes(shm_dir)), shm_dir);
    if (r < 0)
        return explain(ret_error, r, "can't allocate %.1f MiB in %s: %s%s", MIB(bytes), shm_dir,
            strerror(-r), r == -EFBIG ? "; raise the limit on it (ulimit -f)" : "");
    return 0;
}

static int make_and_map(struct segment_file *file, const char *shm_dir, char **ret_error)
{
    int r;

    file->fd = open(shm_dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (file->fd < 0)
        return explain(ret_error, -errno, "can't make a file in %s: %m", shm_dir);
    r = allocate(file->fd, shm_dir, file->bytes, ret_error);
    if (r < 0)
        return r;
    r = lock_file(file->fd);
    if (r < 0)
        return explain(ret_error, r, "can't lock a file in %s: %s", shm_dir, strerror(-r));
    file->base = mmap(NULL, file->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    if (file->base == MAP_FAILED) {
        file->base = NULL;
        return explain(
            ret_error, -errno, "can't map %.1f MiB of %s: %m", MIB(file->bytes), shm_dir);
    }
    return 0;
}

int segment_file_create(const char *shm_dir, const char *rundir, uint64_t bytes,
    struct segment_file *ret_file, char **ret_error)
{
    struct segment_file file = {.fd = -1, .bytes = bytes};
    int r;

    r = check_tmpfs(shm_dir, ret_error);
    if (r < 0)
        return r;
    file.rundir = strdup(rundir);
    r = file.rundir ? new_path(shm_dir, &file.path) : -ENOMEM;
    if (r < 0)
        explain(ret_error, r, "segment: %s", strerror(-r));
    else
        r = make_and_map(&file, shm_dir, ret_error);
    if (r < 0) {
        segment_file_close(&file);
        return r;
    }
    *ret_file = file;
    return 0;
}

static int link_by_fd(int fd, const char *path)
{
    char name[40];

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* The file first, which its lock protects; rundir's link last, so that whoever waits for it sees
 * all of it. */
static int publish(const struct segment_file *file, const char *dir_link, const char *link)
{
    int r = link_by_fd(file->fd, file->path);

    if (r < 0)
        return r;
    if (symlink(file->rundir, dir_link) < 0 || (unlink(link) < 0 && errno != ENOENT) ||
        symlink(file->path, link) < 0) {
        r = -errno;
        remove_segment(file->path);
    }
    return r;
}

int segment_file_publish(struct segment_file *file, char **ret_error)
{
    char *dir_link = NULL, *link = join(file->rundir, "segment");
    int r = -ENOMEM;

    if (link && asprintf(&dir_link, "%s.dir", file->path) >= 0)
        r = publish(file, dir_link, link);
    if (r < 0)
        explain(ret_error, r, "can't link %s/segment to %s: %s", file->rundir, file->path,
            strerror(-r));
    else
        file->published = true;
    free(dir_link);
    free(link);
    return r;
}

void segment_file_remove(struct segment_file *file)
{
    char *link;

    if (!file->published)
        return;
    file->published = false;
    link = join(file->rundir, "segment");
    if (link)
        unlink(link);
    free(link);
    remove_segment(file->path);
}

void segment_file_close(struct segment_file *file)
{
    if (file->base)
        munmap(file->base, file->bytes);
    if (file->fd >= 0)
        close(file->fd);
    free(file->path);
    free(file->rundir);
    *file = (struct segment_file){.fd = -1};
}
