/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * search - runs a scenario again and again, each time with other choices
 *
 * Why:         all interleavings up to a bound, each once; or many at random; or one once more.
 * Use:         struct search_report report;
 *              search(&scenario, &(struct search_options){.bounds = scenario.bounds}, &report);
 * Concurrency: one OS thread
 * Not here:    what is chosen (run.c: who steps next; memory.c: what a load sees)
 */
#include "tests/explore/explorer.h"

#define SEARCH_MAX_CHOICES 4096

struct search_options {
    struct explorer_bounds bounds;
    bool x86;               /* a memory that orders as x86-64 does: only loads overtake stores */
    uint64_t max_runs;      /* not 0: no more than these, in their order */
    uint64_t n_random_runs; /* not 0: so many at random instead of all, from seed */
    uint64_t seed;
    const char *replay; /* not NULL: this run alone, with a trace: search_report's choices */
};

struct search_report {
    uint64_t n_runs;
    uint64_t n_cut; /* of those, ended where another had been before */
    uint64_t n_steps;
    bool failed;
    char failure[512];
    char choices[2 * SEARCH_MAX_CHOICES]; /* of the run that failed, for replay */
    struct explorer_bounds failed_bounds; /* with which it failed */
};

void search(const struct scenario *scenario, const struct search_options *options,
    struct search_report *ret_report);
