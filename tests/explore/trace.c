/* SPDX-License-Identifier: MIT */
#include "tests/explore/inside.h"
/* One line a step on standard error: number, thread, place, access, value. */
#include <stdarg.h>
#include <stdio.h>

static bool enabled;

static const char *const op_names[ATOMIC_N_OPS] = {
#define X(name) #name,
    ATOMIC_OPS(X)
#undef X
};

void trace_enable(bool on)
{
    enabled = on;
}

bool trace_enabled(void)
{
    return enabled;
}

static void begin_line(void)
{
    fprintf(stderr, "# %4u %-12s ", run_steps(), run_name(run_self()));
}

void trace_access(const struct atomic_site *site, uint64_t value, const char *note, ...)
{
    va_list args;

    if (!enabled)
        return;
    begin_line();
    fprintf(stderr, "%s:%d %s: %s(%s)", site->file, site->line, site->function, op_names[site->op],
        site->address);
    if (site->op != ATOMIC_OP_full_fence)
        fprintf(stderr, " = 0x%llx", (unsigned long long)value);
    if (note) {
        fputs("  ", stderr);
        va_start(args, note);
        vfprintf(stderr, note, args);
        va_end(args);
    }
    fputc('\n', stderr);
}

void trace_note(const char *format, ...)
{
    va_list args;

    if (!enabled)
        return;
    begin_line();
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}
