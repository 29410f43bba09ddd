/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * compare - measures something against a baseline, in turns, and prints a line of a table
 *
 * Why:         a figure of one run on a shared machine says little; a ratio of two things that ran
 *              within the same milliseconds says much.
 * Use:         compare_head();
 *              compare_row(&(struct compare){.what = "enter + yield", .run = enter_and_yield,
 *                  .baseline_name = "bare switch", .baseline = switch_twice, .repeats = 100000,
 *                  .goal = "at most 1.6"});
 * Concurrency: one thread; what run() and baseline() do is theirs.
 *
 * Each of the rounds runs both. A figure is ns for one repeat: the median of the rounds and the
 * least. The ratio is the median of the rounds' ratios; below 1, ours is the faster.
 */
#include <stdint.h>

struct compare {
    const char *what;
    void (*run)(uint64_t repeats);
    const char *baseline_name; /* NULL: no baseline, no ratio */
    void (*baseline)(uint64_t repeats);
    uint64_t repeats;
    uint64_t baseline_repeats; /* 0: repeats */
    uint32_t rounds;           /* 0: 15 */
    const char *goal;          /* what the ratio or figure should be; NULL: nothing */
    /* Instead of run and baseline, for what must leave out a part of its time: return the ns for
     * one repeat. */
    double (*run_ns)(uint64_t repeats);
    double (*baseline_ns)(uint64_t repeats);
};

struct compare_result {
    double ns, least_ns;
    double baseline_ns, baseline_least_ns;
    double ratio; /* 0: no baseline */
};

/* Prints the table's head. */
void compare_head(void);

/* Runs, prints one line, and returns the figures. Aborts where there is no memory. */
struct compare_result compare_row(const struct compare *compare);
