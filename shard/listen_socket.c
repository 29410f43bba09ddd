/* SPDX-License-Identifier: MIT */
#include "shard/listen_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "shard/explain.h"

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    };
    socklen_t len;
};

/* ---- reading an address ---- */

static int refuse(const char *text, char **ret_error)
{
    return explain(ret_error, -EINVAL,
        "%s is no address to listen at: tcp://127.0.0.1:PORT, tcp://[::1]:PORT or unix:///PATH",
        text);
}

static bool parse_port(const char *text, in_port_t *ret)
{
    char *end;
    unsigned long port;

    if (text[0] < '0' || text[0] > '9')
        return false;
    port = strtoul(text, &end, 10);
    *ret = htons((uint16_t)port);
    return *end == '\0' && port <= UINT16_MAX;
}

/* "127.0.0.1:80" or "[::1]:80" */
static bool parse_tcp(const char *text, struct address *ret)
{
    const char *colon = strrchr(text, ':');
    char host[INET6_ADDRSTRLEN + 2];
    size_t len = colon ? (size_t)(colon - text) : 0;

    if (len == 0 || len >= sizeof(host))
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        *ret = (struct address){.v6.sin6_family = AF_INET6, .len = sizeof(ret->v6)};
        return inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1 &&
               parse_port(colon + 1, &ret->v6.sin6_port);
    }
    *ret = (struct address){.v4.sin_family = AF_INET, .len = sizeof(ret->v4)};
    return inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1 &&
           parse_port(colon + 1, &ret->v4.sin_port);
}

/* What follows the prefix; NULL: it has another. */
static const char *after(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return NULL;
    return text;
}

static int parse(const char *text, struct address *ret, char **ret_error)
{
    const char *tcp = after(text, "tcp://"), *path = after(text, "unix://");
    size_t len = path ? strlen(path) : 0;

    if (tcp)
        return parse_tcp(tcp, ret) ? 0 : refuse(text, ret_error);
    if (!path || path[0] != '/')
        return refuse(text, ret_error);
    if (len >= sizeof(ret->path.sun_path))
        return explain(ret_error, -ENAMETOOLONG, "%s: the path of a socket has at most %zu bytes",
            text, sizeof(ret->path.sun_path) - 1);
    *ret = (struct address){.path.sun_family = AF_UNIX, .len = sizeof(ret->path)};
    memcpy(ret->path.sun_path, path, len + 1);
    return 0;
}

/* ---- opening ---- */

static int new_socket(const struct address *at)
{
    int one = 1, fd = socket(at->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || at->any.sa_family == AF_UNIX)
        return fd < 0 ? -errno : fd;
    /* Connections inherit the last two: each answer leaves at once, and who is gone is noticed. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0 ||
        (at->any.sa_family == AF_INET6 &&
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* Whether the port is anybody's: who asks to share one is let, by whoever asked for it too. For
 * port 0 it finds one: a socket that was given its port by the kernel would lose it in a
 * shutdown(). */
static int probe(struct address *at)
{
    socklen_t len = at->len;
    int r, fd = new_socket(at);

    if (fd < 0)
        return fd;
    r = bind(fd, &at->any, at->len) < 0 || getsockname(fd, &at->any, &len) < 0 ? -errno : 0;
    close(fd);
    return r;
}

int listen_socket_again(int fd, uint32_t backlog)
{
    return listen(fd, backlog && backlog < INT_MAX ? (int)backlog : INT_MAX) < 0 ? -errno : 0;
}

static int open_one(struct address *at, bool shares_port, uint32_t backlog)
{
    int one = 1, r = 0, fd = new_socket(at);
    socklen_t len = at->len;

    if (fd < 0)
        return fd;
    if (at->any.sa_family == AF_UNIX && fchmod(fd, 0600) < 0) /* what bind() makes is so at once */
        r = -errno;
    else if (shares_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0)
        r = -errno;
    else if (bind(fd, &at->any, at->len) < 0 || listen_socket_again(fd, backlog) < 0)
        r = -errno;
    else if (at->any.sa_family != AF_UNIX && getsockname(fd, &at->any, &len) < 0)
        r = -errno; /* the next ones get the port that the kernel chose for the first */
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

/* Removes a socket that its listener left behind when it died. */
static void remove_stale(const struct address *at)
{
    struct stat st;
    int fd;

    if (lstat(at->path.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, &at->any, at->len) < 0 && errno == ECONNREFUSED)
        unlink(at->path.sun_path);
    close(fd);
}

/* NULL: no memory. */
static char *text_of(const struct address *at)
{
    char host[INET6_ADDRSTRLEN], *text;
    int n;

    if (at->any.sa_family == AF_UNIX)
        n = asprintf(&text, "unix://%s", at->path.sun_path);
    else if (at->any.sa_family == AF_INET6)
        n = asprintf(&text, "tcp://[%s]:%u",
            inet_ntop(AF_INET6, &at->v6.sin6_addr, host, sizeof(host)), ntohs(at->v6.sin6_port));
    else
        n = asprintf(&text, "tcp://%s:%u", inet_ntop(AF_INET, &at->v4.sin_addr, host, sizeof(host)),
            ntohs(at->v4.sin_port));
    return n < 0 ? NULL : text;
}

static void undo(struct listen_socket *opened)
{
    for (uint32_t i = 0; i < opened->n_fds; i++)
        close(opened->fds[i]);
    if (opened->path && opened->n_fds)
        unlink(opened->path);
    free(opened->fds);
    free(opened->address);
    free(opened->path);
}

static int open_all(struct address *at, uint32_t n, uint32_t backlog, struct listen_socket *opened)
{
    bool shares_port = n > 1;
    int r = shares_port ? probe(at) : 0;

    for (uint32_t i = 0; r >= 0 && i < n; i++) {
        r = open_one(at, shares_port, backlog);
        if (r >= 0)
            opened->fds[opened->n_fds++] = r;
    }
    if (r < 0)
        return r;
    opened->address = text_of(at);
    return opened->address ? 0 : -ENOMEM;
}

int listen_socket_open(
    const char *address, uint32_t n, uint32_t backlog, struct listen_socket *ret, char **ret_error)
{
    struct listen_socket opened = {0};
    struct address at;
    bool is_unix;
    int r = parse(address, &at, ret_error);

    if (r < 0)
        return r;
    is_unix = at.any.sa_family == AF_UNIX;
    n = is_unix ? 1 : n;
    opened.fds = calloc(n, sizeof(*opened.fds));
    opened.path = is_unix ? strdup(at.path.sun_path) : NULL;
    if (is_unix)
        remove_stale(&at);
    r = !opened.fds || (is_unix && !opened.path) ? -ENOMEM : open_all(&at, n, backlog, &opened);
    if (r < 0) {
        undo(&opened);
        return explain(ret_error, r, "can't listen at %s: %s", address, strerror(-r));
    }
    *ret = opened;
    return 0;
}
