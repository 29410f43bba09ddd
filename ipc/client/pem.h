/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pem - a certificate's or key's file, as text
 *
 * Why:         it may be a private key: others must not be able to read it, and no copy stays
 *              behind.
 * Use:         pem_read(); use text; pem_deinit()
 * Concurrency: any
 * Lifetime:    the caller's; pem_deinit() overwrites it
 * Not here:    what stands in it (client/tls.h, gateway/certificate.h)
 */
#include <stdbool.h>
#include <stddef.h>

#define PEM_MAX ((size_t)256 * 1024)

struct pem {
    char *text; /* with a NUL; NULL: none */
    size_t len; /* without it */
};

/* is_secret: refused where others might read it. It has to be ours or root's, and nothing for all;
 * a group may read one of root's, as that of ssl-cert does. -EACCES: that, -EINVAL: no regular
 * file, empty, or with a zero byte in it; -EFBIG: above PEM_MAX; what open(2) says. ret_why: a
 * constant for people. */
int pem_read(const char *path, bool is_secret, struct pem *ret_pem, const char **ret_why);

void pem_deinit(struct pem *pem);
