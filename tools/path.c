/* SPDX-License-Identifier: MIT */
#include "tools/path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Takes "./" or "../" (or one that is all that is left) off. Returns 0: nothing to take, 1 or 2:
 * how many dots it had. */
static int take_dots(const char **name)
{
    for (int n = 1; n <= 2; n++) {
        if (strncmp(*name, "..", (size_t)n))
            continue;
        const char *rest = *name + n;
        if (*rest && *rest != '/')
            continue;
        while (*rest == '/')
            rest++;
        *name = rest;
        return n;
    }
    return 0;
}

char *path_absolute(const char *name)
{
    if (*name == '/')
        return strdup(name);
    char *folder = getcwd(NULL, 0);
    if (!folder)
        return NULL;
    for (int dots; (dots = take_dots(&name));) {
        char *slash = dots == 2 ? strrchr(folder, '/') : NULL;
        if (slash)
            *slash = 0;
    }
    char *path = NULL;
    const char *slash = *folder && !strcmp(folder, "/") ? "" : "/";
    if (asprintf(&path, "%s%s%s", folder, slash, name) < 0)
        path = NULL;
    free(folder);
    return path;
}

int path_escape_checksum(const char *name, char *out)
{
    int is_escaped = 0;
    for (; *name; name++) {
        const char *letter = *name == '\n'   ? "n"
                             : *name == '\r' ? "r"
                             : *name == '\\' ? "\\"
                                             : NULL;
        if (letter) {
            *out++ = '\\';
            is_escaped = 1;
        }
        *out++ = letter ? *letter : *name;
    }
    *out = 0;
    return is_escaped;
}
