/* SPDX-License-Identifier: MIT */
#include "tools/remote.h"

#include <string.h>

#include "tools/commands.h"

int remote_check(const struct remote *remote, const struct command *command, const char *instance)
{
    bool has_tls = remote->url && strncmp(remote->url, "tls+tcp://", 10) == 0;

    if (remote->url && instance)
        return command_usage(command, "--url and --instance exclude each other");
    if (!has_tls && (remote->tls_ca || remote->tls_name || remote->tls_cert || remote->tls_key))
        return command_usage(
            command, "--tls-… options are of use with --url tls+tcp://HOST:PORT only");
    if (!remote->tls_cert != !remote->tls_key)
        return command_usage(command, "--tls-cert and --tls-key go together");
    return EXIT_DONE;
}

void remote_apply(const struct remote *remote, struct sherd_client_options *options)
{
    options->url = remote->url;
    options->token_file = remote->token_file;
    options->tls_ca_file = remote->tls_ca;
    options->tls_name = remote->tls_name;
    options->tls_cert_file = remote->tls_cert;
    options->tls_key_file = remote->tls_key;
}
