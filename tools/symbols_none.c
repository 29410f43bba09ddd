/* SPDX-License-Identifier: MIT */
/*
 * Without libdw: addresses as they are.
 */
#include "tools/symbols.h"

#include <inttypes.h>
#include <stdio.h>

struct symbols *symbols_of_process(pid_t pid)
{
    (void)pid;
    return NULL;
}

void symbols_free(struct symbols *s)
{
    (void)s;
}

const char *symbols_name(struct symbols *s, uint64_t address, char *buf, size_t size)
{
    (void)s;
    snprintf(buf, size, "0x%" PRIx64, address);
    return buf;
}
