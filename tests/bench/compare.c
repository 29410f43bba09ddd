/* SPDX-License-Identifier: MIT */
#include "tests/bench/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/aio.h"

#define DEFAULT_ROUNDS 15

static uint32_t n_missed;

static double measure(
    void (*run)(uint64_t repeats), double (*run_ns)(uint64_t repeats), uint64_t repeats)
{
    int64_t begin_ns = aio_clock_ns();

    if (run_ns)
        return run_ns(repeats);

    run(repeats);
    return (double)(aio_clock_ns() - begin_ns) / (double)repeats;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *figures, uint32_t n)
{
    qsort(figures, n, sizeof *figures, ascending);
    return n % 2 ? figures[n / 2] : (figures[n / 2 - 1] + figures[n / 2]) / 2;
}

void compare_head(void)
{
    printf("%-44s %10s %10s   %-24s %10s %10s %7s  %s\n", "what", "median ns", "least ns",
        "against", "median ns", "least ns", "ratio", "goal");
}

/* By how much value is above most, which may be 0: then by nothing that could be less. */
static double excess(double value, double most)
{
    return most > 0 ? value / most - 1 : INFINITY;
}

static void print_goal(const struct compare_goal *goal)
{
    if (goal->text)
        printf("%s", goal->text);
    if (goal->text && (goal->most_ns > 0 || goal->most_ratio > 0))
        printf("; ");
    if (goal->most_ns > 0)
        printf("at most %.4g ns", goal->most_ns);
    if (goal->most_ns > 0 && goal->most_ratio > 0)
        printf(" or ");
    if (goal->most_ratio > 0)
        printf("%s%.4g of it", goal->most_ns > 0 ? "" : "at most ", goal->most_ratio);
}

void compare_judge(const struct compare_goal *goal, double ns, double ratio)
{
    double missed_by = fmin(excess(ns, goal->most_ns), excess(ratio, goal->most_ratio));

    print_goal(goal);
    if (!isinf(missed_by)) {
        n_missed += missed_by > 0;
        missed_by > 0 ? printf(": missed by %.0f %%", ceil(missed_by * 100)) : printf(": reached");
    }
    printf("\n");
    fflush(stdout);
}

int compare_end(void)
{
    return n_missed > 0;
}

static void print_row(const struct compare *c, const struct compare_result *r)
{
    printf("%-44s %10.1f %10.1f   ", c->what, r->ns, r->least_ns);
    if (c->baseline || c->baseline_ns)
        printf("%-24s %10.1f %10.1f %7.2f", c->baseline_name, r->baseline_ns, r->baseline_least_ns,
            r->ratio);
    else
        printf("%-24s %10s %10s %7s", "-", "", "", "");
    printf("  ");
    compare_judge(&c->goal, r->ns, r->ratio);
}

struct compare_result compare_row(const struct compare *compare)
{
    uint32_t rounds = compare->rounds ? compare->rounds : DEFAULT_ROUNDS;
    uint64_t base_repeats =
        compare->baseline_repeats ? compare->baseline_repeats : compare->repeats;
    double *figures = calloc(3 * (size_t)rounds, sizeof *figures);
    double *ours = figures, *base = figures + rounds, *ratios = figures + 2 * rounds;
    struct compare_result result = {.ratio = 0};

    if (!figures)
        abort();
    bool has_baseline = compare->baseline || compare->baseline_ns;

    measure(compare->run, compare->run_ns, compare->repeats / 10 + 1);
    if (has_baseline)
        measure(compare->baseline, compare->baseline_ns, base_repeats / 10 + 1);
    for (uint32_t i = 0; i < rounds; i++) {
        ours[i] = measure(compare->run, compare->run_ns, compare->repeats);
        base[i] = has_baseline ? measure(compare->baseline, compare->baseline_ns, base_repeats) : 1;
        ratios[i] = ours[i] / base[i];
    }
    result.ns = median(ours, rounds);
    result.least_ns = ours[0];
    if (has_baseline) {
        result.baseline_ns = median(base, rounds);
        result.baseline_least_ns = base[0];
        result.ratio = median(ratios, rounds);
    }
    free(figures);
    print_row(compare, &result);
    return result;
}
