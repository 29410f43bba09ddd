/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * buffer_pool - buffers of one size, at most so many, for which coroutines wait in line
 *
 * Why:         thousands of requests in flight must not mean thousands of buffers, or of open
 *              files.
 * Use:         void *buf = buffer_pool_take_co(&pool);  …  buffer_pool_put(&pool, buf);
 * Concurrency: owner loop; taking: coroutine.
 * Lifetime:    buffers stay with the pool, last put first taken (it is warm), until deinit; by then
 *              all are back.
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime/coroutine.h"

struct spare_buffer;

struct buffer_pool {
    size_t buffer_bytes;
    uint32_t limit;
    uint32_t n_taken;
    uint32_t n_promised; /* of the places left, those that a woken waiter is about to take */
    struct spare_buffer *spare;
    CoQueue waiters;
};

void buffer_pool_init(struct buffer_pool *pool, size_t buffer_bytes, uint32_t limit);
void buffer_pool_deinit(struct buffer_pool *pool);

/* First come, first served. NULL: no memory. */
void *coroutine_fn buffer_pool_take_co(struct buffer_pool *pool);

/* NULL does nothing. */
void buffer_pool_put(struct buffer_pool *pool, void *buffer);
