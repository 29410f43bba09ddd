/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * image - what has to be the same in every process of an instance, and is compared
 *
 * Why:         addresses of code, data and thread-local variables travel between shards inside
 *              coroutines; they mean the same only in processes forked from one image.
 * Use:         supervisor, before the first fork: image_read(); child, at its start: image_read()
 *              into another, image_difference()
 * Concurrency: main thread
 */
#include <stdint.h>

#include "runtime/build_id.h"

struct segment;

/* X(field, what it is) */
#define IMAGE_FACTS(X)                                                  \
    X(code, "the address of the code")                                  \
    X(data, "the address of the data")                                  \
    X(thread_local_errno, "the address of the main thread's variables") \
    X(stack_guard, "the stack protector's value")                       \
    X(segment, "the address of the segment")

struct image {
#define X(field, what) uint64_t field;
    IMAGE_FACTS(X)
#undef X
    uint8_t build_id[BUILD_ID_BYTES];
};

void image_read(const struct segment *segment, struct image *ret);

/* NULL: they are equal; else what differs. */
const char *image_difference(const struct image *a, const struct image *b);
