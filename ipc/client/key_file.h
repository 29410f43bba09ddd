/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * key_file - a file that may hold a secret, whole
 *
 * Why:         a secret that others might read or have written is refused, and no copy of it stays
 *              behind: that is looked at on the open file, and in one place.
 * Use:         r = key_file_read(path, KEY_FILE_OURS, MAX, &bytes, &len, &why);
 *              … key_file_free(bytes, MAX);
 * Concurrency: any
 * Lifetime:    the bytes are the caller's
 * Not here:    what stands in it (client/token.h, client/pem.h)
 */
#include <stddef.h>
#include <stdint.h>

enum key_file_rights {
    KEY_FILE_PUBLIC,        /* it is no secret */
    KEY_FILE_OURS,          /* it has to be ours, and nothing for group and others */
    KEY_FILE_OURS_OR_ROOTS, /* ours as above; or root's, then a group may read it */
};

/* ret_bytes: malloc, of max + 1 bytes, *ret_len of them read, max at the most. 0; -EACCES: against
 * rights; -EINVAL: no regular file; -EFBIG: longer; -ENOMEM; what open(2) and read(2) say. ret_why:
 * a constant for people, but at -EFBIG. */
int key_file_read(const char *path, enum key_file_rights rights, size_t max, uint8_t **ret_bytes,
    size_t *ret_len, const char **ret_why);

/* Overwrites them. NULL: nothing. */
void key_file_free(void *bytes, size_t max);
