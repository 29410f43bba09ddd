/* SPDX-License-Identifier: MIT */
#include "runtime/engine.h"
/*
 * A context's part of disk I/O that is neither a call's (disk.c) nor an engine's: the completed
 * list and the limits. The coroutines of completed requests are entered from here, by the turn and
 * on its stack; those that complete meanwhile wait for the next turn, so that a coroutine whose
 * requests are all answered at once does not keep the loop for itself.
 */
#include <assert.h>

#include "runtime/coroutine_inside.h"
#include "runtime/disk_kernel.h"

#define DEFAULT_BATCH 32

void disk_queue_remove(struct disk_queue *queue, struct disk_request *request)
{
    struct disk_request *next = request->next;

    /* `before` is of use behind the first alone, and `last` while there is a first. */
    if (queue->first == request)
        queue->first = next;
    else
        request->before->next = next;
    if (next)
        next->before = request->before;
    else
        queue->last = request->before;
}

/* ---- the context's part ---- */

static uint32_t effective_batch(const struct disk_state *disk)
{
    uint32_t batch = disk->max_batch ? disk->max_batch : DEFAULT_BATCH;

    return batch < disk->depth ? batch : disk->depth;
}

void disk_init(AioContext *ctx)
{
    ctx->disk.depth = ctx->io_depth;
    ctx->disk.batch = effective_batch(&ctx->disk);
    ctx->disk.kernel = &disk_kernel_real;
}

void disk_deinit(AioContext *ctx)
{
    disk_fixed_deinit(&ctx->disk.fixed);
}

void aio_context_set_aio_params(AioContext *ctx, uint32_t max_batch)
{
    ctx->disk.max_batch = max_batch;
    ctx->disk.batch = effective_batch(&ctx->disk);
}

uint32_t aio_context_aio_batch(const AioContext *ctx)
{
    return ctx->disk.batch;
}

/* ---- the completed list ---- */

void disk_push_completed(AioContext *ctx, struct disk_request *request)
{
    disk_queue_push(&ctx->completed, request);
    ctx->disk.n_completed++;
}

void disk_complete_held(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    assert(!request->done);
    request->result = result;
    request->done = true;
    request->place = DISK_NOWHERE;
    if (request->waits)
        disk_push_completed(ctx, request);
}

void disk_complete(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    const struct disk_kernel *kernel = ctx->disk.kernel;

    if (!kernel->hold || !kernel->hold(ctx, request, result))
        disk_complete_held(ctx, request, result);
}

bool disk_dispatch_completed(AioContext *ctx)
{
    uint32_t n = ctx->disk.n_completed;
    bool progress = n > 0;

    /* A nested loop may have dispatched some of the n. */
    for (; n > 0 && ctx->completed.first; n--) {
        ctx->disk.n_completed--;
        co_enter_unclaimed(ctx, disk_queue_pop(&ctx->completed)->co);
    }
    return progress;
}
