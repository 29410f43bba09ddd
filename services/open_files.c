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

struct open_files {
    uint64_t n_uses;
    struct open_file files[OPEN_FILES];
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

/* A free one, or that which has not been used for longest; NULL: all are in use. */
static struct open_file *find_place(struct open_files *files)
{
    struct open_file *found = NULL;

    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        struct open_file *file = &files->files[i];
        if (file->fd < 0)
            return file;
        if (file->n_users == 0 && (!found || file->used < found->used))
            found = file;
    }
    return found;
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

int open_files_add(struct open_files *files, int fd, bool is_writable, bool is_direct,
    uint64_t *ret_handle, int *ret_evicted)
{
    struct open_file *file = find_place(files);
    uint64_t handle = 0;
    int r;

    if (!file)
        return -EMFILE;
    r = make_handle((uint32_t)(file - files->files), &handle);
    if (r < 0)
        return r;
    *ret_evicted = file->fd;
    *file = (struct open_file){.handle = handle,
        .used = ++files->n_uses,
        .fd = fd,
        .is_writable = is_writable,
        .is_direct = is_direct};
    *ret_handle = handle;
    return 0;
}

static struct open_file *find(struct open_files *files, uint64_t handle)
{
    struct open_file *file = &files->files[handle % OPEN_FILES];

    return file->handle == handle && file->fd >= 0 && !file->is_doomed ? file : NULL;
}

struct open_file *open_files_take(struct open_files *files, uint64_t handle)
{
    struct open_file *file = find(files, handle);

    if (!file)
        return NULL;
    file->n_users++;
    file->used = ++files->n_uses;
    return file;
}

static int let_go(struct open_file *file)
{
    int fd = file->fd;

    *file = (struct open_file){.fd = -1};
    return fd;
}

int open_files_give(struct open_file *file)
{
    file->n_users--;
    return file->n_users == 0 && file->is_doomed ? let_go(file) : -1;
}

int open_files_close(struct open_files *files, uint64_t handle)
{
    struct open_file *file = find(files, handle);

    if (!file)
        return -ESTALE;
    if (file->n_users == 0)
        return let_go(file);
    file->is_doomed = true;
    return -1;
}
