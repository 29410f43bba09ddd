/* SPDX-License-Identifier: MIT */
/*
 * tables - fills the tables of the manual pages from those of the code
 *
 * Copies standard input to standard output. A line @NAME@ becomes a list with an entry for each row
 * of that X-macro table, in scdoc's form.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/instruments.h"
#include "runtime/probe.h"
#include "shard/arena.h"
#include "shard/audit.h"
#include "tools/pair_figures.h"

static void entry(const char *term, const char *text)
{
    printf("*%s*\n\t%s\n\n", term, text);
}

static const char *const state_help[] = {
    [PEER_STARTING] = "forked, and not ready yet",
    [PEER_UP] = "does what it is there for",
    [PEER_DRAINING] = "takes nothing new from clients, finishes what it has",
    [PEER_DYING] = "dead; its replacement is on its way",
    [PEER_FAILED] = "given up: it crashed again and again",
    [PEER_RESTARTING] = "finishes what it has, by order; new calls wait for its replacement",
    [PEER_DEGRADED] = "the supervisor alone: up, but without a process that is given up",
};

static const char *const end_help[] = {
    [CALL_END_DONE] = "The method answered.",
    [CALL_END_FAILED] = "The method, or who should have called it, answered with an error.",
    [CALL_END_CANCELLED] = "Whoever asked for it did not want it any more.",
    [CALL_END_EXPIRED] = "The time it was given had passed.",
    [CALL_END_NOT_STARTED] = "It cannot be done, and nothing of it was.",
    [CALL_END_IN_DOUBT] =
        "The shard died while the method ran, and the method may not be run twice: "
        "nobody knows how much of it was done.",
};

static void print_peer_states(void)
{
#define X(name, text) entry(text, state_help[PEER_##name]);
    PEER_STATES(X)
#undef X
}

static void print_call_ends(void)
{
#define X(name, number, text) entry(text, end_help[CALL_END_##name]);
    CALL_ENDS(X)
#undef X
}

static void print_aio_counters(void)
{
#define X(name, kind, unit, help) entry(#name, help);
    AIO_COUNTERS(X)
#undef X
}

static void print_pair_figures(void)
{
#define X(name, side, help) entry(#name, help);
    PAIR_FIGURES(X)
#undef X
}

static void print_audit_accounts(void)
{
#define X(name, expected, found) printf("- %s; %s\n", expected, found);
    AUDIT_ACCOUNTS(X)
#undef X
}

static void print_audit_counts(void)
{
#define X(name, help) entry(#name, help);
    AUDIT_COUNTS(X)
#undef X
}

static void print_probes(void)
{
#define X(name, arguments, when) printf("*%s* (%s)\n\t%s\n\n", #name, arguments, when);
    PROBES(X)
#undef X
}

static const char *const arena_help[] = {
    [ARENA_FREE] = "not there; such ones are not shown",
    [ARENA_RUNNING] = "on the CPU, or about to be",
    [ARENA_SUSPENDED] = "waits until it is woken",
    [ARENA_QUEUED] = "on its way to a shard, or woken there and not yet run",
};

static void print_arena_states(void)
{
#define X(name, text)               \
    if (ARENA_##name != ARENA_FREE) \
        entry(text, arena_help[ARENA_##name]);
    ARENA_STATES(X)
#undef X
}

/* X(the line, what prints the table) */
#define TABLES(X)                               \
    X("@PEER_STATES@", print_peer_states)       \
    X("@CALL_ENDS@", print_call_ends)           \
    X("@ARENA_STATES@", print_arena_states)     \
    X("@AIO_COUNTERS@", print_aio_counters)     \
    X("@PAIR_FIGURES@", print_pair_figures)     \
    X("@AUDIT_ACCOUNTS@", print_audit_accounts) \
    X("@AUDIT_COUNTS@", print_audit_counts)     \
    X("@PROBES@", print_probes)

static int print_table(const char *line)
{
#define X(name, print)              \
    if (!strcmp(line, name "\n")) { \
        print();                    \
        return 1;                   \
    }
    TABLES(X)
#undef X
    return 0;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) >= 0)
        if (!print_table(line))
            fputs(line, stdout);
    free(line);
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}
