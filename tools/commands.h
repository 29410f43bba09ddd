/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * commands - which subcommands there are, and which program runs each
 *
 * Why:         `sherd` is the supervisor's image and stays small, so it runs `run` itself and hands
 *              everything else to `sherd-tools`. Both look names up in these tables.
 * Use:         COMMANDS(X), with X(name, summary)
 */

/* In sherd. */
#define COMMANDS_SHERD(X) X(run, "run an instance: supervisor, gateway and shards")

/* In sherd-tools. */
#define COMMANDS_TOOLS(X)                                                            \
    X(status, "show an instance's processes")                                        \
    X(queues, "show who queued how much for whom")                                   \
    X(co, "show every coroutine, and what it waits for")                             \
    X(audit, "count again whether all that was submitted has ended or is under way") \
    X(postmortem, "show what the dead processes of an instance left")                \
    X(submit, "have the shards do something")                                        \
    X(bench, "load an instance, and show how fast requests end, and how")            \
    X(drain, "take nothing new, finish what is in flight, stay up")                  \
    X(restart, "restart shards, one after the other, without a request failed")      \
    X(stop, "finish what is in flight, then end an instance")

#define COMMANDS(X) COMMANDS_SHERD(X) COMMANDS_TOOLS(X)

/* Each is X_command(). argv[0] is the command's name. Returns the exit status. */
#define X(name, summary) int name##_command(int argc, char **argv);
COMMANDS(X)
#undef X

/* Exit statuses of every command. */
#define EXIT_DONE        0
#define EXIT_WORK_FAILED 1
#define EXIT_USAGE       2
