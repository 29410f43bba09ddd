/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bench_work - the requests that `sherd bench` sends
 *
 * Use:         struct bench_maker m;
 *              bench_maker_init(&m, &plan, number); …
 *              request = bench_maker_next(&m, BENCH_read, room, &spot); …
 *              request = bench_maker_again(&m, BENCH_read, room, &spot);
 *              bench_maker_deinit(&m);
 * Concurrency: one thread a maker; a plan is constant
 * Not here:    when they are sent, and what became of them (bench_client.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/client.h"
#include "tools/remote.h"

/* X(name, what one request is) */
#define BENCH_WORK(X)                                                               \
    X(ping, "a shard answers with nothing, or echoes as many bytes as --size says") \
    X(call, "a shard has another one echo some bytes, all pairs of them in turn")   \
    X(move, "a coroutine goes round all shards, and home to answer")                \
    X(read, "a shard reads a block of a file")                                      \
    X(write, "a shard writes a block of a file")                                    \
    X(method, "a method of the user's choice")

enum bench_work {
#define X(name, what) BENCH_##name,
    BENCH_WORK(X)
#undef X
        N_BENCH_WORK
};

const char *bench_work_name(enum bench_work work);

struct bench_plan {
    const char *instance;
    const struct remote *remote;
    int64_t wait_ns;  /* for the instance, and for a gateway that died to be replaced */
    uint32_t depth;   /* requests in flight */
    int64_t begin_ns; /* CLOCK_MONOTONIC */
    int64_t until_ns; /* then they submit no more */
    int64_t every_ns; /* a client's requests are due one by one, so far apart; 0: as they end */
    uint32_t n_clients;
    uint32_t n_shards;
    bool does[N_BENCH_WORK];
    uint32_t plane;     /* enum sherd_plane */
    int64_t spin_ns;    /* how long a client looks at shared memory before it sleeps */
    uint32_t flags;     /* of each request: SHERD_REFUSE or none */
    int64_t timeout_ns; /* of each request; 0: none */
    const char *method; /* of `method`, and its arguments */
    const char *text;
    size_t size;        /* bytes of a ping, or of a block, or at most of a method's answer */
    const char *path;   /* of the file, absolute; NULL: none */
    uint64_t n_blocks;  /* that are read or written, from its start on; at least 1 */
    bool is_sequential; /* one after the other; else at random */
    bool is_direct;     /* past the kernel's cache */
    bool by_handle;     /* files stay open; else each request has the path */
};

struct bench_maker {
    const struct bench_plan *plan;
    uint32_t number;             /* of the client */
    uint64_t turn[N_BENCH_WORK]; /* whose turn it is, and which block's */
    uint64_t random;
    uint8_t *block; /* what is sent or written */
    uint8_t *args;
    uint64_t *handles; /* by shard, of the open file; 0: none */
};

/* What makes a request that one: where it goes, and which block it is about. */
struct bench_spot {
    uint64_t turn;
    uint64_t block;
};

#define BENCH_SPAN_BYTES 24u /* behind a block that is written by handle */

/* The plan outlives it. 0 or -ENOMEM. */
int bench_maker_init(struct bench_maker *m, const struct bench_plan *plan, uint32_t number);
void bench_maker_deinit(struct bench_maker *m);

/* What it points to is the maker's, until the next one. A block that is written by handle is the
 * caller's: room has plan->size bytes of it, and BENCH_SPAN_BYTES more. */
struct sherd_request bench_maker_next(
    struct bench_maker *m, enum bench_work work, uint8_t *room, struct bench_spot *ret_spot);

/* The same once more, with what is open now. */
struct sherd_request bench_maker_again(
    struct bench_maker *m, enum bench_work work, uint8_t *room, const struct bench_spot *spot);

/* Opens the file in each shard that has no handle of it, and waits for that. 0 or -errno. */
int bench_maker_open(struct bench_maker *m, struct sherd_client *client);

/* What a shard's handle was is so no more. */
void bench_maker_forget(struct bench_maker *m, uint32_t shard);
