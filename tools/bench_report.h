/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bench_report - what the clients of `sherd bench` did together, for people and for programs
 *
 * Concurrency: one thread, when the clients have been joined
 */
#include "tools/bench_client.h"

struct bench_totals {
    struct histogram took; /* of all */
    struct histogram took_each[N_BENCH_WORK];
    uint64_t submitted[N_BENCH_WORK];
    uint64_t ended[N_BENCH_WORK][BENCH_END_MAX];
    uint64_t n_twice, n_lost, n_left, n_behind, n_restarts;
    enum sherd_plane plane;
    int64_t ran_ns;
    char *why_not; /* as the first client has it that has one */
};

/* Takes the client's text over. */
void bench_totals_add(struct bench_totals *totals, struct bench_client *client);

void bench_print_people(const struct bench_plan *plan, const struct bench_totals *totals);
void bench_print_json(
    const char *kind, const struct bench_plan *plan, const struct bench_totals *totals);
