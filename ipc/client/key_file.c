/* SPDX-License-Identifier: MIT */
#include "ipc/client/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(int fd, enum key_file_rights rights, const char **ret_why)
{
    struct stat st;

    *ret_why = "can't be looked at";
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_why = "is no regular file";
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (rights == KEY_FILE_PUBLIC)
        return 0;
    bool is_roots = rights == KEY_FILE_OURS_OR_ROOTS && st.st_uid == 0;
    *ret_why = "belongs to another user";
    if (st.st_uid != geteuid() && !is_roots)
        return -EACCES;
    *ret_why = "may be read or written by others: chmod 600 it";
    mode_t forbidden = is_roots ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
    return st.st_mode & forbidden ? -EACCES : 0;
}

/* To its end, or to one byte more than max. */
static int read_bytes(int fd, size_t max, uint8_t *bytes, size_t *ret_len, const char **ret_why)
{
    size_t len = 0;
    ssize_t n;

    *ret_why = "can't be read";
    while (len <= max && (n = read(fd, bytes + len, max + 1 - len)) != 0) {
        if (n < 0)
            return -errno;
        len += (size_t)n;
    }
    *ret_len = len;
    return len > max ? -EFBIG : 0;
}

int key_file_read(const char *path, enum key_file_rights rights, size_t max, uint8_t **ret_bytes,
    size_t *ret_len, const char **ret_why)
{
    uint8_t *bytes = malloc(max + 1);

    *ret_why = "no memory";
    if (!bytes)
        return -ENOMEM;
    *ret_why = "can't be opened";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r = fd < 0 ? -errno : check_file(fd, rights, ret_why);
    if (r == 0)
        r = read_bytes(fd, max, bytes, ret_len, ret_why);
    if (fd >= 0)
        close(fd);
    if (r < 0)
        key_file_free(bytes, max);
    else
        *ret_bytes = bytes;
    return r;
}

void key_file_free(void *bytes, size_t max)
{
    if (bytes)
        explicit_bzero(bytes, max + 1);
    free(bytes);
}
