/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fuzz - what a target is
 *
 * Use:         fuzz_NAME.c defines fuzz_one(), which hands foreign bytes to the code under test and
 *              asserts what must hold whatever they are. A crash, an assertion and a sanitizer's
 *              report are findings; so is what the test leaves behind.
 * Concurrency: one thread; called again and again in one process
 * Not here:    main(): of libFuzzer, or replay.c
 */
#include <assert.h> /* stays on in every build */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

void fuzz_one(const uint8_t *data, size_t len);

/* The bytes that are left of an input, for targets whose inputs are a sequence of things. */
struct fuzz_bytes {
    const uint8_t *at;
    size_t len;
};

/* Up to `len` bytes. */
static inline struct fuzz_bytes fuzz_take(struct fuzz_bytes *bytes, size_t len)
{
    struct fuzz_bytes taken = {bytes->at, len < bytes->len ? len : bytes->len};

    bytes->at += taken.len;
    bytes->len -= taken.len;
    return taken;
}

/* A little-endian number of up to eight bytes; those that are missing are 0. */
static inline uint64_t fuzz_number(struct fuzz_bytes *bytes, size_t n)
{
    struct fuzz_bytes taken = fuzz_take(bytes, n);
    uint64_t number = 0;

    for (size_t i = 0; i < taken.len; i++)
        number |= (uint64_t)taken.at[i] << (8 * i);
    return number;
}
