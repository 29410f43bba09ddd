/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * member - what a shard and the gateway have in common: a process of the mesh under a supervisor
 *
 * Why:         both own a context whose instruments and doorbell live in the segment, an end of the
 *              mesh, and follow the supervisor's orders.
 * Use:         in the child, after the fork: member_new(); what the role needs; member_ready();
 *              member_run()
 * Concurrency: owner loop.
 * Lifetime:    from the fork to the exit of the process.
 */
#include "runtime/aio.h"
#include "shard/fd_keep.h"
#include "shard/log.h"
#include "shard/mesh.h"
#include "shard/registry.h"
#include "shard/sandbox.h"
#include "shard/segment.h"

/* What a child is forked with. All of it is inherited and constant, log apart. */
struct child_env {
    const struct segment *segment;
    const struct registry *registry;
    struct log *log;
    const int *bell_fds;     /* eventfds: n_peers, then the supervisor's */
    const char *runtime_dir; /* of the instance */
    const char *instance;
    uint32_t peer; /* the gateway is n_shards */
    uint32_t incarnation;
    int32_t supervisor_pid;
    enum aio_engine engine;
    uint32_t io_depth;
    enum scan_mode scan_mode;
    bool no_rebalance;
    int life_fd; /* for its context (sherd/aio.h), which consumes it */
    struct fd_keep_heir
        keep;              /* the fds that the supervisor keeps for it; the table is not its own */
    uint64_t client_bytes; /* gateway: memory of all clients of the data plane; 0: there are none */
    uint64_t client_rate;  /* gateway: requests a second of each in a shard; 0: no limit */
    const char *listen_url; /* gateway: NULL, tcp://… or tls+tcp://… */
    const char *token_file, *operator_token_file;
    const struct shard_extra *extra; /* shards: NULL or what the program adds to them */
    const struct sandbox *sandbox;   /* NULL: none */
};

/* Runs a child's life and returns its exit status. */
typedef int child_main_fn(const struct child_env *env);

struct member;

/* What a program adds to each shard: shard/ knows nothing of it. In its loop, outside
 * coroutines. */
struct shard_extra {
    /* After the services' start(), before the first call. 0 or -errno: the shard does not come
     * up. */
    int (*start)(const struct child_env *env, struct member *member, void **ret_extra);
    /* Takes nothing new; to_return: a replacement will, so what comes is left where it is. */
    void (*drain)(void *extra, bool to_return);
    void (*resume)(void *extra);
    /* After the last turn: whatever is under way, nothing more is taken. */
    void (*leave)(void *extra);
    /* Behind it, where nothing is under way. */
    void (*stop)(void *extra);
};

/* Role hooks, called in the loop, outside coroutines. NULL: nothing to do. */
struct member_hooks {
    void (*drain)(void *opaque);      /* ORDER_DRAIN: refuse what is new from now on */
    void (*resume)(void *opaque);     /* ORDER_RUN after it: take what is new again */
    bool (*is_drained)(void *opaque); /* asked once a turn while draining */
    void (*turn)(void *opaque);       /* after each turn */
    void *opaque;
};

/* Context, doorbell and mesh; makes itself current. states as in struct mesh_config. 0 or -errno,
 * logged. */
int member_new(const struct child_env *env, void *const *states, struct member **ret_member);
/* The same; adopt as in struct mesh_config. */
int member_new_heir(const struct child_env *env, void *const *states, mesh_adopt_fn *adopt,
    void *adopt_opaque, struct member **ret_member);
void member_free(struct member *member);

AioContext *member_context(const struct member *member);
struct mesh *member_mesh(const struct member *member);
void member_set_hooks(struct member *member, const struct member_hooks *hooks);

/* Tells the supervisor that work may come. */
void member_ready(struct member *member);

/* The gateway's: has the supervisor see an order (order_word(): a drain of all, or its end) that a
 * client gave. What becomes of it: order_find(). One within 100 ms waits for that. */
void member_ask(struct member *member, uint64_t word);

/*
 * Polls until told to leave. Returns the exit status: 0. Without a supervisor: takes nothing new,
 * fails what waits for the dead, returns when nothing is under way, at the latest after 5 s.
 */
int member_run(struct member *member);

/* The shard's life: services' start(), calls, services' stop(). */
int shard_main(const struct child_env *env);
