/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * spawn - fork() of a child, and what the child does before anything else
 *
 * Why:         a child is a copy of the supervisor, and must not keep what is the supervisor's
 *              alone: its fds, signals, epoll set; nor differ from it where shards must be equal.
 * Use:         spawn_fork() with nothing of a loop on the stack; in the child spawn_settle()
 * Concurrency: the supervisor's only thread
 */
#include <stdint.h>
#include <sys/types.h>

#include "shard/log.h"
#include "shard/registry.h"
#include "shard/segment.h"
#include "shard/topology.h"

/* What a child keeps and becomes. */
struct spawn {
    const char *process; /* in the log: "shard 1" */
    const char *comm;    /* as ps shows it, at most 15 bytes: "sherd-shard-1" */
    const int *keep_fds; /* beside 0, 1 and 2 */
    uint32_t n_keep_fds;
    const struct topology_core *core; /* NULL: not pinned */
    const struct registry *registry;
    const struct segment *segment; /* the supervisor's image is noted there */
    uint32_t peer;                 /* whose part of it this is */
};

/*
 * Returns 0 in the child; in the parent its pid, with a pidfd in *ret_pidfd. -EBUSY: this process
 * has other threads, whose names are in ret_error; -errno.
 */
pid_t spawn_fork(int *ret_pidfd, char **ret_error);

/*
 * In the child: default signals but for those that are sent to whole groups of processes and are
 * the supervisor's to answer (INT, TERM, HUP), and PIPE and XFSZ, which are ignored, and ALRM
 * (orphan_alarm.h); no fds but those it keeps; name; core, if that can still be had; a look at
 * whether it is the image that it should be; and no right to write the segment but its own part and
 * the commons. 0 or -errno, with a text.
 */
int spawn_settle(const struct spawn *spawn, struct log *log, char **ret_error);
