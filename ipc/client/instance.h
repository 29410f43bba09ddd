/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * instance - where an instance's sockets are
 *
 * Why:         the client library stands alone; this is the client's half of the rule that
 *              shard/rundir.h keeps for daemon and tools.
 * Use:         r = instance_socket_path("demo", "attach", &path); … free(path);
 * Concurrency: any thread; reads the environment
 */
#include <stdbool.h>

/* Longest name of an instance. */
#define INSTANCE_NAME_MAX 48u

/* 0 with the malloc'ed path of that socket of it, which need not exist; -EINVAL: no name of an
 * instance; -ENAMETOOLONG: the path does not fit a socket address; -EACCES: the folder under /tmp
 * is somebody else's; -ENOMEM. name NULL: "default". */
int instance_socket_path(const char *name, const char *socket, char **ret_path);

/* Whether somebody listens at that socket of it. */
bool instance_answers(const char *name, const char *socket);
