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
 * A bucket is at most 1/64 wider than what it begins with, so a figure is at most 1.6 % too high.
 */
#include <stdint.h>

#define HISTOGRAM_BITS    6u
#define HISTOGRAM_STEPS   (1u << HISTOGRAM_BITS) /* buckets between two powers of two */
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * (64 - HISTOGRAM_BITS + 1)) /* for any 64-bit value */

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
