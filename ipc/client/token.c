/* SPDX-License-Identifier: MIT */
#include "ipc/client/token.h"

#include <errno.h>

#include "ipc/client/key_file.h"
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

int token_load(const char *path, struct token *ret_token, const char **ret_why)
{
    uint8_t *bytes;
    size_t len;
    int r = key_file_read(path, KEY_FILE_OURS, PROTOCOL_TOKEN_MAX, &bytes, &len, ret_why);

    if (r == -EFBIG)
        *ret_why = "is longer than 4,096 bytes";
    if (r < 0)
        return r;
    while (len > 0 && (bytes[len - 1] == '\n' || bytes[len - 1] == '\r'))
        len--;
    if (len == 0) {
        key_file_free(bytes, PROTOCOL_TOKEN_MAX);
        *ret_why = "is empty";
        return -EINVAL;
    }
    *ret_token = (struct token){.secret = bytes, .len = len};
    return 0;
}

void token_deinit(struct token *token)
{
    key_file_free(token->secret, PROTOCOL_TOKEN_MAX);
    *token = (struct token){};
}
