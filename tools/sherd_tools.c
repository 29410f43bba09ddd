/* SPDX-License-Identifier: MIT */
/*
 * sherd-tools - the subcommands that look at an instance or talk to one. `sherd` runs it, with its
 * own arguments.
 */
#include <stdio.h>
#include <string.h>

#include "tools/commands.h"

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
#define X(id, name, summary)    \
    if (!strcmp(command, name)) \
        return id##_command(argc - 1, argv + 1);
    COMMANDS_TOOLS(X)
#undef X
    fprintf(stderr, "sherd-tools: this program is run by sherd; see sherd --help\n");
    return EXIT_USAGE;
}
