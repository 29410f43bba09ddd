/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * remote - the options of commands that also go to a gateway by its URL
 *
 * Use:         struct values { …; struct remote remote; };
 *              a table with REMOTE_OPTIONS(struct values, remote); remote_check(); remote_apply()
 * Concurrency: one thread
 */
#include "ipc/client/client.h"
#include "tools/command.h"

struct remote {
    const char *url; /* NULL: an instance here */
    const char *token_file;
    const char *tls_ca, *tls_name, *tls_cert, *tls_key;
};

#define REMOTE_OPTIONS(type, field)                                                                \
    {"url", 0, "URL",                                                                              \
        "the gateway's address, tls+tcp://HOST:PORT or tcp://HOST:PORT, instead of an instance "   \
        "here",                                                                                    \
        command_text, offsetof(type, field.url)},                                                  \
        {"token-file", 0, "FILE", "the secret that a gateway on TCP wants", command_text,          \
            offsetof(type, field.token_file)},                                                     \
        {"tls-ca", 0, "FILE",                                                                      \
            "with tls+tcp://, whom to believe: an authority's certificate "                        \
            "(default: $SHERD_TLS_CA)",                                                            \
            command_text, offsetof(type, field.tls_ca)},                                           \
        {"tls-name", 0, "NAME", "the name in the gateway's certificate (default: the URL's host)", \
            command_text, offsetof(type, field.tls_name)},                                         \
        {"tls-cert", 0, "FILE", "our own certificate, where the gateway wants one", command_text,  \
            offsetof(type, field.tls_cert)},                                                       \
    {                                                                                              \
        "tls-key", 0, "FILE", "its private key", command_text, offsetof(type, field.tls_key)       \
    }

/* EXIT_DONE, or EXIT_USAGE with the mistake printed. instance: as given, or NULL. */
int remote_check(const struct remote *remote, const struct command *command, const char *instance);

void remote_apply(const struct remote *remote, struct sherd_client_options *options);
