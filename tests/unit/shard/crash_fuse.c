/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/crash_fuse.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* What the hook knows, which has no argument to get it from. */
static struct watched {
    struct fuse *fuse; /* NULL: this process is of no role */
    enum fuse_role role;
    const uint8_t *base;
    uint64_t bytes;
    pid_t pid;
} watched;

void fuse_watch(struct fuse *fuse, enum fuse_role role, const struct segment *seg)
{
    watched = (struct watched){
        .fuse = fuse, .role = role, .base = seg->base, .bytes = seg->bytes, .pid = getpid()};
}

static bool is_at(const struct fuse_point *point, const char *file, int line)
{
    return point->line == line && strcmp(point->file, file) == 0;
}

static void count(struct fuse *fuse, const char *file, int line)
{
    uint32_t *n = &fuse->n_points[watched.role];
    struct fuse_point *points = fuse->points[watched.role];

    for (uint32_t i = 0; i < *n; i++)
        if (is_at(&points[i], file, line)) {
            points[i].n_hits++;
            return;
        }
    if (*n < FUSE_POINTS_MAX)
        points[(*n)++] = (struct fuse_point){.file = file, .line = line, .n_hits = 1};
}

static void burn(struct fuse *fuse, const char *file, int line)
{
    if (fuse->role != watched.role || !is_at(&fuse->at, file, line) || --fuse->n_left > 0)
        return;
    atomic_store(&fuse->armed, false);
    atomic_store(&fuse->victim, watched.pid);
    atomic_store(&fuse->fired, true);
    kill(getpid(), SIGKILL);
}

void fuse_store(const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)address;
    struct fuse *fuse = watched.fuse;

    if (!fuse || at < watched.base || at >= watched.base + watched.bytes || getpid() != watched.pid)
        return;
    if (fuse->counts)
        count(fuse, file, line);
    else if (atomic_load(&fuse->armed))
        burn(fuse, file, line);
}

void fuse_arm(struct fuse *fuse, enum fuse_role role, const struct fuse_point *point, uint64_t n)
{
    fuse->role = role;
    fuse->at = *point;
    fuse->n_left = n;
    atomic_store(&fuse->fired, false);
    atomic_store(&fuse->armed, true);
}

bool fuse_disarm(struct fuse *fuse)
{
    atomic_store(&fuse->armed, false);
    return atomic_exchange(&fuse->fired, false);
}
