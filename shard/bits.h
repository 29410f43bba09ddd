/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bits - a bit for each peer, in words of 64
 *
 * Why:         which word, and which bit of it, is said once.
 * Use:         uint64_t told[SEGMENT_BITMAP_WORDS] = {0}; bits_set(told, peer); bits_has(told,
 *              peer)
 * Concurrency: the owner's; words that others write are read and written by runtime/atomic.h, with
 *              bits_mask() of words[peer / 64]
 * Lifetime:    the words are the caller's
 */
#include <stdbool.h>
#include <stdint.h>

static inline uint64_t bits_mask(uint32_t n)
{
    return UINT64_C(1) << n % 64;
}

static inline bool bits_has(const uint64_t *words, uint32_t n)
{
    return words[n / 64] & bits_mask(n);
}

static inline void bits_set(uint64_t *words, uint32_t n)
{
    words[n / 64] |= bits_mask(n);
}

static inline void bits_clear(uint64_t *words, uint32_t n)
{
    words[n / 64] &= ~bits_mask(n);
}
