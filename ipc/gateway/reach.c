/* SPDX-License-Identifier: MIT */
/*
 * The port may be a name of /etc/services, as nng takes it: what getaddrinfo() makes of it here is
 * what it will make of it there. A URL of which nothing can be made gets no port; it is nng that
 * says so, when it is to listen there.
 */
#include "ipc/gateway/reach.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <nng/nng.h>
#include <sys/socket.h>

/* What nng reads to find the address of a name, where it listens on one. */
static int add_resolver(struct sandbox_paths *paths)
{
    static const char *const files[] = {"/etc/hosts", "/etc/host.conf", "/etc/resolv.conf",
        "/run/systemd/resolve", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services"};
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(files) / sizeof(files[0]); i++)
        r = sandbox_paths_add(paths, files[i], false);
    return r;
}

static void add_port_of_name(struct sandbox_paths *paths, const char *name)
{
    const struct addrinfo hints = {
        .ai_flags = AI_PASSIVE, .ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;

    if (getaddrinfo(NULL, name, &hints, &found) != 0)
        return;
    paths->binds_port = true;
    paths->port = ntohs(((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_port);
    freeaddrinfo(found);
}

static int add_port(struct sandbox_paths *paths, const char *listen_url)
{
    nng_url *url;
    int r = nng_url_parse(&url, listen_url);

    if (r == NNG_ENOMEM)
        return -ENOMEM;
    if (r != 0)
        return 0;
    add_port_of_name(paths, url->u_port[0] ? url->u_port : "0");
    nng_url_free(url);
    return 0;
}

int gateway_reach(const struct child_env *env, struct sandbox_paths *paths)
{
    int r = sandbox_paths_add(paths, env->runtime_dir, true); /* its socket */

    if (r == 0)
        r = sandbox_paths_add(paths, env->token_file, false);
    if (r == 0)
        r = sandbox_paths_add(paths, env->operator_token_file, false);
    if (r == 0 && env->listen_url)
        r = add_resolver(paths);
    if (r == 0 && env->listen_url)
        r = add_port(paths, env->listen_url);
    return r;
}
