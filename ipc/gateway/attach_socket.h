/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_socket - the socket at which local clients attach: RUNTIME/attach
 *
 * Why:         it is opened before the first fork and kept by the supervisor, so that clients which
 *              connect while there is no gateway wait instead of being refused.
 * Use:         struct attach_access access; attach_access_parse(); then, with the runtime directory
 *              claimed, attach_socket_open()
 * Concurrency: the supervisor, before the first fork
 * Lifetime:    the file stays after the instance's end, and the next one of that name replaces it
 */
#include <stdbool.h>
#include <sys/types.h>

/* Who gets in: by the mode of the socket, its group, and the directory's x bits, which follow. */
struct attach_access {
    mode_t mode;
    bool has_group;
    gid_t gid;
};

/* group: a name or a number; NULL: none. mode: octal; NULL: 0600, or 0660 with a group. 0, or
 * -EINVAL or -ENOENT with a text. */
int attach_access_parse(
    const char *group, const char *mode, struct attach_access *ret_access, char **ret_error);

/* Opens it in the directory; with a mode that lets others in the directory gets the x bits for it,
 * and so does the one above it where that is Sherd's own. 0 with a listener, or -errno with a
 * text. */
int attach_socket_open(
    const char *runtime_dir, const struct attach_access *access, int *ret_fd, char **ret_error);
