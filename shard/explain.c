/* SPDX-License-Identifier: MIT */
#include "shard/explain.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

int explain(char **ret_error, int error, const char *format, ...)
{
    va_list args;

    if (!ret_error)
        return error;
    va_start(args, format);
    if (vasprintf(ret_error, format, args) < 0)
        *ret_error = NULL;
    va_end(args);
    return error;
}
