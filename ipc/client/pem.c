/* SPDX-License-Identifier: MIT */
#include "ipc/client/pem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_file(int fd, bool is_secret, const char **ret_why)
{
    struct stat st;

    *ret_why = "can't be looked at";
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_why = "is no regular file";
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (!is_secret)
        return 0;
    *ret_why = "belongs to another user";
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return -EACCES;
    *ret_why = "may be read or written by others: chmod 600 it";
    mode_t forbidden = st.st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
    return st.st_mode & forbidden ? -EACCES : 0;
}

static int read_text(int fd, struct pem *pem, const char **ret_why)
{
    ssize_t n;

    *ret_why = "can't be read";
    while (
        pem->len <= PEM_MAX && (n = read(fd, pem->text + pem->len, PEM_MAX + 1 - pem->len)) != 0) {
        if (n < 0)
            return -errno;
        pem->len += (size_t)n;
    }
    *ret_why = "is longer than 256 KiB";
    if (pem->len > PEM_MAX)
        return -EFBIG;
    pem->text[pem->len] = '\0';
    *ret_why = "is empty, or no text";
    return pem->len > 0 && strlen(pem->text) == pem->len ? 0 : -EINVAL;
}

int pem_read(const char *path, bool is_secret, struct pem *ret_pem, const char **ret_why)
{
    struct pem pem = {.text = malloc(PEM_MAX + 1)};

    *ret_why = "no memory";
    if (!pem.text)
        return -ENOMEM;
    *ret_why = "can't be opened";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r = fd < 0 ? -errno : check_file(fd, is_secret, ret_why);
    if (r == 0)
        r = read_text(fd, &pem, ret_why);
    if (fd >= 0)
        close(fd);
    if (r == 0)
        *ret_pem = pem;
    else
        pem_deinit(&pem);
    return r;
}

void pem_deinit(struct pem *pem)
{
    if (pem->text)
        explicit_bzero(pem->text, PEM_MAX + 1);
    free(pem->text);
    *pem = (struct pem){};
}
