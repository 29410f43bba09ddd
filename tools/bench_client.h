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
 * Not here:    what the requests are (bench_work.h), which figures are printed how (bench.c)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/bench_work.h"
#include "tools/histogram.h"

#define BENCH_END_MAX 8u /* ends are below it */

struct bench_client {
    /* ns, of those that are done: from the submission on; of work that is due at fixed times, from
     * when it was due, whether the client could submit it then or not. */
    struct histogram took[N_BENCH_WORK];
    uint64_t submitted[N_BENCH_WORK];
    uint64_t ended[N_BENCH_WORK][BENCH_END_MAX];
    uint64_t
        n_restarts; /* blocks whose shard died, or that may be done, which were asked for again */
    uint64_t n_behind;      /* ends with -EAGAIN: the instance said that it is behind */
    enum sherd_plane plane; /* that it got */
    uint64_t n_twice;       /* ends of what had ended already */
    uint64_t n_lost;        /* requests that had not ended when it gave up waiting */
    uint64_t n_left; /* requests that were due and never submitted: all of depth was in flight */
    char *error;     /* why it could not go on; NULL: it could */
    char *why_not;   /* the first failed, or could not be begun; NULL: none, but for n_behind */
    struct bench_run *run;
};

/* Context: any thread. 0 or -errno. The plan outlives it. */
int bench_client_start(
    const struct bench_plan *plan, uint32_t number, struct bench_client **ret_client);
void bench_client_join(struct bench_client *client);
void bench_client_free(struct bench_client *client);
