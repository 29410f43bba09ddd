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

struct symbols *symbols_of_file(
    const char *path, uint64_t base, const uint8_t *build_id, size_t n_id)
{
    (void)build_id;
    (void)n_id;
    (void)path;
    (void)base;
    return NULL;
}

uint32_t symbols_backtrace(struct symbols *s, uint32_t machine, const uint64_t *registers,
    uint32_t n_registers, symbols_read_fn *read, symbols_frame_fn *frame, void *opaque)
{
    (void)s;
    (void)machine;
    (void)registers;
    (void)n_registers;
    (void)read;
    (void)frame;
    (void)opaque;
    return 0;
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

bool symbols_string(struct symbols *s, uint64_t address, char *ret_text, size_t size)
{
    (void)s;
    (void)address;
    if (size)
        *ret_text = '\0';
    return false;
}
