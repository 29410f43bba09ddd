/* SPDX-License-Identifier: MIT */
/*
 * With libdw, which reads the files that the process has mapped.
 */
#include "tools/symbols.h"

#include <elfutils/libdwfl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbols {
    Dwfl *dwfl;
    Dwfl_Callbacks callbacks;
    char *debuginfo_path;
};

struct symbols *symbols_of_process(pid_t pid)
{
    struct symbols *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->callbacks = (Dwfl_Callbacks){.find_elf = dwfl_linux_proc_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .debuginfo_path = &s->debuginfo_path};
    s->dwfl = dwfl_begin(&s->callbacks);
    if (!s->dwfl || dwfl_linux_proc_report(s->dwfl, pid) != 0 ||
        dwfl_report_end(s->dwfl, NULL, NULL) != 0) {
        symbols_free(s);
        return NULL;
    }
    return s;
}

void symbols_free(struct symbols *s)
{
    if (!s)
        return;
    if (s->dwfl)
        dwfl_end(s->dwfl);
    free(s);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *symbols_name(struct symbols *s, uint64_t address, char *buf, size_t size)
{
    Dwfl_Module *module = s ? dwfl_addrmodule(s->dwfl, address) : NULL;
    GElf_Off offset = 0;
    GElf_Sym symbol;
    const char *name =
        module ? dwfl_module_addrinfo(module, address, &offset, &symbol, NULL, NULL, NULL) : NULL;
    Dwfl_Line *line = name ? dwfl_module_getsrc(module, address) : NULL;
    int number = 0;
    const char *file = line ? dwfl_lineinfo(line, NULL, &number, NULL, NULL, NULL) : NULL;
    if (file)
        snprintf(buf, size, "%s (%s:%d)", name, base_name(file), number);
    else if (name && offset)
        snprintf(buf, size, "%s+0x%" PRIx64, name, (uint64_t)offset);
    else if (name)
        snprintf(buf, size, "%s", name);
    else
        snprintf(buf, size, "0x%" PRIx64, address);
    return buf;
}
