/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * path - names of files as they are typed, sent and printed
 *
 * Concurrency: one thread
 */
#include <stddef.h>

/*
 * The absolute form of a name, for free(): the current directory before what is relative. "./" and
 * "../" in front of it are resolved, which needs no file system since that directory's path has no
 * links; all else is left to whoever opens it. NULL with errno.
 */
char *path_absolute(const char *name);

/*
 * Writes into out (room for 2 * strlen(name) + 1) the name as sha256sum prints it. Returns 1 where
 * it had to be escaped, which a backslash in front of the line says, else 0.
 */
int path_escape_checksum(const char *name, char *out);
