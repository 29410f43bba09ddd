/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * tls - what a client of tls+tcp:// believes, and who it says it is
 *
 * Why:         over a network the token must not be read, nor given to somebody who only says to be
 *              the gateway.
 * Use:         where tls_is_url(): tls_config_new(), link_open() with it, nng_tls_config_free()
 * Concurrency: any thread; constant once a link has it
 * Not here:    the gateway's side (ipc/gateway/certificate.h)
 *
 * The handshake is mbedTLS's, within nng: TLS 1.2. Of a failed one nng tells that it failed, and
 * not why.
 */
#include <stdbool.h>
#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "ipc/client/client.h"

/* For people: what may be wrong where the handshake fails, and where it does not come to its
 * end. */
#define TLS_TEXT_REJECTED                                                                  \
    "TLS fails: its certificate is none that the CA file vouches for (another authority, " \
    "not valid now, or for another name: --tls-name), it wants one of ours that it "       \
    "believes (--tls-cert), or it speaks no TLS"
#define TLS_TEXT_HUNG_UP                                                              \
    "it hung up during the TLS handshake: it may want a certificate of ours that it " \
    "believes (--tls-cert), or the instance begins or ends"

bool tls_is_url(const char *url);

/* Reads the files that the options name; without tls_ca_file that of $SHERD_TLS_CA. 0; -EINVAL: a
 * file is missing or not what it should be; what pem_read() says; -ENOMEM; with a text. */
int tls_config_new(
    const struct sherd_client_options *options, nng_tls_config **ret_config, char **ret_error);
