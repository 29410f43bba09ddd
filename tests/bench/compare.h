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
 *                  .goal = {.most_ratio = 1.6}});
 *              return compare_end();
 * Concurrency: one thread; what run() and baseline() do is theirs.
 *
 * Each of the rounds runs both. A figure is ns for one repeat: the median of the rounds and the
 * least. The ratio is the median of the rounds' ratios; below 1, ours is the faster.
 *
 * A line with a goal ends in "reached" or "missed by N %".
 */
#include <stdint.h>

/* What a row has to keep to. Where both are given one of them is enough: ns are told for a machine
 * on which the baseline takes what it took when the goal was set, and the ratio for any other. */
struct compare_goal {
    double most_ns;    /* 0: as many as it takes */
    double most_ratio; /* 0: any */
    const char *text;  /* for people, who judge it themselves; NULL: none */
};

struct compare {
    const char *what;
    void (*run)(uint64_t repeats);
    const char *baseline_name; /* NULL: no baseline, no ratio */
    void (*baseline)(uint64_t repeats);
    uint64_t repeats;
    uint64_t baseline_repeats; /* 0: repeats */
    uint32_t rounds;           /* 0: 15 */
    struct compare_goal goal;
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

/* Prints what was asked for and whether it was reached, to the line's end: for a table of one's
 * own. Without a ratio that is 0. */
void compare_judge(const struct compare_goal *goal, double ns, double ratio);

/* The program's exit status: 1 where a goal was missed since it began. */
int compare_end(void);
