/* SPDX-License-Identifier: MIT */
/*
 * The fd is a memfd with two places for what the files said, and a word that says in which of them
 * it is. Reading anew writes the other place and then the word, so that a gateway which begins just
 * now has the one or the other. Between two rereadings that close to each other that it has
 * neither, its key does not belong to its certificate, and its clients are refused until the next
 * gateway.
 *
 * Looked at by libcrypto, in whose words a mistake can be named; used by nng's mbedTLS, which takes
 * RSA and ECDSA alone.
 */
#include "ipc/gateway/certificate.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "ipc/client/nng_error.h"
#include "ipc/client/pem.h"
#include "shard/explain.h"

enum part { PART_CERT, PART_KEY, PART_CLIENT_CA, N_PARTS };

/* In a place; the texts follow, each with its NUL. */
struct place_head {
    uint64_t text_bytes[N_PARTS]; /* 0: none */
};

struct texts {
    struct pem part[N_PARTS];
};

#define PLACE_BYTES ((off_t)1024 * 1024)
_Static_assert(
    N_PARTS *(PEM_MAX + 1) + sizeof(struct place_head) + sizeof(uint64_t) <= (size_t)PLACE_BYTES,
    "a place holds the longest texts");

static void texts_deinit(struct texts *texts)
{
    for (int i = 0; i < N_PARTS; i++)
        pem_deinit(&texts->part[i]);
}

/* ---- looking at them ---- */

/* An instance starts where nobody sits. */
static int no_passphrase(char *buffer, int size, int writing, void *opaque)
{
    (void)buffer;
    (void)size;
    (void)writing;
    *(bool *)opaque = true;
    return -1;
}

static X509 *parse_cert(const struct pem *pem)
{
    BIO *bio = BIO_new_mem_buf(pem->text, (int)pem->len);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    return cert;
}

static EVP_PKEY *parse_key(const struct pem *pem, bool *ret_is_locked)
{
    BIO *bio = BIO_new_mem_buf(pem->text, (int)pem->len);

    *ret_is_locked = false;
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, ret_is_locked) : NULL;
    BIO_free(bio);
    return key;
}

static int check_key(const struct certificate_files *files, X509 *cert, EVP_PKEY *key,
    bool is_locked, char **ret_error)
{
    if (is_locked)
        return explain(
            ret_error, -EINVAL, "--tls-key %s has a passphrase: give one without", files->key);
    if (!key)
        return explain(ret_error, -EINVAL, "--tls-key %s holds no private key in PEM", files->key);
    if (EVP_PKEY_base_id(key) != EVP_PKEY_RSA && EVP_PKEY_base_id(key) != EVP_PKEY_EC)
        return explain(ret_error, -EINVAL,
            "--tls-key %s is neither RSA nor ECDSA, which are all that nng's TLS has", files->key);
    if (X509_check_private_key(cert, key) != 1)
        return explain(ret_error, -EINVAL, "--tls-key %s does not belong to the certificate %s",
            files->key, files->cert);
    return 0;
}

static char *warn(const struct certificate_files *files, const X509 *cert)
{
    const char *what = NULL;
    char *text = NULL;

    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
        what = "is no longer valid";
    else if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0)
        what = "is not valid yet";
    if (what && asprintf(&text, "certificate %s %s: clients will refuse it", files->cert, what) < 0)
        return NULL;
    return text;
}

static int check(const struct certificate_files *files, const struct texts *texts,
    char **ret_warning, char **ret_error)
{
    X509 *cert = parse_cert(&texts->part[PART_CERT]);
    X509 *client_ca = files->client_ca ? parse_cert(&texts->part[PART_CLIENT_CA]) : NULL;
    bool is_locked;
    EVP_PKEY *key = parse_key(&texts->part[PART_KEY], &is_locked);
    int r;

    if (!cert)
        r = explain(ret_error, -EINVAL, "--tls-cert %s holds no certificate in PEM", files->cert);
    else if (files->client_ca && !client_ca)
        r = explain(
            ret_error, -EINVAL, "--tls-client-ca %s holds no certificate in PEM", files->client_ca);
    else
        r = check_key(files, cert, key, is_locked, ret_error);
    *ret_warning = r == 0 ? warn(files, cert) : NULL;
    EVP_PKEY_free(key);
    X509_free(client_ca);
    X509_free(cert);
    ERR_clear_error();
    return r;
}

/* ---- from the files into memory ---- */

static int read_part(
    const char *option, const char *path, bool is_secret, struct pem *ret_pem, char **ret_error)
{
    const char *why;
    int r = path ? pem_read(path, is_secret, ret_pem, &why) : 0;

    return r < 0 ? explain(ret_error, r, "%s %s %s (%s)", option, path, why, strerror(-r)) : 0;
}

static int read_files(
    const struct certificate_files *files, struct texts *ret_texts, char **ret_error)
{
    int r = read_part("--tls-cert", files->cert, false, &ret_texts->part[PART_CERT], ret_error);

    if (r == 0)
        r = read_part("--tls-key", files->key, true, &ret_texts->part[PART_KEY], ret_error);
    if (r == 0)
        r = read_part("--tls-client-ca", files->client_ca, false, &ret_texts->part[PART_CLIENT_CA],
            ret_error);
    return r;
}

static int put(int fd, const void *bytes, size_t n, off_t at)
{
    ssize_t written = pwrite(fd, bytes, n, at);

    return written < 0 ? -errno : (size_t)written == n ? 0 : -ENOSPC;
}

static int get(int fd, void *bytes, size_t n, off_t at)
{
    ssize_t got = pread(fd, bytes, n, at);

    return got < 0 ? -errno : (size_t)got == n ? 0 : -EIO;
}

/* Of the two places, both behind the word. */
static off_t place_at(uint64_t word)
{
    return (off_t)sizeof(word) + (word & 1 ? PLACE_BYTES : 0);
}

static int write_place(int fd, off_t at, const struct texts *texts)
{
    struct place_head head = {};

    for (int i = 0; i < N_PARTS; i++)
        head.text_bytes[i] = texts->part[i].text ? texts->part[i].len + 1 : 0;
    int r = put(fd, &head, sizeof(head), at);
    at += (off_t)sizeof(head);
    for (int i = 0; r == 0 && i < N_PARTS; i++) {
        r = put(fd, texts->part[i].text, head.text_bytes[i], at);
        at += (off_t)head.text_bytes[i];
    }
    return r;
}

int certificate_reread(
    const struct certificate_files *files, int fd, char **ret_warning, char **ret_error)
{
    struct texts texts = {};
    uint64_t word;
    int r = read_files(files, &texts, ret_error);

    *ret_warning = NULL;
    if (r == 0)
        r = check(files, &texts, ret_warning, ret_error);
    if (r == 0) {
        r = get(fd, &word, sizeof(word), 0);
        if (r == 0)
            r = write_place(fd, place_at(++word), &texts);
        if (r == 0)
            r = put(fd, &word, sizeof(word), 0);
        if (r < 0)
            explain(ret_error, r, "keeping the certificate in memory: %s", strerror(-r));
    }
    texts_deinit(&texts);
    return r;
}

int certificate_open(
    const struct certificate_files *files, int *ret_fd, char **ret_warning, char **ret_error)
{
    const uint64_t word = 0;
    int fd = memfd_create("sherd-certificate", MFD_CLOEXEC);

    if (fd < 0)
        return explain(ret_error, -errno, "keeping the certificate in memory: %m");
    int r = put(fd, &word, sizeof(word), 0);
    if (r < 0)
        explain(ret_error, r, "keeping the certificate in memory: %s", strerror(-r));
    else
        r = certificate_reread(files, fd, ret_warning, ret_error);
    if (r < 0)
        close(fd);
    else
        *ret_fd = fd;
    return r;
}

/* ---- the gateway's ---- */

static int get_text(int fd, off_t at, uint64_t bytes, struct pem *ret_pem)
{
    if (bytes == 0)
        return 0;
    if (bytes > PEM_MAX + 1)
        return -EIO;
    ret_pem->text = calloc(1, PEM_MAX + 1);
    return ret_pem->text ? get(fd, ret_pem->text, bytes, at) : -ENOMEM;
}

static int get_texts(int fd, struct texts *ret_texts)
{
    struct place_head head;
    uint64_t word;
    int r = get(fd, &word, sizeof(word), 0);
    off_t at = place_at(word);

    if (r == 0)
        r = get(fd, &head, sizeof(head), at);
    at += (off_t)sizeof(head);
    for (int i = 0; r == 0 && i < N_PARTS; i++) {
        r = get_text(fd, at, head.text_bytes[i], &ret_texts->part[i]);
        at += (off_t)head.text_bytes[i];
    }
    return r;
}

static int fill(nng_tls_config *config, const struct texts *texts)
{
    const struct pem *part = texts->part;
    int r = nng_tls_config_own_cert(config, part[PART_CERT].text, part[PART_KEY].text, NULL);

    if (r == 0 && part[PART_CLIENT_CA].text)
        r = nng_tls_config_ca_chain(config, part[PART_CLIENT_CA].text, NULL);
    if (r == 0 && part[PART_CLIENT_CA].text)
        r = nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED);
    return r == 0 || r == NNG_ENOMEM ? nng_errno(r) : -EINVAL;
}

int certificate_config(int fd, nng_tls_config **ret_config)
{
    nng_tls_config *config = NULL;
    struct texts texts = {};
    int r = get_texts(fd, &texts);

    if (r == 0)
        r = nng_errno(nng_tls_config_alloc(&config, NNG_TLS_MODE_SERVER));
    if (r == 0)
        r = fill(config, &texts);
    texts_deinit(&texts);
    if (r == 0)
        *ret_config = config;
    else if (config)
        nng_tls_config_free(config);
    return r;
}
