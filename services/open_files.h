/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * open_files - files that a shard keeps open for who reads and writes them again and again
 *
 * Why:         looking a path up, below the roots and twice, takes longer than reading a block.
 * Use:         r = open_files_add(files, &file, &handle, &evicted_fd); co_close(evicted_fd);
 *              file = open_files_take(files, owner, handle);  … file->fd …  open_files_give(file);
 * Concurrency: owner loop. A file that is taken stays open across waits.
 * Lifetime:    of the shard: a handle means nothing to its replacement, and nothing any more once
 *              its file was closed, by order or to make room for another one.
 *
 * A file is its owner's (struct service_caller): to others there is none of that handle. There are
 * at most OPEN_FILES, and OPEN_FILES_EACH of an owner. One more closes one of its own, or, where
 * there are too many of all, one of whoever has most: of these the one that has not been used for
 * longest.
 */
#include <stdbool.h>
#include <stdint.h>

#define OPEN_FILES      256u
#define OPEN_FILES_EACH 64u

struct file_owner;

struct open_file {
    uint64_t handle;            /* 0: free */
    uint64_t used;              /* when, counted in uses */
    uint64_t owner;             /* service_caller.id; 0: nobody, as an owner like others */
    struct file_owner *account; /* of all that it has */
    int fd;
    int io_fd; /* by which runtime/disk.h reads and writes it */
    uint32_t n_users;
    bool is_writable;
    bool is_direct; /* O_DIRECT */
    bool is_doomed; /* closed while in use: by the last user */
};

struct open_files;

struct open_files *open_files_new(void); /* NULL: no memory */
void open_files_free(struct open_files *files);

/* Takes over file->fd; of file are read fd, io_fd, owner and what may be done with it. *ret_evicted
 * is the fd to be closed instead, or -1. 0; -EMFILE: all that might be closed are in use; -errno:
 * no handle can be made. Where it fails fd is the caller's still. */
int open_files_add(
    struct open_files *files, const struct open_file *file, uint64_t *ret_handle, int *ret_evicted);

/* NULL: the owner has no such file, or not any more. */
struct open_file *open_files_take(struct open_files *files, uint64_t owner, uint64_t handle);

/* Returns the fd to be closed, or -1. */
int open_files_give(struct open_file *file);

/* Nobody gets it any more. The fd to be closed, -1 where somebody uses it still, or -ESTALE. */
int open_files_close(struct open_files *files, uint64_t owner, uint64_t handle);

/* All of the owner's. Returns how many fds, of those nobody uses, are to be closed by the
 * caller. */
uint32_t open_files_close_all(
    struct open_files *files, uint64_t owner, int ret_fds[OPEN_FILES_EACH]);
