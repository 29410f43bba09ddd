/* SPDX-License-Identifier: MIT */
/*
 * sherd - the one command. `run` is in this program; the other subcommands are in sherd-tools,
 * whose libraries (nng with its threads among them) have no place in an image that forks shards.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/build_config.h"
#include "tools/command.h"
#include "tools/commands.h"

static int print_help(void)
{
    printf("Usage: sherd COMMAND [OPTION...] [ARGUMENT...]\n\n"
           "A multi-process, sharded I/O runtime.\n\nCommands:\n");
#define X(id, name, summary) printf("  %-12s  %s\n", name, summary);
    COMMANDS(X)
#undef X
    printf("\nExamples:\n"
           "  sherd run --shards 2 --instance demo --root /usr &\n"
           "      start an instance that may read below /usr\n"
           "  sherd submit --instance demo file.sha256 /usr/bin/*\n"
           "      hash files in its shards\n"
           "  sherd stop --instance demo\n"
           "      end it\n"
           "\nOptions of a command: sherd COMMAND --help. Version: sherd --version\n"
           "Exit status: 0 done, 1 the work failed, 2 wrong usage. More: man sherd\n");
    return command_finish_output();
}

static int refuse(const char *name)
{
    static const char known[] =
#define X(id, name, summary) " " name
        COMMANDS(X)
#undef X
        ;
    command_error("no such command: %s; there are:%s; see sherd --help", name, known);
    return EXIT_USAGE;
}

/* The folder this program is in, links followed. NULL: unknown. For free(). */
static char *own_folder(void)
{
    char *path = realpath("/proc/self/exe", NULL);
    char *slash = path ? strrchr(path, '/') : NULL;
    if (!slash) {
        free(path);
        return NULL;
    }
    *slash = 0;
    return path;
}

/* Replaces this program, or returns where format, filled in, names no program. */
static void try_exec(const char *folder, const char *file, char **argv)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, file) < 0)
        return;
    execv(path, argv);
    free(path);
}

/* In a build folder the two lie side by side. Installed they are prefix/bin/sherd and
 * prefix/libexec/sherd/sherd-tools, wherever the prefix was moved to since. */
static int exec_tools(char **argv)
{
    char *folder = own_folder();
    if (folder) {
        try_exec(folder, "sherd-tools", argv);
        try_exec(folder, SHERD_LIBEXEC_FROM_BIN "/sherd-tools", argv);
        free(folder);
    }
    try_exec(SHERD_LIBEXECDIR, "sherd-tools", argv);
    return command_error("cannot run %s: sherd-tools is neither beside sherd nor in %s: %s",
        argv[1], SHERD_LIBEXECDIR, strerror(errno));
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
        return print_help();
    if (!strcmp(name, "--version")) {
        puts("sherd " SHERD_VERSION);
        return command_finish_output();
    }
    if (!*name) {
        fprintf(stderr, "sherd: which command? See sherd --help\n");
        return EXIT_USAGE;
    }
#define X(id, command, summary) \
    if (!strcmp(name, command)) \
        return id##_command(argc - 1, argv + 1);
    COMMANDS_SHERD(X)
#undef X
#define X(id, command, summary) \
    if (!strcmp(name, command)) \
        return exec_tools(argv);
    COMMANDS_TOOLS(X)
#undef X
    return refuse(name);
}
