/* SPDX-License-Identifier: MIT */
/*
 * A configuration file, as `sherd run --config` reads it at the start and again at SIGHUP. It is
 * taken or refused with a message, and nothing of it is kept.
 *
 * Input: the file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tools/run_options.h"

static int file_fd = -1;
static char path[32];

static void open_file(void)
{
    file_fd = memfd_create("configuration", MFD_CLOEXEC);
    assert(file_fd >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file_fd);
    stderr = fopen("/dev/null", "we"); /* sanitizers write to the fd */
    assert(stderr);
}

static int take_roots(void *opaque, const struct command_list *roots, char **ret_error)
{
    (void)opaque;
    (void)ret_error;
    for (size_t i = 0; i < roots->n; i++)
        assert(roots->items[i]);
    return 0;
}

void fuzz_one(const uint8_t *data, size_t len)
{
    char *argv[] = {(char *)"run", (char *)"--config", path, NULL};
    struct run_options options;
    char *refused = NULL, *error = NULL;

    if (file_fd < 0)
        open_file();
    assert(ftruncate(file_fd, 0) == 0 && pwrite(file_fd, data, len, 0) == (ssize_t)len);
    if (run_options_parse(3, argv, &options) < 0)
        return;
    for (size_t i = 0; i < options.settings.n; i++)
        assert(strchr(options.settings.items[i], '=')); /* what run.c takes for granted */
    assert(run_options_reload(&options, take_roots, NULL, &refused, &error));
    assert(!refused && !error);
    run_options_deinit(&options);
}
