/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bench_client - one client of `sherd bench`: keeps requests in flight, and counts how they end
 *
 * Why:         whoever kills shards and gateways under load needs a caller whose own count says
 *              that each request ended once.
 * Use:         struct bench_client *c;
 *              bench_client_start(&plan, number, &c); …
 *              r = bench_client_join(c);             // then its figures may be read
 *              bench_client_free(c);
 * Concurrency: a thread each, which alone touches it between start and join
 * Not here:    which figures are printed how (bench.c)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/client.h"
#include "tools/histogram.h"

/* X(name, what one request is) */
#define BENCH_WORK(X)                                                             \
    X(ping, "a shard answers with nothing")                                       \
    X(call, "a shard has another one echo some bytes, all pairs of them in turn") \
    X(move, "a coroutine goes round all shards, and home to answer")              \
    X(read, "a shard reads from the file given with --file")

enum bench_work {
#define X(name, what) BENCH_##name,
    BENCH_WORK(X)
#undef X
        N_BENCH_WORK
};

const char *bench_work_name(enum bench_work work);

#define BENCH_END_MAX 8u /* ends are below it */

struct bench_plan {
    const char *instance;
    int64_t wait_ns;  /* for the instance, and for a gateway that died to be replaced */
    uint32_t depth;   /* requests in flight */
    int64_t until_ns; /* CLOCK_MONOTONIC; then it submits no more */
    uint32_t n_shards;
    bool does[N_BENCH_WORK];
    /* What `read` sends. */
    const void *read_args;
    size_t read_args_len;
};

struct bench_client {
    struct histogram took[N_BENCH_WORK]; /* ns, of those that are done */
    uint64_t submitted[N_BENCH_WORK];
    uint64_t ended[N_BENCH_WORK][BENCH_END_MAX];
    uint64_t n_twice; /* ends of what had ended already */
    uint64_t n_lost;  /* requests that had not ended when it gave up waiting */
    char *error;      /* why it could not go on; NULL: it could */
    struct bench_run *run;
};

/* Context: any thread. 0 or -errno. The plan outlives it. */
int bench_client_start(
    const struct bench_plan *plan, uint32_t number, struct bench_client **ret_client);
void bench_client_join(struct bench_client *client);
void bench_client_free(struct bench_client *client);
