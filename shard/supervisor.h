/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * supervisor - forks the gateway and the shards, replaces the dead, and ends all in order
 *
 * Why:         a crash costs one process for some milliseconds; somebody has to be there who does
 *              no work of its own and so has nothing to crash on.
 * Use:         registry filled, runtime directory claimed:
 *              supervisor_new(&config, &supervisor, &error);
 *              struct child_env env;
 *              child_main_fn *child_main;
 *              int r = supervisor_run(supervisor, &env, &child_main);
 *              if (r == SUPERVISOR_BECOME_CHILD)
 *                  _exit(child_main(&env));
 *              supervisor_free(supervisor);
 * Concurrency: the process's only thread, from main's own frame: a child begins where
 *              supervisor_run() was called, with nothing of the loop on its stack.
 * Lifetime:    what config points to outlives it, in every child too.
 * Not here:    when to restart (shard/restart.h), fork itself (shard/spawn.h), the child's life
 *              (shard/member.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/log.h"
#include "shard/member.h"
#include "shard/registry.h"
#include "shard/topology.h"

struct supervisor;

struct supervisor_config {
    const char *instance;
    const char *runtime_dir;
    int lock_fd;            /* rundir_claim()'s; consumed */
    const char *shm_dir;    /* a tmpfs */
    uint64_t segment_bytes; /* at most; 0: the default */
    uint32_t n_shards;
    const struct topology *topology;
    bool pin;
    enum aio_engine engine;
    const struct registry *registry;
    struct log *log;
    const char *listen_url; /* NULL: none */
    const char *token_file;
    uint64_t drain_limit_ns;
    const int *service_fds; /* fds that services opened, which every child keeps */
    uint32_t n_service_fds;
    child_main_fn *shard_main, *gateway_main;
    void (*reload)(void *opaque); /* SIGHUP: may change log->level; NULL: nothing to do */
    void *opaque;
};

/* Segment, doorbells, signals: all that children inherit; none is forked yet. 0 or -errno, with
 * nothing left behind. */
int supervisor_new(
    const struct supervisor_config *config, struct supervisor **ret_supervisor, char **ret_error);

#define SUPERVISOR_BECOME_CHILD (-1)

/*
 * Supervises until all are gone. Returns the exit status: 0 after a stop in order, 1 where a first
 * start failed or a second signal cut the stop short. Or, in each child that it forks,
 * SUPERVISOR_BECOME_CHILD with what that child is to do.
 */
int supervisor_run(
    struct supervisor *supervisor, struct child_env *ret_env, child_main_fn **ret_main);

/* After supervisor_run() returned a status, or instead of it. NULL does nothing. */
void supervisor_free(struct supervisor *supervisor);
