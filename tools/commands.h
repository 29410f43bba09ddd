/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * commands - which subcommands there are, and which program runs each
 *
 * Why:         `sherd` is the supervisor's image and stays small, so it runs `run` itself and hands
 *              everything else to `sherd-tools`. Both look names up in these tables.
 * Use:         COMMANDS(X), with X(id, name, summary)
 */

/* In sherd. */
#define COMMANDS_SHERD(X) X(run, "run", "run an instance: supervisor, gateway and shards")

/* In sherd-tools. */
#define COMMANDS_TOOLS(X)                                                                     \
    X(status, "status", "show an instance's processes")                                       \
    X(queues, "queues", "show who queued how much for whom")                                  \
    X(services, "services", "show what services count, where they listen, what they keep")    \
    X(clients, "clients", "show the local clients: who they are, their requests")             \
    X(co, "co", "show every coroutine, and what it waits for")                                \
    X(audit, "audit", "count again whether all that was submitted has ended or is under way") \
    X(postmortem, "postmortem", "show what the dead processes of an instance left")           \
    X(dead_letters, "dead-letters", "show requests that crashed their shards three times")    \
    X(submit, "submit", "have the shards do something")                                       \
    X(bench, "bench", "load an instance, and show how fast requests end, and how")            \
    X(drain, "drain", "take nothing new, finish what is in flight, stay up")                  \
    X(restart, "restart", "restart shards, one after the other, without a request failed")    \
    X(stop, "stop", "finish what is in flight, then end an instance")

#define COMMANDS(X) COMMANDS_SHERD(X) COMMANDS_TOOLS(X)

/* Each is id_command(). argv[0] is the command's name. Returns the exit status. */
#define X(id, name, summary) int id##_command(int argc, char **argv);
COMMANDS(X)
#undef X

/* Exit statuses of every command. */
#define EXIT_DONE        0
#define EXIT_WORK_FAILED 1
#define EXIT_USAGE       2
