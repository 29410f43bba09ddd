/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_fuse - each place in the source that stores to the segment is a point to die at
 *
 * Why:         a process may die at any store, so a test dies at each of them on purpose.
 * Use:         fuse = mmap() shared, before the first fork; in a process that is to be counted, or
 *              to die: fuse_watch(fuse, FUSE_SHARD, &segment); in the test: fuse->counts = true, a
 *              run, then for each point that was found fuse_arm() and another run
 * Concurrency: one process of each role at a time; the test arms while nobody is armed
 * Not here:    what is checked after the death (crash_instance.h)
 *
 * Burns only where the sources were built with SHERD_ATOMIC_HOOK (crash_hook.c).
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"

enum fuse_role { FUSE_SHARD, FUSE_GATEWAY, FUSE_SUPERVISOR, N_FUSE_ROLES };

#define FUSE_POINTS_MAX 512

struct fuse_point {
    const char *file; /* constants of the image that all processes were forked from */
    int line;
    uint64_t n_hits;
};

/* In memory that all processes share. */
struct fuse {
    bool counts;
    uint32_t n_points[N_FUSE_ROLES];
    struct fuse_point points[N_FUSE_ROLES][FUSE_POINTS_MAX];
    struct fuse_point at; /* where it burns */
    enum fuse_role role;
    uint64_t n_left; /* hits to come, the last of them deadly */
    _Atomic bool armed;
    _Atomic bool fired;
    _Atomic int32_t victim; /* who died on it last, or was killed: a pid */
};

/* The calling process is of that role from now on, and a child forked from it is not. */
void fuse_watch(struct fuse *fuse, enum fuse_role role, const struct segment *seg);

/* The process of that role dies instead of making its n-th store at the point. */
void fuse_arm(struct fuse *fuse, enum fuse_role role, const struct fuse_point *point, uint64_t n);

/* True where it did since it was armed. */
bool fuse_disarm(struct fuse *fuse);

/* The calling process is about to store there. */
void fuse_store(const volatile void *address, const char *file, int line);
