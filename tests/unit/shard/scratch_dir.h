/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * scratch_dir - a folder for one case, removed after it with all that is in it
 *
 * Use:         cmocka_unit_test_setup_teardown(case, scratch_make, scratch_remove); *state is its
 *              path
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static inline int scratch_make_in(void **state, const char *parent)
{
    char *path = NULL;

    if (asprintf(&path, "%s/sherd-unit-XXXXXX", parent) < 0)
        return -1;
    *state = path;
    return mkdtemp(path) ? 0 : -1;
}

static inline int scratch_make(void **state)
{
    const char *parent = getenv("TMPDIR");

    return scratch_make_in(state, parent && parent[0] ? parent : "/tmp");
}

/* On tmpfs. */
static inline int scratch_make_shm(void **state)
{
    return scratch_make_in(state, "/dev/shm");
}

static inline int scratch_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    int r = nftw(*state, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);

    free(*state);
    return r;
}

/* A path in it, in one of eight buffers used in turn. */
static inline char *scratch_path(const char *dir, const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

/* Writes text to a file in it, with the folders on the way. */
static inline void scratch_write(const char *dir, const char *name, const char *text)
{
    char *path = scratch_path(dir, name);
    FILE *file;

    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    file = fopen(path, "we");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        abort();
}
