/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_roots - the folders that the file service may reach, and which of them holds a path
 *
 * Why:         whoever may submit work must not thereby read, or write, all that the shard may.
 * Use:         supervisor: file_roots_add() for each --root; shard: file_roots_open()
 *              then roots->roots[i].fd and where file_roots_find() says that a path lies
 * Concurrency: constant once opened; any thread of the shard.
 * Lifetime:    a shard opens a set of its own, since a child closes all fds that it inherits.
 * Not here:    links and .., which only the kernel can follow (services/file_open.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file_root {
    char *name; /* as given: absolute, without // . .. and a slash at the end; "/" is "" */
    char *real; /* without links, else likewise */
    bool writable;
    bool is_mixed; /* writable, and a read-only root lies below it */
    int fd; /* O_PATH; in the supervisor's set, or where it can't be opened any more: -errno */
};

struct file_roots {
    struct file_root *roots;
    struct file_mounts *mounts; /* what lies below them; NULL in the supervisor's set */
    uint32_t n_roots;
    int slash_fd; /* "/", to look for links that lead into a root; likewise */
};

/* Adds "DIR", "DIR:ro" or "DIR:rw"; *roots may be NULL, then it is made. Given twice, the last
 * counts. 0, or -errno with a text in ret_error: DIR does not exist, is no folder, or can't be
 * entered. */
int file_roots_add(struct file_roots **roots, const char *spec, char **ret_error);

/* A copy with each folder opened. config may be NULL: no roots. 0, -ENOMEM. A root that is gone
 * meanwhile is no error; its paths are. */
int file_roots_open(const struct file_roots *config, struct file_roots **ret_roots);

/* NULL does nothing. */
void file_roots_free(struct file_roots *roots);

/* The innermost root whose name, or real name, an absolute path begins with, and in *ret_rest what
 * of the path comes after it, without slashes before it, maybe "". Links and .. are not looked
 * into. NULL: there is none. */
const struct file_root *file_roots_find(
    const struct file_roots *roots, const char *path, const char **ret_rest);

/* "/usr, /etc:rw" for messages; malloc'ed, NULL: no memory. */
char *file_roots_list(const struct file_roots *roots);
