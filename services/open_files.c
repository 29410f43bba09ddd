/* SPDX-License-Identifier: MIT */
#include "services/open_files.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

/*
 * A handle is a place, of 8 bits, and 56 bits at random: nobody comes upon another's, and none of a
 * shard that died is taken for one of its replacement's.
 */

#define PLACE_BITS 8

_Static_assert(OPEN_FILES == 1u << PLACE_BITS, "a place fits its bits");

struct file_owner {
    uint64_t owner;
    uint32_t n_files; /* 0: free */
};

struct open_files {
    uint64_t n_uses;
    struct open_file files[OPEN_FILES];
    struct file_owner owners[OPEN_FILES];
};

struct open_files *open_files_new(void)
{
    struct open_files *files = calloc(1, sizeof(*files));

    if (!files)
        return NULL;
    for (uint32_t i = 0; i < OPEN_FILES; i++)
        files->files[i].fd = -1;
    return files;
}

void open_files_free(struct open_files *files)
{
    if (!files)
        return;
    for (uint32_t i = 0; i < OPEN_FILES; i++)
        if (files->files[i].fd >= 0)
            close(files->files[i].fd);
    free(files);
}

/* Who has files open, else a free account: there are as many as files. */
static struct file_owner *account_of(struct open_files *files, uint64_t owner)
{
    struct file_owner *unused = NULL;

    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        struct file_owner *account = &files->owners[i];
        if (account->n_files > 0 && account->owner == owner)
            return account;
        if (account->n_files == 0)
            unused = account;
    }
    return unused;
}

static uint32_t count_of(struct open_files *files, uint64_t owner)
{
    const struct file_owner *account = account_of(files, owner);

    return account ? account->n_files : 0;
}

/* The one of an owner that has not been used for longest; NULL: all are in use. */
static struct open_file *find_oldest(struct open_files *files, uint64_t owner)
{
    struct open_file *found = NULL;

    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        struct open_file *file = &files->files[i];
        if (file->fd >= 0 && file->owner == owner && file->n_users == 0 &&
            (!found || file->used < found->used))
            found = file;
    }
    return found;
}

static bool goes_before(const struct open_file *file, const struct open_file *other)
{
    uint32_t n = file->account->n_files, n_other = other->account->n_files;

    return n != n_other ? n > n_other : file->used < other->used;
}

/* Where no place is free: of whoever has most, which is the one who wants it where nobody has
 * more. */
static struct open_file *find_victim(struct open_files *files, uint64_t owner)
{
    uint32_t n_own = count_of(files, owner);
    struct open_file *found = NULL;

    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        struct open_file *file = &files->files[i];
        if (file->n_users == 0 && file->account->n_files > n_own &&
            (!found || goes_before(file, found)))
            found = file;
    }
    return found ? found : find_oldest(files, owner);
}

/* NULL: all that might go are in use. */
static struct open_file *find_place(struct open_files *files, uint64_t owner)
{
    if (count_of(files, owner) >= OPEN_FILES_EACH)
        return find_oldest(files, owner);
    for (uint32_t i = 0; i < OPEN_FILES; i++)
        if (files->files[i].fd < 0)
            return &files->files[i];
    return find_victim(files, owner);
}

/* -errno: there is no randomness to be had. */
static int make_handle(uint32_t place, uint64_t *ret_handle)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -errno;
    *ret_handle = random << PLACE_BITS | place;
    return 0;
}

/* The fd that it had; -1: it was free. */
static int let_go(struct open_file *file)
{
    int fd = file->fd;

    if (fd >= 0)
        file->account->n_files--;
    *file = (struct open_file){.fd = -1};
    return fd;
}

int open_files_add(
    struct open_files *files, const struct open_file *made, uint64_t *ret_handle, int *ret_evicted)
{
    struct open_file *file = find_place(files, made->owner);
    uint64_t handle = 0;
    int r;

    if (!file)
        return -EMFILE;
    r = make_handle((uint32_t)(file - files->files), &handle);
    if (r < 0)
        return r;
    *ret_evicted = let_go(file);
    struct file_owner *account = account_of(files, made->owner);
    account->owner = made->owner;
    account->n_files++;
    *file = (struct open_file){.handle = handle,
        .used = ++files->n_uses,
        .owner = made->owner,
        .account = account,
        .fd = made->fd,
        .io_fd = made->io_fd,
        .is_writable = made->is_writable,
        .is_direct = made->is_direct};
    *ret_handle = handle;
    return 0;
}

static struct open_file *find(struct open_files *files, uint64_t owner, uint64_t handle)
{
    struct open_file *file = &files->files[handle % OPEN_FILES];

    return file->handle == handle && file->owner == owner && file->fd >= 0 && !file->is_doomed
               ? file
               : NULL;
}

struct open_file *open_files_take(struct open_files *files, uint64_t owner, uint64_t handle)
{
    struct open_file *file = find(files, owner, handle);

    if (!file)
        return NULL;
    file->n_users++;
    file->used = ++files->n_uses;
    return file;
}

int open_files_give(struct open_file *file)
{
    file->n_users--;
    return file->n_users == 0 && file->is_doomed ? let_go(file) : -1;
}

/* The fd to be closed, or -1. */
static int close_file(struct open_file *file)
{
    if (file->n_users == 0)
        return let_go(file);
    file->is_doomed = true;
    return -1;
}

int open_files_close(struct open_files *files, uint64_t owner, uint64_t handle)
{
    struct open_file *file = find(files, owner, handle);

    return file ? close_file(file) : -ESTALE;
}

uint32_t open_files_close_all(
    struct open_files *files, uint64_t owner, int ret_fds[OPEN_FILES_EACH])
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        struct open_file *file = &files->files[i];
        int fd = file->fd >= 0 && file->owner == owner ? close_file(file) : -1;
        if (fd >= 0)
            ret_fds[n++] = fd;
    }
    return n;
}
