/* SPDX-License-Identifier: MIT */
/*
 * The socket has no rights for anybody until it has its group and mode: the file's rights are those
 * of the socket at bind().
 */
#include "ipc/gateway/attach_socket.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/attach.h"
#include "shard/explain.h"

#define BACKLOG \
    4096 /* clients that come while there is no gateway; net.core.somaxconn may be less */

/* ---- who gets in ---- */

static int find_group(const char *text, gid_t *ret_gid, char **ret_error)
{
    char *end;
    unsigned long number;
    const struct group *group;

    errno = 0;
    number = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && number < UINT32_MAX) {
        *ret_gid = (gid_t)number;
        return 0;
    }
    errno = 0;
    group = getgrnam(text);
    if (!group)
        return explain(ret_error, errno ? -errno : -ENOENT, "group %s: %s", text,
            errno ? strerror(errno) : "there is none of that name");
    *ret_gid = group->gr_gid;
    return 0;
}

static int parse_mode(const char *text, mode_t *ret_mode, char **ret_error)
{
    char *end;
    unsigned long mode = strtoul(text, &end, 8);

    if (text[0] < '0' || text[0] > '7' || *end || mode > 0777 || (mode & 0600) != 0600)
        return explain(ret_error, -EINVAL,
            "mode %s of the socket for clients: an octal number from 0600 to 0777, as 0660", text);
    *ret_mode = (mode_t)mode;
    return 0;
}

int attach_access_parse(
    const char *group, const char *mode, struct attach_access *ret_access, char **ret_error)
{
    struct attach_access access = {.mode = group ? 0660 : 0600, .has_group = group != NULL};
    int r = 0;

    if (group)
        r = find_group(group, &access.gid, ret_error);
    if (r == 0 && mode)
        r = parse_mode(mode, &access.mode, ret_error);
    if (r == 0)
        *ret_access = access;
    return r;
}

/* ---- the directory ---- */

static mode_t way_in(const struct attach_access *access)
{
    return (access->mode & 060 ? 010 : 0) | (access->mode & 06 ? 01 : 0);
}

/* Gives dir the x bits that are missing. */
static int open_way(const char *dir, mode_t bits, char **ret_error)
{
    struct stat st;

    if (stat(dir, &st) < 0)
        return explain(ret_error, -errno, "runtime directory %s: %m", dir);
    if ((st.st_mode & bits) != bits && chmod(dir, (st.st_mode & 07777) | bits) < 0)
        return explain(
            ret_error, -errno, "runtime directory %s can't be opened to clients: %m", dir);
    return 0;
}

/* Who is let in has to come through the directory, but sees nothing in it. */
static int let_in(const char *runtime_dir, const struct attach_access *access, char **ret_error)
{
    mode_t bits = way_in(access);
    char *copy;
    int r;

    if (access->has_group && chown(runtime_dir, (uid_t)-1, access->gid) < 0)
        return explain(ret_error, -errno,
            "runtime directory %s for group %u: %m; who runs the instance has to be in it",
            runtime_dir, (unsigned)access->gid);
    if (!bits)
        return 0;
    r = open_way(runtime_dir, bits, ret_error);
    if (r < 0 || getenv("SHERD_RUNTIME_DIR"))
        return r; /* what is above is whoever's who named it */
    copy = strdup(runtime_dir);
    if (!copy)
        return -ENOMEM;
    r = open_way(dirname(copy), 011, ret_error);
    free(copy);
    return r;
}

/* ---- the socket ---- */

static int bind_to(int fd, const char *path, char **ret_error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return explain(ret_error, -ENAMETOOLONG,
            "%s is too long for a socket: %zu bytes, and %zu are the most; set SHERD_RUNTIME_DIR "
            "to "
            "a folder of your own with a short name",
            path, strlen(path), sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (unlink(path) < 0 && errno != ENOENT)
        return explain(ret_error, -errno, "socket %s: what is there can't be removed: %m", path);
    if (fchmod(fd, 0) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return explain(ret_error, -errno, "socket %s: %m", path);
    return 0;
}

static int give_rights(const char *path, const struct attach_access *access, char **ret_error)
{
    if (access->has_group && lchown(path, (uid_t)-1, access->gid) < 0)
        return explain(
            ret_error, -errno, "socket %s for group %u: %m", path, (unsigned)access->gid);
    if (chmod(path, access->mode) < 0)
        return explain(ret_error, -errno, "socket %s: %m", path);
    return 0;
}

static int open_at(
    const char *path, const struct attach_access *access, int *ret_fd, char **ret_error)
{
    int r, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return explain(ret_error, -errno, "socket %s: %m", path);
    r = bind_to(fd, path, ret_error);
    if (r == 0)
        r = give_rights(path, access, ret_error);
    if (r == 0 && listen(fd, BACKLOG) < 0)
        r = explain(ret_error, -errno, "socket %s: %m", path);
    if (r < 0)
        close(fd);
    else
        *ret_fd = fd;
    return r;
}

int attach_socket_open(
    const char *runtime_dir, const struct attach_access *access, int *ret_fd, char **ret_error)
{
    char *path = NULL;
    int r = let_in(runtime_dir, access, ret_error);

    if (r < 0)
        return r;
    if (asprintf(&path, "%s/" ATTACH_SOCKET, runtime_dir) < 0)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    r = open_at(path, access, ret_fd, ret_error);
    free(path);
    return r;
}
