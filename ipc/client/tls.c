/* SPDX-License-Identifier: MIT */
#include "ipc/client/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/nng_error.h"
#include "ipc/client/pem.h"
#include "ipc/client/transport.h"

#define SCHEME "tls+tcp://"

bool tls_is_url(const char *url)
{
    return strncmp(url, SCHEME, strlen(SCHEME)) == 0;
}

static int read_file(const char *path, bool is_secret, struct pem *ret_pem, char **ret_error)
{
    const char *why;
    int r = pem_read(path, is_secret, ret_pem, &why);

    return r < 0 ? transport_explain(ret_error, r, "%s %s (%s)", path, why, strerror(-r)) : 0;
}

static int believe(nng_tls_config *config, const char *ca_file, char **ret_error)
{
    struct pem ca;

    if (!ca_file)
        ca_file = secure_getenv("SHERD_TLS_CA");
    if (!ca_file || !*ca_file)
        return transport_explain(ret_error, -EINVAL,
            "tls+tcp:// needs the certificate of the authority to believe in, as a PEM file: "
            "--tls-ca FILE, or SHERD_TLS_CA");
    int r = read_file(ca_file, false, &ca, ret_error);
    if (r < 0)
        return r;
    r = nng_errno(nng_tls_config_ca_chain(config, ca.text, NULL));
    pem_deinit(&ca);
    return r < 0 ? transport_explain(ret_error, r == -ENOMEM ? r : -EINVAL,
                       "%s is not understood: it has to hold certificates in PEM", ca_file)
                 : 0;
}

static int introduce(
    nng_tls_config *config, const char *cert_file, const char *key_file, char **ret_error)
{
    struct pem cert = {}, key = {};

    if (!cert_file && !key_file)
        return 0;
    if (!cert_file || !key_file)
        return transport_explain(
            ret_error, -EINVAL, "a client's certificate and its key go together");
    int r = read_file(cert_file, false, &cert, ret_error);
    if (r == 0)
        r = read_file(key_file, true, &key, ret_error);
    if (r == 0) {
        r = nng_errno(nng_tls_config_own_cert(config, cert.text, key.text, NULL));
        if (r < 0)
            r = transport_explain(ret_error, r == -ENOMEM ? r : -EINVAL,
                "%s and %s are not understood: a certificate and its key (RSA or ECDSA, without a "
                "passphrase) in PEM",
                cert_file, key_file);
    }
    pem_deinit(&cert);
    pem_deinit(&key);
    return r;
}

/* "HOST:PORT…": HOST, or what stands in its brackets. For free(). */
static char *host_of(const char *address)
{
    if (address[0] == '[')
        return strndup(address + 1, strcspn(address + 1, "]"));
    return strndup(address, strcspn(address, ":/"));
}

/* nng compares nothing unless it is told a name. */
static int expect(nng_tls_config *config, const struct sherd_client_options *options)
{
    char *host = options->tls_name ? NULL : host_of(options->url + strlen(SCHEME));
    const char *name = options->tls_name ? options->tls_name : host;
    int r = name ? nng_errno(nng_tls_config_server_name(config, name)) : -ENOMEM;

    free(host);
    return r;
}

int tls_config_new(
    const struct sherd_client_options *options, nng_tls_config **ret_config, char **ret_error)
{
    nng_tls_config *config;
    int r = nng_errno(nng_tls_config_alloc(&config, NNG_TLS_MODE_CLIENT));

    if (r < 0)
        return transport_explain(ret_error, r, "TLS: %s", strerror(-r));
    r = expect(config, options);
    if (r < 0)
        transport_explain(ret_error, r, "TLS: %s", strerror(-r));
    if (r == 0)
        r = believe(config, options->tls_ca_file, ret_error);
    if (r == 0)
        r = introduce(config, options->tls_cert_file, options->tls_key_file, ret_error);
    if (r < 0)
        nng_tls_config_free(config);
    else
        *ret_config = config;
    return r;
}
