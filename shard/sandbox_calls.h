/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * sandbox_calls - which system calls each role may make, as programs for seccomp
 *
 * Why:         most of the kernel is of no use to a shard, and of much use to who has taken it
 *              over.
 * Use:         supervisor: sandbox_calls_make() each; child: sandbox_calls_load()
 * Concurrency: programs are constant once made; any process
 *
 * A call that is not on the list raises SIGSYS: the crash handler notes its number, the process
 * dies, and the supervisor says which call it was. Those that libraries try and do without get an
 * error instead.
 */
#include <linux/filter.h>
#include <stdint.h>

enum sandbox_list {
    SANDBOX_LIST_SHARD,
    SANDBOX_LIST_SHARD_SOCKETS, /* whose services make sockets of their own */
    SANDBOX_LIST_GATEWAY,
    SANDBOX_LIST_NO_RINGS, /* on top of one of those */
    N_SANDBOX_LISTS
};

struct sandbox_program {
    struct sock_filter *filter;
    uint16_t n;
};

int sandbox_calls_make(enum sandbox_list list, struct sandbox_program *ret_program);
void sandbox_calls_free(struct sandbox_program *program);

/* Whether the kernel takes such programs. */
int sandbox_calls_probe(void);

/* For all threads of the process. 0 or -errno. */
int sandbox_calls_load(const struct sandbox_program *program);

/* The same: from now on signals go to this process alone, at once or as those of an fd (EPERM). */
int sandbox_calls_own_signals(void);
