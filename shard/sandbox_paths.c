/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shard/sandbox.h"

int sandbox_paths_add(struct sandbox_paths *paths, const char *path, bool writable)
{
    struct sandbox_path *grown;
    char *copy;

    if (!path)
        return 0;
    copy = strdup(path);
    grown = copy ? reallocarray(paths->all, paths->n + 1, sizeof(*grown)) : NULL;
    if (!grown) {
        free(copy);
        return -ENOMEM;
    }
    grown[paths->n++] = (struct sandbox_path){copy, writable};
    paths->all = grown;
    return 0;
}

void sandbox_paths_deinit(struct sandbox_paths *paths)
{
    for (size_t i = 0; i < paths->n; i++)
        free(paths->all[i].path);
    free(paths->all);
    *paths = (struct sandbox_paths){0};
}
