/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * plane - the data plane's server inside a shard: local clients' requests, out of shared memory
 *
 * Why:         a local client reaches a shard without a system call, and a client that lies, dies
 *              or stands still harms nobody.
 * Use:         in a shard's loop, after mesh_new():
 *              plane_new();
 *              plane_open() for each client whose fds the shard has inherited;
 *              plane_recover(): what the dead one left is judged, and the rings are looked into;
 *              from then on plane_open() at a client's first use of the shard, plane_drop() at
 *              its end
 * Concurrency: owner loop. The gateway reads a client's lane (segment_client_lane()) meanwhile:
 *              - state CUT: the shard wants the client's end, for `reason`; it has rung the
 *                gateway, and part_head.clients_cut counts such
 *              - state NONE, or another generation: the shard has nothing of the client any more,
 *                and its number may be used again once that is so in all shards
 * Lifetime:    the mesh outlives it. A client's memory is mapped until the last request that may
 *              touch it has ended.
 * Not here:    who may attach, and what is granted (ipc/gateway/); the memory (proto/data_plane.h);
 *              how the fds get here (plane_shard.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/log.h"
#include "shard/mesh.h"

/* What a client may have. Travels with its fds from the gateway to the shards: fixed width. */
struct plane_grant {
    uint32_t client;     /* its number, below geometry.n_clients */
    uint32_t n_entries;  /* of each ring */
    uint64_t generation; /* of the number; 0: none */
    uint64_t data_bytes;
    uint64_t max_bytes;     /* of arguments and rooms in flight in a shard */
    uint64_t max_rate;      /* requests a second in a shard; 0: no limit */
    uint32_t max_in_flight; /* in a shard */
    uint32_t spare;
};

struct plane;

struct plane_config {
    struct mesh *mesh;
    AioContext *ctx;
    const struct segment *segment;
    const struct registry *registry;
    const int *bell_fds; /* as in struct mesh_config */
    struct log *log;     /* NULL: nothing is said */
    uint32_t shard;
    uint32_t incarnation;
};

/* 0 or -ENOMEM. */
int plane_new(const struct plane_config *config, struct plane **ret_plane);

/* Nothing is under way (plane_is_idle()), or the process is about to exit. NULL does nothing. */
void plane_free(struct plane *plane);

/* A client's memory and this shard's end of its doorbell, both consumed. A client that is open with
 * that generation has the new bell in the place of the old one. -EINVAL: the grant makes no sense,
 * or the memory is not as it says, or not sealed; -ENOMEM; -errno. */
int plane_open(struct plane *plane, const struct plane_grant *grant, int memory_fd, int bell_fd);

/* It could not be opened: the gateway is asked to cut it off (CUT_MEMORY). */
void plane_refuse(struct plane *plane, uint32_t client, uint64_t generation);

/* Once, after each client that is kept for this shard has been opened, and before the first
 * turn. */
void plane_recover(struct plane *plane);

/* The client's end: what it has under way is cancelled, and its memory unmapped once all of that
 * has ended. Its lane says so then: NONE, of this generation or a later one; one that was never
 * open says so at once. */
void plane_drop(struct plane *plane, uint32_t client, uint64_t generation);

/* From now on what comes is refused; or, to_return, left in the rings for the replacement. */
void plane_drain(struct plane *plane, bool to_return);
void plane_resume(struct plane *plane);

/* Nothing more is taken, and each client is told up to where it was (plane_words.closed). */
void plane_close(struct plane *plane);

/* No request is under way here. */
bool plane_is_idle(const struct plane *plane);
