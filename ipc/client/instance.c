/* SPDX-License-Identifier: MIT */
#include "ipc/client/instance.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t len = strlen(name);

    if (len == 0 || len > INSTANCE_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (; *name; name++)
        if (!strchr(letters, *name) && !strchr("0123456789-_.", *name))
            return false;
    return true;
}

/* A folder that anybody could have made must be our own: who owns the socket gets the requests. */
static int check_owner(const char *dir)
{
    struct stat st;

    if (lstat(dir, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    return S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022) ? 0 : -EACCES;
}

static int find_parent(char **ret_path)
{
    const char *own = getenv("SHERD_RUNTIME_DIR");
    const char *session = getenv("XDG_RUNTIME_DIR");
    int n;

    if (own && own[0])
        n = asprintf(ret_path, "%s", own);
    else if (session && session[0] == '/')
        n = asprintf(ret_path, "%s/sherd", session);
    else if (geteuid() == 0)
        n = asprintf(ret_path, "/run/sherd");
    else
        n = asprintf(ret_path, "/tmp/sherd-%u", (unsigned)geteuid());
    if (n < 0)
        return -ENOMEM;
    int r = strncmp(*ret_path, "/tmp/", 5) == 0 && !(own && own[0]) ? check_owner(*ret_path) : 0;
    if (r < 0)
        free(*ret_path);
    return r;
}

int instance_socket_path(const char *name, const char *socket, char **ret_path)
{
    char *parent, *path;

    if (!name)
        name = "default";
    if (!is_name(name))
        return -EINVAL;
    int r = find_parent(&parent);
    if (r < 0)
        return r;
    int len = asprintf(&path, "%s/%s/%s", parent, name, socket);
    free(parent);
    if (len < 0)
        return -ENOMEM;
    if ((size_t)len >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        free(path);
        return -ENAMETOOLONG;
    }
    *ret_path = path;
    return 0;
}

bool instance_answers(const char *name, const char *socket_name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char *path;

    if (instance_socket_path(name, socket_name, &path) < 0)
        return false;
    strcpy(address.sun_path, path); /* it fits: instance_socket_path() has looked */
    free(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool answers = fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
    if (fd >= 0)
        close(fd);
    return answers;
}
