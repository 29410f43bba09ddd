/* SPDX-License-Identifier: MIT */
#include "services/file_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "runtime/disk.h"
#include "runtime/kernel.h"
#include "runtime/thread_pool.h"

/*
 * statfs(2) tells a file system's type, but asks the file system for it, as most calls do. Two
 * things can be had without: statx() with AT_STATX_DONT_SYNC answers from memory, and says by which
 * mount a file was reached. So a worker asks for the type, once for each mount.
 *
 * The number of a mount is used again after an unmount, but for Linux 6.8's, which is not. Where
 * that is not to be had what was learnt is believed for BELIEVED_NS: who mounts another file system
 * in the place of one, and it does not answer, holds a shard once at most.
 *
 * What is quick is a list of types, and all others are not: to be wrong there costs a wake-up of a
 * worker; to be wrong the other way, the shard. An overlay is as quick as what it lies over, which
 * nobody tells.
 */

#define N_MOUNTS    64u
#define BELIEVED_NS INT64_C(1000000000)

struct mount {
    uint64_t id;
    uint32_t dev_major, dev_minor;
    bool is_known;
    bool is_quick;
    int64_t until_ns; /* INT64_MAX: for ever */
};

struct file_mounts {
    struct mount mounts[N_MOUNTS];
};

static const uint32_t quick_types[] = {
    EXT4_SUPER_MAGIC, /* and ext2, ext3 */
    0x58465342,       /* XFS */
    BTRFS_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    0x2fc12fc1, /* ZFS */
    0xca451a4e, /* bcachefs */
    0x3153464a, /* JFS */
    NILFS_SUPER_MAGIC,
    REISERFS_SUPER_MAGIC,
    TMPFS_MAGIC,
    RAMFS_MAGIC,
    HUGETLBFS_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    SQUASHFS_MAGIC,
    0xe0f5e1e2, /* EROFS */
    ISOFS_SUPER_MAGIC,
    0x15013346, /* UDF */
    MSDOS_SUPER_MAGIC,
    0x2011bab0, /* exFAT */
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
};

struct file_mounts *file_mounts_new(void)
{
    return calloc(1, sizeof(struct file_mounts));
}

void file_mounts_free(struct file_mounts *mounts)
{
    free(mounts);
}

static bool is_of_quick_type(const struct statfs *fs)
{
    for (size_t i = 0; i < sizeof(quick_types) / sizeof(quick_types[0]); i++)
        if ((uint32_t)fs->f_type == quick_types[i])
            return true;
    return false;
}

/* In a worker. 1: quick; 0: not; or -errno. */
static int ask_type(void *opaque)
{
    const int *fd = opaque;
    struct statfs fs;

    return fstatfs(*fd, &fs) < 0 ? -errno : is_of_quick_type(&fs);
}

static bool is_about(const struct mount *mount, const struct statx *stx)
{
    return mount->is_known && mount->id == stx->stx_mnt_id &&
           mount->dev_major == stx->stx_dev_major && mount->dev_minor == stx->stx_dev_minor &&
           (mount->until_ns == INT64_MAX || aio_clock_ns() < mount->until_ns);
}

/* Whoever asks meanwhile asks for himself. What has no answer is not quick, and asked for again. */
static bool coroutine_fn ask_co(struct mount *mount, int fd, const struct statx *stx)
{
    bool is_unique = stx->stx_mask & STATX_MNT_ID_UNIQUE;
    int r = thread_pool_submit_co(ask_type, &fd);

    if (r == -EAGAIN) /* no thread to be had (RLIMIT_NPROC): as in file_open.c */
        r = ask_type(&fd);
    if (r < 0)
        return false;
    *mount = (struct mount){.id = stx->stx_mnt_id,
        .dev_major = stx->stx_dev_major,
        .dev_minor = stx->stx_dev_minor,
        .is_known = true,
        .is_quick = r,
        .until_ns = is_unique ? INT64_MAX : aio_clock_ns() + BELIEVED_NS};
    return r;
}

static bool coroutine_fn is_quick_co(struct file_mounts *mounts, int fd, const struct statx *stx)
{
    struct mount *mount = &mounts->mounts[(stx->stx_mnt_id ^ stx->stx_dev_minor) % N_MOUNTS];

    return is_about(mount, stx) ? mount->is_quick : ask_co(mount, fd, stx);
}

/* What is remembered of a file that another machine may have changed is not enough. */
int coroutine_fn file_mounts_look_co(struct file_mounts *mounts, int fd, struct file_look *ret)
{
    const unsigned mask = STATX_BASIC_STATS | STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    struct statx stx;
    int r = 0;

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, &stx) < 0)
        return -errno;
    bool is_quick = is_quick_co(mounts, fd, &stx);
    if (!is_quick)
        r = co_statx(AIO_WORKER_FD(fd), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx);
    if (r < 0)
        return r;
    *ret = (struct file_look){.size = stx.stx_size, .mode = stx.stx_mode, .is_quick = is_quick};
    return 0;
}
