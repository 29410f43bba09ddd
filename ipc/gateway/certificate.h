/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * certificate - who the gateway says it is over tls+tcp://
 *
 * Why:         certificate and key are read by whoever starts the instance, before it gives up
 *              root's rights, and only the gateway is to have the key: not the shards, which are
 *              forked from the same process.
 * Use:         sherd run, first of all: certificate_open(); the fd goes to the gateway alone
 *              gateway: certificate_config() before it listens; SIGHUP: certificate_reread()
 * Concurrency: the supervisor; then each gateway, which reads only
 * Lifetime:    the fd keeps it in memory for all gateways, and no process keeps a copy beside nng's
 * Not here:    what clients believe (ipc/client/tls.h)
 */
#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

/* What it is kept as for the gateway, under FD_KEEP_PROGRAM (the supervisor's secret_fd). */
#define CERTIFICATE_FD_KIND 1u

/* Paths of files in PEM. */
struct certificate_files {
    const char *cert; /* ours, those that vouch for it behind it */
    const char *key;  /* which nobody else may read */
    const char
        *client_ca; /* whom to believe clients' certificates, which each must have then; NULL: none
                              is asked for */
};

/* Reads and checks them. 0 with an fd; -errno with a text that names the file. ret_warning (free()
 * it; NULL: none): what is likely to be a mistake, such as a certificate that is no longer
 * valid. */
int certificate_open(
    const struct certificate_files *files, int *ret_fd, char **ret_warning, char **ret_error);

/* The same into an fd that there is: gateways that begin from now on have it. On failure it stays
 * as it was. */
int certificate_reread(
    const struct certificate_files *files, int fd, char **ret_warning, char **ret_error);

/* For nng_tls_config_free(). 0; -EINVAL: nng's TLS does not take it; -ENOMEM; what read(2) says. */
int certificate_config(int fd, nng_tls_config **ret_config);
