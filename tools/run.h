/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * run - `sherd run`: an instance, in the foreground
 *
 * Use:         from main(), which does nothing after it: every process of the instance returns from
 *              here or ends in here
 * Not here:    options and configuration file (tools/run_options.h), supervising
 *              (shard/supervisor.h)
 */

/* argv[0] is "run". Returns the exit status. */
int run_command(int argc, char **argv);
