/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * token - the secret that clients over tcp must know
 *
 * Why:         both ends read it from a file, which nobody else may read or write.
 * Use:         r = token_load(path, &token, &why); … token_deinit(&token);
 * Concurrency: any
 * Lifetime:    the caller's; token_deinit() overwrites it
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct token {
    uint8_t *secret;
    size_t len;
};

/* Reads the file, without the newlines at its end. -EACCES: group or others may use it, or it is
 * somebody else's; -EINVAL: empty, or no regular file; -EFBIG: above PROTOCOL_TOKEN_MAX; what
 * open(2) says. ret_why: a constant for people. */
int token_load(const char *path, struct token *ret_token, const char **ret_why);
void token_deinit(struct token *token);

/* Takes a time that depends on b_len alone. */
bool token_equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len);
