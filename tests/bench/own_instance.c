/* SPDX-License-Identifier: MIT */
#include "tests/bench/own_instance.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPTIONS_MAX 16u

static void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static void run(const char *sherd, const char *const *options)
{
    const char *argv[OPTIONS_MAX + 5] = {"sherd", "run", "--instance", OWN_INSTANCE};
    int null_fd = open("/dev/null", O_RDWR);

    for (uint32_t i = 0; options[i] && i < OPTIONS_MAX; i++)
        argv[4 + i] = options[i];
    dup2(null_fd, STDERR_FILENO);
    execv(sherd, (char *const *)(uintptr_t)argv);
    _exit(127);
}

void own_instance_begin(struct own_instance *in, const char *sherd, const char *const *options)
{
    strcpy(in->directory, "/tmp/sherd-bench-XXXXXX");
    if (!mkdtemp(in->directory))
        die(in->directory);
    setenv("SHERD_RUNTIME_DIR", in->directory, 1);
    in->supervisor = fork();
    if (in->supervisor < 0)
        die("fork");
    if (in->supervisor == 0)
        run(sherd, options);
}

/* One that ended in order leaves its lock file, and the folders to it. */
void own_instance_end(struct own_instance *in)
{
    static const char *const left[] = {"/" OWN_INSTANCE "/lock", ("/" OWN_INSTANCE), ""};
    char path[PATH_MAX];

    kill(in->supervisor, SIGTERM);
    waitpid(in->supervisor, NULL, 0);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        snprintf(path, sizeof path, "%s%s", in->directory, left[i]);
        remove(path);
    }
}
