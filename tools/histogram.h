/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * histogram - how long many things took, in little memory
 *
 * Why:         percentiles out to 99.99 need all samples, and a bench has millions.
 * Use:         struct histogram h = {0};
 *              histogram_add(&h, ns);
 *              histogram_merge(&all, &h);
 *              histogram_percentile(&all, 99.9);
 * Concurrency: one thread a histogram
 * Lifetime:    a plain value; zero bytes are the empty one
 *
 * A bucket is at most 1/32 wider than what it begins with, so a figure is at most 3.2 % too high.
 */
#include <stdint.h>

#define HISTOGRAM_STEPS   32u                              /* buckets between two powers of two */
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * (64 - 5 + 1)) /* for any 64-bit value */

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t n;
    uint64_t sum;
    uint64_t most;
};

void histogram_add(struct histogram *h, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The least value that `percent` of the samples do not exceed, or the largest sample where that is
 * less; 0 where there is none. */
uint64_t histogram_percentile(const struct histogram *h, double percent);
uint64_t histogram_mean(const struct histogram *h);
