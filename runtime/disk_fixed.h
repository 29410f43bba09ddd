/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * disk_fixed - what was registered with a context (aio_register.h), as the engines look it up
 *
 * Why:         requests name a registered file by its place and a registered buffer by its address;
 *              io_uring wants the number of the place, the other engines the fd.
 * Use:         disk_fixed_fd(fixed, place) where an fd says that it is one; disk_fixed_buffer(…)
 *              for each request of io_uring's with one buffer
 * Concurrency: owner loop
 * Lifetime:    a part of the context; zero bytes are the empty tables
 * Not here:    registering (runtime/aio_register.c)
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "runtime/aio_register.h"
#include "runtime/disk.h"

/* A registered buffer, in order of addresses. */
struct fixed_region {
    uintptr_t begin;
    size_t bytes;
    uint32_t place;
};

struct disk_fixed {
    int *fds; /* by place; NULL: no table */
    uint32_t n_fds;
    uint32_t n_buffers;
    uint32_t n_regions;
    uint32_t last_region; /* where the last one was found */
    struct fixed_region *regions;
    struct iovec *buffers; /* by place; NULL: no table */
};

static inline bool disk_fd_is_fixed(int fd)
{
    return fd < AIO_FIXED_FD(AIO_MOST_FIXED_FILES);
}

/* AIO_FIXED_FD(…) or AIO_WORKER_FD(…). AT_FDCWD is neither. */
static inline bool disk_fd_is_marked(int fd)
{
    return fd < AIO_WORKER_FD(1 << 29);
}

/* The fd behind AIO_FIXED_FD(place), or -EBADF. */
static inline int disk_fixed_fd(const struct disk_fixed *fixed, int fd)
{
    uint32_t place = (uint32_t)(fd - INT_MIN);

    return place < fixed->n_fds && fixed->fds[place] >= 0 ? fixed->fds[place] : -EBADF;
}

/* Whether fd is the one at place, which may be -1: the table may have changed since. */
static inline bool disk_fixed_is_at(const struct disk_fixed *fixed, int place, int fd)
{
    return (uint32_t)place < fixed->n_fds && fixed->fds[place] == fd;
}

static inline bool fixed_region_has(const struct fixed_region *region, const void *buf, size_t len)
{
    uintptr_t skip = (uintptr_t)buf - region->begin;

    return skip < region->bytes && len <= region->bytes - skip;
}

/* The place of a registered buffer around this one, looked for among all; or -1. */
int disk_fixed_search(struct disk_fixed *fixed, const void *buf, size_t len);

/* The same, where there may be none at all, or where it was last. */
static inline int disk_fixed_buffer(struct disk_fixed *fixed, const void *buf, size_t len)
{
    if (fixed->n_regions == 0)
        return -1;
    const struct fixed_region *last = &fixed->regions[fixed->last_region];
    return fixed_region_has(last, buf, len) ? (int)last->place : disk_fixed_search(fixed, buf, len);
}

void disk_fixed_deinit(struct disk_fixed *fixed);
