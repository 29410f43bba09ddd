/* SPDX-License-Identifier: MIT */
#include "shard/fd_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

static int append(struct fd_list *list, int fd)
{
    int *grown = reallocarray(list->fds, list->n + 1, sizeof(*grown));

    if (!grown)
        return -ENOMEM;
    list->fds = grown;
    grown[list->n++] = fd;
    return 0;
}

int fd_list_read(struct fd_list *ret)
{
    struct fd_list list = {0};
    DIR *dir = opendir("/proc/self/fd");
    int r = 0;

    if (!dir)
        return -errno;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(dir))
            r = append(&list, fd);
    }
    closedir(dir);
    if (r < 0) {
        free(list.fds);
        return r;
    }
    if (list.n)
        qsort(list.fds, list.n, sizeof(*list.fds), compare_ints);
    *ret = list;
    return 0;
}

bool fd_list_has(const struct fd_list *list, int fd)
{
    return list->n && bsearch(&fd, list->fds, list->n, sizeof(fd), compare_ints);
}

void fd_list_subtract(struct fd_list *list, const struct fd_list *other)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < list->n; i++)
        if (!fd_list_has(other, list->fds[i]))
            list->fds[n++] = list->fds[i];
    list->n = n;
}
