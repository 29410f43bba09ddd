/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * plane_rig - clients of a data plane's server, for tests: what attach would have made, and the
 * client's side of the rings
 *
 * Use:         rig_open() and an end of it (tests/unit/shard/mesh_rig.h); plane_rig_new() in that
 *              end; client_make(); client_open() in the end; then client_push() and client_pop()
 * Concurrency: one pusher and popper a client; the end may be another thread or process. A client
 *              that several processes know is made before the fork.
 * Lifetime:    a client outlives the planes that know it.
 */
#include "ipc/plane/plane.h"
#include "proto/data_plane.h"
#include "tests/unit/shard/mesh_rig.h"

struct client {
    struct plane_grant grant;
    struct plane_layout layout;
    uint8_t *base;
    uint32_t shard;
    int memory_fd;
    int bells[2]; /* the client's end, the shard's */
    uint64_t pushed, urgent_pushed, popped;
};

/* Shard 0 with a plane in this thread, shard 1 as another, and one client, number 3, of 16 entries
 * and 64 KiB, which has opened shard 0. */
struct plane_bench {
    struct rig rig;
    struct rig_end end;
    struct plane *plane;
    struct client client;
};

/* n_ledger: slots; 0: as many as there are. */
struct plane_bench *plane_bench_new(const struct service *service, uint32_t n_ledger);

/* For cmocka: frees *state. */
int plane_bench_tear_down(void **state);

/* What shard 0 has of a client. */
struct client_lane *plane_bench_row(struct plane_bench *bench, const struct client *client);

/* Turns the loop until a completion has come, a minute at most. */
struct plane_completion plane_bench_await(struct plane_bench *bench, struct client *client);

/* Turns it n times. */
void plane_bench_turn(struct plane_bench *bench, int n);

/* A plane over an end's mesh, not recovered yet. */
struct plane *plane_rig_new(struct rig_end *end);

/* With n_entries in each ring and data_bytes of data; number is the client's. */
void client_make(struct client *client, struct rig *rig, uint32_t shard, uint32_t number,
    uint32_t n_entries, uint64_t data_bytes);
void client_free(struct client *client);

/* In the shard: as if the supervisor had handed its fds over. */
int client_open(struct client *client, struct plane *plane);

/* The entry that the next push will be, zeroed but for an id, its position. */
struct plane_submission *client_next(struct client *client);

/* Publishes it, and rings if the shard wants that. Whether it did. */
bool client_push(struct client *client);

/* The same of the urgent ring; ids are those of the other ring from 1000 on. */
struct plane_submission *client_next_urgent(struct client *client);
bool client_push_urgent(struct client *client);

/* A request without arguments for HERE, pushed. Returns its id. */
uint64_t client_call(struct client *client, uint32_t method);

/* Takes a completion if there is one. */
bool client_pop(struct client *client, struct plane_completion *ret);

uint8_t *client_data(const struct client *client, uint64_t off);
