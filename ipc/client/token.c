/* SPDX-License-Identifier: MIT */
#include "ipc/client/token.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/protocol.h"

bool token_equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    volatile uint8_t differs = a_len != b_len;

    if (a_len == 0)
        return b_len == 0;
    for (size_t i = 0; i < b_len; i++)
        differs |= (uint8_t)(a[i % a_len] ^ b[i]);
    return differs == 0;
}

static int check_file(int fd, const char **ret_why)
{
    struct stat st;

    *ret_why = "can't be looked at";
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_why = "is no regular file";
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_why = "belongs to another user";
    if (st.st_uid != geteuid())
        return -EACCES;
    *ret_why = "may be read or written by others: chmod 600 it";
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return -EACCES;
    return 0;
}

static int read_secret(int fd, struct token *token, const char **ret_why)
{
    size_t len = 0;
    ssize_t n;

    *ret_why = "can't be read";
    while ((n = read(fd, token->secret + len, PROTOCOL_TOKEN_MAX + 1 - len)) > 0)
        len += (size_t)n;
    if (n < 0)
        return -errno;
    *ret_why = "is longer than 4,096 bytes";
    if (len > PROTOCOL_TOKEN_MAX)
        return -EFBIG;
    while (len > 0 && (token->secret[len - 1] == '\n' || token->secret[len - 1] == '\r'))
        len--;
    *ret_why = "is empty";
    if (len == 0)
        return -EINVAL;
    token->len = len;
    return 0;
}

int token_load(const char *path, struct token *ret_token, const char **ret_why)
{
    struct token token = {.secret = malloc(PROTOCOL_TOKEN_MAX + 1)};

    *ret_why = "no memory";
    if (!token.secret)
        return -ENOMEM;
    *ret_why = "can't be opened";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r = fd < 0 ? -errno : check_file(fd, ret_why);
    if (r == 0)
        r = read_secret(fd, &token, ret_why);
    if (fd >= 0)
        close(fd);
    if (r == 0)
        *ret_token = token;
    else
        token_deinit(&token);
    return r;
}

void token_deinit(struct token *token)
{
    if (token->secret)
        explicit_bzero(token->secret, PROTOCOL_TOKEN_MAX + 1);
    free(token->secret);
    *token = (struct token){};
}
