/* SPDX-License-Identifier: MIT */
#include "runtime/bug.h"
/*
 * The line goes out by one write(), so that two processes that fail together do not mix theirs, and
 * from a buffer on the stack, because the heap may be what is broken; a longer one is cut.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void bug(const char *format, ...)
{
    static const char prefix[] = "sherd: bug: ";
    char line[512];
    size_t used = sizeof prefix - 1;
    va_list args;

    memcpy(line, prefix, used);
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0) {
        size_t room = sizeof line - used - 2;
        used += (size_t)n < room ? (size_t)n : room;
    }
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* where it can't be told, the abort tells enough */
    abort();
}
