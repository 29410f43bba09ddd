/* SPDX-License-Identifier: MIT */
#include "tests/bench/compare.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/aio.h"

#define DEFAULT_ROUNDS 15

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

static void print_row(const struct compare *c, const struct compare_result *r)
{
    printf("%-44s %10.1f %10.1f   ", c->what, r->ns, r->least_ns);
    if (c->baseline || c->baseline_ns)
        printf("%-24s %10.1f %10.1f %7.2f", c->baseline_name, r->baseline_ns, r->baseline_least_ns,
            r->ratio);
    else
        printf("%-24s %10s %10s %7s", "-", "", "", "");
    printf("  %s\n", c->goal ? c->goal : "");
    fflush(stdout);
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
