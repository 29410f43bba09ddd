/* SPDX-License-Identifier: MIT */
#include "tests/system/doom.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/waiter.h"
#include "runtime/atomic.h"

#define POINTS_MAX 128u

struct point {
    const char *what, *file;
    int line;
    uint64_t n_hits;
};

/* What the hook knows, which has no argument to get it from. */
static struct {
    const char *at;
    uint64_t n_left;
    int signum;
    uint32_t n_points;
    struct point points[POINTS_MAX];
} doom;

void doom_begin(const char *at, uint64_t hit, int signum)
{
    doom.at = at;
    doom.n_left = hit;
    doom.signum = signum;
}

/* Paths as seen from the root of the tree. */
static const char *from_root(const char *file)
{
    const char *found = strstr(file, "ipc/client/");

    return found ? found : file;
}

void doom_print(void)
{
    for (uint32_t i = 0; i < doom.n_points; i++)
        printf("%s %s:%d %llu\n", doom.points[i].what, doom.points[i].file, doom.points[i].line,
            (unsigned long long)doom.points[i].n_hits);
}

static void count(const char *what, const char *file, int line)
{
    for (uint32_t i = 0; i < doom.n_points; i++)
        if (doom.points[i].line == line && strcmp(doom.points[i].file, file) == 0 &&
            strcmp(doom.points[i].what, what) == 0) {
            doom.points[i].n_hits++;
            return;
        }
    if (doom.n_points == POINTS_MAX)
        abort();
    doom.points[doom.n_points++] =
        (struct point){.what = what, .file = file, .line = line, .n_hits = 1};
}

static void burn(const char *file, int line)
{
    char here[128];

    snprintf(here, sizeof(here), "%s:%d", file, line);
    if (strcmp(here, doom.at) != 0 || --doom.n_left > 0)
        return;
    dprintf(STDOUT_FILENO, "%lld\n", (long long)waiter_now_ns());
    raise(doom.signum);
}

void doom_point(const char *what, const char *file, int line)
{
    file = from_root(file);
    if (doom.at)
        burn(file, line);
    else
        count(what, file, line);
}

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    (void)address;
    if (access == ATOMIC_STORE || access == ATOMIC_RMW)
        doom_point("store", file, line);
}
