/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_instance - a whole instance for tests: supervisor, shards and gateway as processes of a
 * real one, with the load of crash_load.h, and one of them on a fuse
 *
 * Use:         crash_instance_prepare(&instance, folder, name); crash_instance_start(&instance);
 *              crash_instance_round(&instance, "what"); …; crash_instance_stop(&instance);
 *              crash_instance_discard(&instance);
 * Concurrency: the calling process forks the supervisor, and becomes the reaper of its orphans
 * Lifetime:    what fails is told on standard error, and ends the calling process with status 1,
 *              and the instance with it
 *
 * Real are the supervisor, what it forks, and all of shard/; the gateway has no clients, and makes
 * calls itself.
 */
#include <sys/types.h>

#include "shard/segment.h"
#include "shard/supervisor.h"
#include "tests/unit/shard/crash_fuse.h"
#include "tests/unit/shard/crash_load.h"

#define CRASH_DOOMED 1u /* the shard on a fuse */

struct crash_instance {
    struct fuse *fuse;
    struct load_board *board;
    struct registry *registry;
    struct supervisor_limits limits;
    char *name;
    char *runtime_dir;
    pid_t supervisor;
    int log_fd;
    struct segment seg; /* read-only, as a tool has it */
    uint64_t order;     /* given last, as its word */
    uint32_t n_orders;
    /* What the doomed shard does in its first life, instead of its share; NULL: that. */
    void (*misbehave)(const struct child_env *env);
    /* What is done to it in each round, once that has begun; NULL: nothing. */
    void (*stir)(struct crash_instance *instance);
    /* Round with a death, until all that was asked has ended; and without the time in which
     * somebody waited for a processor, or nothing ran. */
    int64_t longest_ns, longest_idle_ns;
    int64_t stood_still_ns; /* in the present round */
};

void crash_instance_prepare(struct crash_instance *instance, const char *dir, const char *name);
void crash_instance_discard(struct crash_instance *instance);

/* Forks the supervisor and waits until all is up, or it has died on its fuse. */
void crash_instance_start(struct crash_instance *instance);

/* In order, with exit status 0. */
void crash_instance_stop(struct crash_instance *instance);

/* Has the load run once, in which processes may die, and waits until nothing is under way; then all
 * must be as if nothing had happened. Returns whether the one on the fuse died. */
bool crash_instance_round(struct crash_instance *instance, const char *what, bool may_die);

/* Until the supervisor has the proof that no I/O of a dead process is under way. */
void crash_instance_wait_until_quiet(struct crash_instance *instance);

/* One in which nothing is looked at but that it comes to its end, that nobody crashes and that the
 * supervisor lives. */
void crash_instance_serve(struct crash_instance *instance, const char *what);

/* SIGKILL for all. */
void crash_instance_destroy(struct crash_instance *instance);

/* Begins a round and does not wait for it. */
void crash_instance_begin_round(struct crash_instance *instance);

/* What instance->stir may be: the doomed shard dies; or the log level is read anew, the doomed
 * shard is restarted, and the instance is drained and resumed, by order. */
void crash_instance_kill_doomed(struct crash_instance *instance);
void crash_instance_give_orders(struct crash_instance *instance);

/* Whether the supervisor dies; false once all is up again without. */
bool crash_instance_wait_for_death(struct crash_instance *instance);

/* The supervisor has died, or will at once: its orphans leave, and each request has ended. */
void crash_instance_wait_for_orphans(struct crash_instance *instance, const char *what);

/* SIGKILL for that peer's process, which lives. */
void crash_instance_kill(struct crash_instance *instance, uint32_t peer);
