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
#include "shard/restart.h"
#include "shard/topology.h"

struct supervisor;

/* May change while it runs, in reload(). */
struct supervisor_limits {
    uint64_t drain_ns;
    uint64_t stall_report_ns;  /* one callback that runs longer is recorded; 0: never */
    uint64_t stall_replace_ns; /* who is in one for longer is replaced; 0: never */
    struct restart_limits restart;
};

struct supervisor_config {
    const char *instance;
    const char *runtime_dir;
    int lock_fd;            /* rundir_claim()'s; consumed */
    const char *shm_dir;    /* a tmpfs */
    uint64_t segment_bytes; /* at most; 0: the default */
    uint64_t fates_bytes;   /* of it, for what becomes of requests; 0: the default */
    uint32_t n_shards;
    struct topology *topology; /* of now; taken over, and empty after supervisor_new() */
    bool pin;
    enum aio_engine engine;
    const struct registry *registry;
    struct log *log;
    const char *listen_url; /* NULL: none */
    const char *token_file, *operator_token_file;
    const struct sandbox *sandbox; /* of children; NULL: none */
    const struct supervisor_limits *limits;
    const char *cgroup_root; /* a folder to look for /proc and /sys/fs/cgroup in; "": the
                                machine's */
    uint64_t spin_ns;      /* how long a shard looks for work before it sleeps, at most; 0: never */
    bool wake_latency_low; /* the caller holds it (shard/wake_latency.h): for status alone */
    bool no_rebalance;     /* portable coroutines are not handed over to idle shards */
    enum scan_mode scan_mode; /* of what leaves with a portable coroutine */
    int listener_fd; /* the gateway's (kept under FD_KEEP_PROGRAM, kind 0), which outlives it; 0:
                        none; consumed */
    int secret_fd;   /* likewise, kind 1: what no shard is to read */
    uint64_t client_bytes, client_rate; /* as in struct child_env */
    const int *service_fds;             /* fds that services opened, which every child keeps */
    uint32_t n_service_fds;
    child_main_fn *shard_main, *gateway_main;
    const struct shard_extra *shard_extra; /* NULL: nothing */
    /* SIGHUP: may change log->level, *limits and the services' settings. Whether all shards are to
     * be replaced for it, one after the other. NULL: nothing to reload. */
    bool (*reload)(void *opaque);
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
