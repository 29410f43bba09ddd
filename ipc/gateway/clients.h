/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * clients - who is attached: rows of the segment, and what all clients may have together
 *
 * Why:         numbers, memory and users' shares are given out in one place, and stand where a
 *              replacement of the gateway finds them.
 * Use:         clients_take(); make and keep what is the client's own; clients_attached();
 *              clients_opened() before a shard is handed anything; clients_end() at the end of its
 *              connection; clients_reap() until no row is ending
 * Concurrency: owner loop of the gateway; shards and tools read the rows
 * Lifetime:    a number is used again when every shard that was handed something has let go
 * Not here:    connections and messages (ipc/gateway/attach.h)
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/attach.h"
#include "proto/data_plane.h"
#include "shard/segment.h"

#define CLIENTS_NONE UINT32_MAX

/* A user other than the instance's own and root has at most this part of all rows and memory. */
#define CLIENTS_USER_SHARE 4u

/* What a user has now. */
struct client_share {
    uid_t uid;
    uint32_t n;
    uint64_t bytes;
};

struct clients {
    const struct segment *segment;
    uid_t owner;
    uint64_t max_bytes; /* for all together */
    uint64_t bytes;     /* that are given out */
    uint32_t next;      /* where to look for a free row */
    uint32_t *ending;
    uint32_t n_ending;
    bool *held;                  /* by client: not to be freed yet, whatever its shards say */
    uint64_t n_over;             /* clients_end()s of this gateway */
    struct client_share *shares; /* of users that have something */
    uint32_t n_shares, max_shares;
};

/* What somebody asks for, and who. */
struct client_wish {
    uid_t uid;
    pid_t pid;
    uint32_t n_entries; /* as plane_layout() takes them */
    uint64_t data_bytes;
    uint64_t max_rate;
    uint64_t serial;
    const char *name;
};

/* 0 or -ENOMEM. Takes over the rows as they are. */
int clients_init(
    struct clients *clients, const struct segment *segment, uint64_t max_bytes, uid_t owner);
void clients_deinit(struct clients *clients);

/* A row for it, ATTACHING. 0; -EMFILE: no row is free; -ENOMEM: not so much memory is left;
 * -EDQUOT: not for this user. */
int clients_take(
    struct clients *clients, const struct client_wish *wish, int64_t now_ns, uint32_t *ret_client);

void clients_attached(struct clients *clients, uint32_t client);
void clients_opened(struct clients *clients, uint32_t client, uint32_t shard);
void clients_answered(struct clients *clients, uint32_t client, uint64_t serial);

/* From now on it is ENDING. by: a shard, or n_shards for the gateway. */
void clients_end(struct clients *clients, uint32_t client, enum cut_reason reason, uint32_t by);

typedef void clients_freed_fn(uint32_t client, void *opaque);

/* Frees the rows whose shards have all let go, and says which those were (freed may be NULL).
 * Returns how many are left. */
uint32_t clients_reap(struct clients *clients, clients_freed_fn *freed, void *opaque);

static inline uint64_t clients_word(const struct clients *clients, uint32_t client)
{
    return segment_client(clients->segment, client)->word;
}
