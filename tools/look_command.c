/* SPDX-License-Identifier: MIT */
#include "tools/look_command.h"

#include <stddef.h>

#include "tools/commands.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    bool json;
};

const struct command_option look_command_options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

int look_command(const struct command *command, int argc, char **argv, look_print_fn *print_people,
    look_print_fn *print_json)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS};
    struct look look;
    char **operands;
    int status, n = command_parse(command, argc, argv, &values, &operands);

    if (n < 0)
        return command_exit_status(n);
    if (look_open(values.instance, values.wait_ns, LOOK_THERE_OR_DEAD, &look))
        return EXIT_WORK_FAILED;
    status = values.json ? print_json(&look) : print_people(&look);
    look_close(&look);
    return status;
}
