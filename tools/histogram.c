/* SPDX-License-Identifier: MIT */
#include "tools/histogram.h"
/*
 * Values below HISTOGRAM_STEPS have a bucket each. Above, the bits behind a value's highest one say
 * which of the buckets of its power of two it is in.
 */

static uint32_t bucket_of(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - HISTOGRAM_BITS;
    return shift * HISTOGRAM_STEPS + (uint32_t)(value >> shift);
}

/* The largest value in a bucket. */
static uint64_t bucket_end(uint32_t bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    uint32_t shift = bucket / HISTOGRAM_STEPS - 1;
    uint64_t first = (uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << shift;
    return first + ((UINT64_C(1) << shift) - 1);
}

void histogram_add(struct histogram *h, uint64_t value)
{
    h->counts[bucket_of(value)]++;
    h->n++;
    h->sum += value;
    if (value > h->most)
        h->most = value;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->counts[i] += from->counts[i];
    into->n += from->n;
    into->sum += from->sum;
    if (from->most > into->most)
        into->most = from->most;
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    double wanted = (double)h->n * percent / 100;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->counts[i];
        if (seen && (double)seen >= wanted)
            return bucket_end(i) < h->most ? bucket_end(i) : h->most;
    }
    return h->most;
}

uint64_t histogram_mean(const struct histogram *h)
{
    return h->n ? h->sum / h->n : 0;
}
