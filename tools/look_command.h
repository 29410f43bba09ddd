/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * look_command - a command that reads an instance's segment and prints it, for people or as JSON
 *
 * Why:         what such commands take on their line, and how they end, is the same for each.
 * Use:         struct command with .options = look_command_options; return
 *              look_command(&command, argc, argv, print_people, print_json);
 * Concurrency: a command's main thread
 * Not here:    those with options of their own (tools/co.c)
 */
#include "tools/command.h"
#include "tools/look.h"

extern const struct command_option look_command_options[];

/* Each prints, and returns an exit status. */
typedef int look_print_fn(const struct look *look);

/* Returns the exit status. */
int look_command(const struct command *command, int argc, char **argv, look_print_fn *print_people,
    look_print_fn *print_json);
