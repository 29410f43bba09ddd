/* SPDX-License-Identifier: MIT */
#include "services/buffer_pool.h"

#include <assert.h>
#include <stdlib.h>

/*
 * A put while others wait promises the place to the first of them. Whoever comes between that wake
 * and the waiter's turn sees no free place and waits behind it.
 */

struct spare_buffer {
    struct spare_buffer *next;
};

void buffer_pool_init(struct buffer_pool *pool, size_t buffer_bytes, uint32_t limit)
{
    assert(buffer_bytes >= sizeof(struct spare_buffer) && limit > 0);
    *pool = (struct buffer_pool){.buffer_bytes = buffer_bytes, .limit = limit};
    co_queue_init(&pool->waiters);
}

void buffer_pool_deinit(struct buffer_pool *pool)
{
    assert(pool->n_taken == 0);
    co_queue_deinit(&pool->waiters);
    while (pool->spare) {
        struct spare_buffer *spare = pool->spare;
        pool->spare = spare->next;
        free(spare);
    }
}

static void release_place(struct buffer_pool *pool)
{
    pool->n_taken--;
    if (co_queue_next(&pool->waiters))
        pool->n_promised++;
}

void *coroutine_fn buffer_pool_take_co(struct buffer_pool *pool)
{
    if (pool->n_taken + pool->n_promised >= pool->limit) {
        if (co_queue_wait(&pool->waiters, NULL) < 0)
            return NULL;
        pool->n_promised--;
    }
    pool->n_taken++;
    struct spare_buffer *buffer = pool->spare;
    if (buffer) {
        pool->spare = buffer->next;
        return buffer;
    }
    buffer = malloc(pool->buffer_bytes);
    if (!buffer)
        release_place(pool);
    return buffer;
}

void buffer_pool_put(struct buffer_pool *pool, void *buffer)
{
    if (!buffer)
        return;
    struct spare_buffer *spare = buffer;
    spare->next = pool->spare;
    pool->spare = spare;
    release_place(pool);
}
