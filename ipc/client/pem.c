/* SPDX-License-Identifier: MIT */
#include "ipc/client/pem.h"

#include <errno.h>
#include <string.h>

#include "ipc/client/key_file.h"

int pem_read(const char *path, bool is_secret, struct pem *ret_pem, const char **ret_why)
{
    uint8_t *bytes;
    size_t len;
    int r = key_file_read(
        path, is_secret ? KEY_FILE_OURS_OR_ROOTS : KEY_FILE_PUBLIC, PEM_MAX, &bytes, &len, ret_why);

    if (r == -EFBIG)
        *ret_why = "is longer than 256 KiB";
    if (r < 0)
        return r;
    bytes[len] = '\0';
    if (len == 0 || strlen((char *)bytes) != len) {
        key_file_free(bytes, PEM_MAX);
        *ret_why = "is empty, or no text";
        return -EINVAL;
    }
    *ret_pem = (struct pem){.text = (char *)bytes, .len = len};
    return 0;
}

void pem_deinit(struct pem *pem)
{
    key_file_free(pem->text, PEM_MAX);
    *pem = (struct pem){};
}
