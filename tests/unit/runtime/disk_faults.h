/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * disk_faults - a kernel that answers as one short of memory, time and luck would
 *
 * Why:         EAGAIN, EINTR, EIO, partial submissions, short counts and completions that come late
 *              and out of order are rare, and each is a branch of the engines.
 * Use:         faults_begin(ctx, seed, granule); run requests; faults_end();
 *              faults.n_faults tells how many were given.
 * Concurrency: the hooks of workers draw their chances from one atomic step; all else is the
 *              loop's.
 * Lifetime:    one context at a time; faults_end() when no request is in flight
 *
 * A chance depends on the seed and on how many were drawn before, so a run of the loop alone
 * repeats exactly; workers draw in the order in which they happen to run.
 *
 * Counts are cut to multiples of granule (direct I/O goes on in whole blocks). What was read beyond
 * the cut is spoilt, so that only the right continuation gives the right content.
 */
#include "runtime/atomic.h"
#include "tests/unit/runtime/disk_fixture.h"

#define MOST_HELD 32

static struct {
    struct disk_kernel kernel;
    AioContext *ctx;
    BH *release_bh;
    uint64_t seed;
    uint64_t step;
    uint64_t n_faults;
    size_t granule;
    struct {
        struct disk_request *request;
        ssize_t result;
    } held[MOST_HELD];
    unsigned n_held;
    unsigned n_held_ever;
    unsigned n_out_of_order;
} faults;

static inline uint64_t faults_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static inline uint64_t faults_draw(void)
{
    return faults_mix(faults.seed + atomic_add_seq(&faults.step, 1) * 0x9e3779b97f4a7c15ULL);
}

static inline bool faults_chance(unsigned in_a_hundred)
{
    if (faults_draw() % 100 >= in_a_hundred)
        return false;
    atomic_add_seq(&faults.n_faults, 1);
    return true;
}

/* One of the errors that a call may end with, or 0. */
static inline int faults_error(void)
{
    static const int errors[] = {-EAGAIN, -EINTR, -EIO};

    return faults_chance(12) ? errors[faults_draw() % 3] : 0;
}

/* A part of n that is not nothing; n itself where there is no smaller one. */
static inline size_t faults_part(size_t n)
{
    size_t granules = n / faults.granule;

    if (granules < 2 || !faults_chance(30))
        return n;
    return (faults_draw() % (granules - 1) + 1) * faults.granule;
}

/* ---- plain calls, in workers and at once ---- */

static inline int faults_cut_iov(const struct iovec *iov, struct iovec *ret_first)
{
    int r = faults_error();

    *ret_first = iov[0];
    ret_first->iov_len = faults_part(iov[0].iov_len);
    return r;
}

static inline ssize_t faults_preadv(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    struct iovec first;
    int r = faults_cut_iov(iov, &first);

    if (r < 0)
        return r;
    return first.iov_len == iov[0].iov_len ? disk_kernel_real.preadv(fd, iov, n_iov, offset, flags)
                                           : disk_kernel_real.preadv(fd, &first, 1, offset, flags);
}

static inline ssize_t faults_pwritev(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    struct iovec first;
    int r = faults_cut_iov(iov, &first);

    if (r < 0)
        return r;
    return first.iov_len == iov[0].iov_len ? disk_kernel_real.pwritev(fd, iov, n_iov, offset, flags)
                                           : disk_kernel_real.pwritev(fd, &first, 1, offset, flags);
}

/* ---- submissions ---- */

static inline int faults_io_submit(struct io_context *aio, long n, struct iocb **iocbs)
{
    int r = faults_error();

    if (r == -EIO)
        r = 0; /* of the first request: others are its fault's */
    if (r < 0)
        return r;
    return disk_kernel_real.io_submit(aio, n > 1 && faults_chance(30) ? n / 2 : n, iocbs);
}

static inline int faults_uring_enter(int ring_fd, unsigned to_submit, unsigned min_complete,
    unsigned flags, void *arg, size_t arg_bytes)
{
    int r = to_submit > 0 ? faults_error() : 0;

    if (r < 0)
        return r == -EIO ? -EBUSY : r;
    if (to_submit > 1 && faults_chance(30)) { /* one that takes less does not wait either */
        to_submit /= 2;
        min_complete = 0;
    }
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

/* ---- results ---- */

static inline void faults_spoil(const struct iovec *iov, int n_iov, size_t from)
{
    for (int i = 0; i < n_iov; i++) {
        if (from < iov[i].iov_len) {
            memset((char *)iov[i].iov_base + from, 0xee, iov[i].iov_len - from);
            from = 0;
        } else {
            from -= iov[i].iov_len;
        }
    }
}

static inline void faults_spoil_read(const struct disk_request *request, size_t from)
{
    struct iovec single = {.iov_base = request->buf, .iov_len = request->len};

    if (request->op == DISK_READ)
        faults_spoil(&single, 1, from);
    else if (request->op == DISK_READV)
        faults_spoil(request->iov, request->n_iov, from);
}

static inline ssize_t faults_result(const struct disk_request *request, ssize_t result)
{
    bool moves_data = disk_is_read(request) || disk_is_write(request);

    if (result < 0 || (!moves_data && request->op != DISK_FSYNC && request->op != DISK_FDATASYNC))
        return result;
    int error = faults_error();
    size_t part = error < 0 ? 0 : faults_part((size_t)result);
    faults_spoil_read(request, part);
    return error < 0 ? error : (ssize_t)part;
}

/* ---- completions, late and in another order ---- */

static inline void faults_release(void *opaque)
{
    unsigned i = (unsigned)(faults_draw() % faults.n_held);
    struct disk_request *request = faults.held[i].request;
    ssize_t result = faults.held[i].result;

    faults.n_out_of_order += i > 0;
    faults.n_held--;
    memmove(&faults.held[i], &faults.held[i + 1], (faults.n_held - i) * sizeof faults.held[0]);
    if (faults.n_held > 0)
        bh_schedule(faults.release_bh);
    disk_complete_held(faults.ctx, request, result);
}

static inline bool faults_hold(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    assert_ptr_equal(ctx, faults.ctx);
    if (faults.n_held == MOST_HELD || !faults_chance(40))
        return false;
    faults.held[faults.n_held].request = request;
    faults.held[faults.n_held++].result = result;
    faults.n_held_ever++;
    bh_schedule(faults.release_bh);
    return true;
}

/* ---- life ---- */

static inline void faults_begin(AioContext *ctx, uint64_t seed, size_t granule)
{
    memset(&faults, 0, sizeof faults);
    faults.kernel = disk_kernel_real;
    faults.kernel.preadv = faults_preadv;
    faults.kernel.pwritev = faults_pwritev;
    faults.kernel.io_submit = faults_io_submit;
    faults.kernel.uring_enter = faults_uring_enter;
    faults.kernel.result = faults_result;
    faults.kernel.hold = faults_hold;
    faults.ctx = ctx;
    faults.seed = seed;
    faults.granule = granule;
    faults.release_bh = aio_bh_new(ctx, faults_release, NULL);
    ctx->disk.kernel = &faults.kernel;
}

static inline void faults_end(void)
{
    assert_int_equal(faults.n_held, 0);
    faults.ctx->disk.kernel = &disk_kernel_real;
    bh_delete(faults.release_bh);
}
