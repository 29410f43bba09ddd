/* SPDX-License-Identifier: MIT */
#include "runtime/aio_register.h"
/*
 * Each table is kept here too, by place: the other engines, and the loop's own tries, need the fd
 * behind a place, and buffers are looked up by address, in an array that is sorted once. The copy
 * is made first and put in place when the kernel has agreed, so an error leaves all as it was.
 *
 * A ring with SINGLE_ISSUER takes registrations of its home thread alone, so it is enabled first,
 * as by any first use.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/disk_fixed.h"
#include "runtime/uring.h"

#define MOST_BUFFER_BYTES ((size_t)1 << 30)

static AioContext *current(void)
{
    AioContext *ctx = aio_context_current();

    assert(ctx);
    return ctx;
}

/* io_uring_register(), where the context has a ring for its disk I/O. */
static int tell_kernel(AioContext *ctx, unsigned opcode, const void *arg, unsigned n)
{
    return ctx->engine == &engine_uring_ops ? uring_register(ctx, opcode, arg, n) : 0;
}

/* ---- files ---- */

static int check_files(const int *fds, uint32_t n_fds)
{
    if (n_fds == 0 || n_fds > AIO_MOST_FIXED_FILES)
        return -EINVAL;
    for (uint32_t i = 0; i < n_fds; i++)
        if (fds[i] != -1 && fcntl(fds[i], F_GETFD) < 0)
            return -EBADF;
    return 0;
}

/* The kernel says how many it did. The rest then has the error. */
static int update_kernel_files(AioContext *ctx, uint32_t first, const int *fds, uint32_t n_fds)
{
    struct io_uring_files_update update = {.offset = first, .fds = (uintptr_t)fds};
    int r = tell_kernel(ctx, IORING_REGISTER_FILES_UPDATE, &update, n_fds);

    return r < 0 || ctx->engine != &engine_uring_ops || (uint32_t)r == n_fds ? r : -ENOMEM;
}

/* A ring with a life fd has its table from the start, and keeps it. */
static uint32_t guarded_places(const AioContext *ctx)
{
    return ctx->engine == &engine_uring_ops ? uring_guarded_places(uring_of(ctx)) : 0;
}

static int register_with_kernel(AioContext *ctx, const int *fds, uint32_t n_fds)
{
    uint32_t n_places = guarded_places(ctx);

    if (!n_places)
        return tell_kernel(ctx, IORING_REGISTER_FILES, fds, n_fds);
    return n_fds > n_places ? -EMFILE : update_kernel_files(ctx, 0, fds, n_fds);
}

static int empty_places(AioContext *ctx, uint32_t n_fds)
{
    int *none = malloc(n_fds * sizeof *none);
    int r;

    if (!none)
        return -ENOMEM;
    for (uint32_t i = 0; i < n_fds; i++)
        none[i] = -1;
    r = update_kernel_files(ctx, 0, none, n_fds);
    free(none);
    return r < 0 ? r : 0;
}

int aio_register_files(const int *fds, uint32_t n_fds)
{
    AioContext *ctx = current();
    struct disk_fixed *fixed = &ctx->disk.fixed;
    int r = fixed->fds ? -EBUSY : check_files(fds, n_fds);

    if (r < 0)
        return r;
    int *copy = malloc(n_fds * sizeof *copy);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, fds, n_fds * sizeof *copy);
    r = register_with_kernel(ctx, copy, n_fds);
    if (r < 0) {
        /* A table that was there may have taken some. */
        if (guarded_places(ctx) && n_fds <= guarded_places(ctx))
            empty_places(ctx, n_fds);
        free(copy);
        return r;
    }
    fixed->fds = copy;
    fixed->n_fds = n_fds;
    return 0;
}

int aio_update_files(uint32_t first, const int *fds, uint32_t n_fds)
{
    AioContext *ctx = current();
    struct disk_fixed *fixed = &ctx->disk.fixed;
    int r = check_files(fds, n_fds);

    if (r < 0)
        return r;
    if (first >= fixed->n_fds || n_fds > fixed->n_fds - first)
        return -ENXIO;
    r = update_kernel_files(ctx, first, fds, n_fds);
    if (r < 0) {
        /* Some may have been replaced: they were all good before. */
        update_kernel_files(ctx, first, fixed->fds + first, n_fds);
        return r;
    }
    memcpy(fixed->fds + first, fds, n_fds * sizeof *fds);
    return 0;
}

int aio_unregister_files(void)
{
    AioContext *ctx = current();
    struct disk_fixed *fixed = &ctx->disk.fixed;

    if (!fixed->fds)
        return -ENXIO;
    int r = guarded_places(ctx) ? empty_places(ctx, fixed->n_fds)
                                : tell_kernel(ctx, IORING_UNREGISTER_FILES, NULL, 0);
    if (r < 0)
        return r;
    free(fixed->fds);
    fixed->fds = NULL;
    fixed->n_fds = 0;
    return 0;
}

/* ---- buffers ---- */

static int check_buffers(const struct iovec *buffers, uint32_t n_buffers)
{
    if (n_buffers == 0 || n_buffers > AIO_MOST_FIXED_BUFFERS)
        return -EINVAL;
    for (uint32_t i = 0; i < n_buffers; i++)
        if (buffers[i].iov_len > MOST_BUFFER_BYTES ||
            !buffers[i].iov_base != (buffers[i].iov_len == 0))
            return -EFAULT;
    return 0;
}

static int by_address(const void *a, const void *b)
{
    const struct fixed_region *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

static uint32_t sort_regions(
    struct fixed_region *regions, const struct iovec *buffers, uint32_t n_buffers)
{
    uint32_t n = 0;

    for (uint32_t place = 0; place < n_buffers; place++)
        if (buffers[place].iov_len > 0)
            regions[n++] = (struct fixed_region){.begin = (uintptr_t)buffers[place].iov_base,
                .bytes = buffers[place].iov_len,
                .place = place};
    qsort(regions, n, sizeof *regions, by_address);
    return n;
}

int aio_register_buffers(const struct iovec *buffers, uint32_t n_buffers)
{
    AioContext *ctx = current();
    struct disk_fixed *fixed = &ctx->disk.fixed;
    int r = fixed->buffers ? -EBUSY : check_buffers(buffers, n_buffers);

    if (r < 0)
        return r;
    struct iovec *copy = malloc(n_buffers * sizeof *copy);
    struct fixed_region *regions = malloc(n_buffers * sizeof *regions);

    r = copy && regions ? tell_kernel(ctx, IORING_REGISTER_BUFFERS, buffers, n_buffers) : -ENOMEM;
    if (r < 0) {
        free(copy);
        free(regions);
        return r;
    }
    memcpy(copy, buffers, n_buffers * sizeof *copy);
    fixed->buffers = copy;
    fixed->n_buffers = n_buffers;
    fixed->regions = regions;
    fixed->n_regions = sort_regions(regions, copy, n_buffers);
    fixed->last_region = 0;
    return 0;
}

static int update_kernel_buffers(
    AioContext *ctx, uint32_t first, const struct iovec *buffers, uint32_t n_buffers)
{
    struct io_uring_rsrc_update2 update = {
        .offset = first, .data = (uintptr_t)buffers, .nr = n_buffers};
    int r = tell_kernel(ctx, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof update);

    return r < 0 || ctx->engine != &engine_uring_ops || (uint32_t)r == n_buffers ? r : -EFAULT;
}

int aio_update_buffers(uint32_t first, const struct iovec *buffers, uint32_t n_buffers)
{
    AioContext *ctx = current();
    struct disk_fixed *fixed = &ctx->disk.fixed;
    int r = check_buffers(buffers, n_buffers);

    if (r < 0)
        return r;
    if (first >= fixed->n_buffers || n_buffers > fixed->n_buffers - first)
        return -ENXIO;
    r = update_kernel_buffers(ctx, first, buffers, n_buffers);
    if (r < 0) {
        update_kernel_buffers(ctx, first, fixed->buffers + first, n_buffers);
        return r;
    }
    memcpy(fixed->buffers + first, buffers, n_buffers * sizeof *buffers);
    fixed->n_regions = sort_regions(fixed->regions, fixed->buffers, fixed->n_buffers);
    fixed->last_region = 0;
    return 0;
}

static void drop_buffers(struct disk_fixed *fixed)
{
    free(fixed->buffers);
    free(fixed->regions);
    fixed->buffers = NULL;
    fixed->regions = NULL;
    fixed->n_buffers = fixed->n_regions = 0;
}

int aio_unregister_buffers(void)
{
    AioContext *ctx = current();

    if (!ctx->disk.fixed.buffers)
        return -ENXIO;
    int r = tell_kernel(ctx, IORING_UNREGISTER_BUFFERS, NULL, 0);
    if (r < 0)
        return r;
    drop_buffers(&ctx->disk.fixed);
    return 0;
}

/* ---- looking up ---- */

/* The last region that begins at buf or before it; the first where none does. */
static uint32_t region_before(const struct disk_fixed *fixed, const void *buf)
{
    uint32_t low = 0, high = fixed->n_regions;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (fixed->regions[middle].begin <= (uintptr_t)buf)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int disk_fixed_search(struct disk_fixed *fixed, const void *buf, size_t len)
{
    uint32_t i = region_before(fixed, buf);

    if (!fixed_region_has(&fixed->regions[i], buf, len))
        return -1;
    fixed->last_region = i;
    return (int)fixed->regions[i].place;
}

void disk_fixed_deinit(struct disk_fixed *fixed)
{
    free(fixed->fds);
    fixed->fds = NULL;
    fixed->n_fds = 0;
    drop_buffers(fixed);
}
