/* SPDX-License-Identifier: MIT */
/*
 * bench_disk - what the runtime adds to a read
 *
 * Random reads of 4 KiB, a coroutine for each that is in flight, beside a bare liburing loop with
 * the same flags, depth, file and buffers. Both sides run in turns of a millisecond; the ratio is
 * the median of the turns', and below 1 the runtime is the faster. The first row measures the bare
 * loop against itself: where that is not near 1.00, the machine is too busy to tell anything.
 *
 * usage: bench_disk [FILE]
 *        a file of FILE_BYTES is made there and removed, in the page cache of a disk's file system
 *        (tmpfs sends io_uring's reads to a worker); default ./bench_disk.tmp
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/aio_register.h"
#include "runtime/aio_sqe.h"
#include "runtime/disk.h"
#include "tests/bench/bare_reads.h"
#include "tests/bench/compare.h"

#define FILE_BYTES  ((size_t)512 << 20)
#define HOT_REPEATS 1536 /* a good millisecond, which mostly is one time slice */
#define HOT_ROUNDS  501
#define MOST_NOISE  0.03 /* of the bare loop against itself */

/* What a row measures: the bare loop has the figures of both sides. */
static struct bare_reads bare;
static AioContext *ctx;

static void die(const char *what, int error)
{
    fprintf(stderr, "bench_disk: %s: %s\n", what, strerror(error));
    exit(1);
}

static void bare_reads(uint64_t n)
{
    bare_reads_run(&bare, n);
}

static void bare_nops(uint64_t n)
{
    bare_reads_nops(&bare, n);
}

/* ---- coroutines ---- */

struct reader {
    char *buf;
    uint64_t *n_left;
    unsigned *n_running;
};

static void read_blocks(void *opaque)
{
    struct reader *reader = opaque;
    int fd = bare.is_fixed ? AIO_FIXED_FD(bare.is_direct) : bare.fds[bare.is_direct];

    while (*reader->n_left > 0) {
        --*reader->n_left;
        ssize_t n = co_pread(fd, reader->buf, BARE_READ_BYTES, bare_reads_offset(&bare));
        if (n != (ssize_t)BARE_READ_BYTES)
            die("co_pread", n < 0 ? (int)-n : EIO);
    }
    --*reader->n_running;
}

static void our_reads(uint64_t n)
{
    struct reader readers[BARE_DEPTH_MAX];
    unsigned n_running = bare.depth;

    for (unsigned i = 0; i < bare.depth; i++) {
        readers[i] = (struct reader){bare.buffers + i * BARE_READ_BYTES, &n, &n_running};
        coroutine_enter(coroutine_create(read_blocks, &readers[i]));
    }
    while (n_running > 0)
        aio_poll(ctx, true);
}

/* ---- entries of the program's ---- */

struct nops {
    AioCqeHandler handler;
    uint64_t *n_left;
    unsigned *n_running;
};

static void fill_nop(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_nop(sqe);
}

static void next_nop(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct nops *nops = (struct nops *)handler;

    if (*nops->n_left == 0) {
        --*nops->n_running;
        return;
    }
    --*nops->n_left;
    aio_add_sqe(fill_nop, NULL, handler);
}

static void our_nops(uint64_t n)
{
    struct nops nops[BARE_DEPTH_MAX];
    unsigned n_running = bare.depth;

    for (unsigned i = 0; i < bare.depth; i++) {
        nops[i] = (struct nops){.handler.cb = next_nop, .n_left = &n, .n_running = &n_running};
        next_nop(&nops[i].handler, 0, 0);
    }
    while (n_running > 0)
        aio_poll(ctx, true);
}

/* ---- the table ---- */

/* False where the engine is not to be had, which is said. */
static bool use_engine(enum aio_engine engine)
{
    struct aio_config config = {.engine = engine};
    struct iovec arena = {.iov_base = bare.buffers, .iov_len = BARE_DEPTH_MAX * BARE_READ_BYTES};
    int r = aio_context_new(&config, &ctx);

    if (r < 0) {
        printf("%s: %s\n", aio_engine_name(engine), strerror(-r));
        return false;
    }
    aio_context_set_current(ctx);
    if (aio_register_files(bare.fds, 2) < 0 || aio_register_buffers(&arena, 1) < 0)
        die("aio_register", ENOMEM);
    return true;
}

static void leave_engine(void)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

static void hot_row(const char *what, unsigned depth, bool fixed, double most_ratio)
{
    bare.depth = depth;
    bare.is_fixed = fixed;
    bare.is_direct = false;
    compare_row(&(struct compare){.what = what,
        .run = our_reads,
        .baseline_name = fixed ? "bare liburing, fixed" : "bare liburing",
        .baseline = bare_reads,
        .repeats = HOT_REPEATS,
        .rounds = HOT_ROUNDS,
        .goal = {.most_ratio = most_ratio}});
}

static void direct_row(const char *what, unsigned depth, double most_ratio)
{
    bare.depth = depth;
    bare.is_fixed = bare.is_direct = true;
    compare_row(&(struct compare){.what = what,
        .run = our_reads,
        .baseline_name = "bare liburing, fixed",
        .baseline = bare_reads,
        .repeats = depth == 1 ? 50 : 500,
        .rounds = 41,
        .goal = {.most_ratio = most_ratio}});
}

static void nop_row(const char *what, unsigned depth)
{
    bare.depth = depth;
    compare_row(&(struct compare){.what = what,
        .run = our_nops,
        .baseline_name = "bare liburing",
        .baseline = bare_nops,
        .repeats = HOT_REPEATS * 4,
        .rounds = HOT_ROUNDS});
}

/* How far from 1 the bare loop is when it runs against itself. */
static double noise(void)
{
    bare.depth = 32;
    bare.is_fixed = true;
    bare.is_direct = false;
    struct compare_result r = compare_row(&(struct compare){.what = "bare liburing, depth 32",
        .run = bare_reads,
        .baseline_name = "itself",
        .baseline = bare_reads,
        .repeats = HOT_REPEATS,
        .rounds = HOT_ROUNDS,
        .goal = {.text = "1.00 on a quiet machine"}});
    double spread = r.ns / r.least_ns - 1;

    printf("%44s a turn took %.0f %% more than the fastest one\n", "", spread * 100);
    return fabs(r.ratio - 1);
}

static void io_uring_rows(void)
{
    if (!use_engine(AIO_ENGINE_IO_URING))
        return;
    printf("flags: %s\n", aio_context_engine_flags(ctx));
    hot_row("page cache, depth 1, fixed", 1, true, 0);
    hot_row("page cache, depth 32, fixed", 32, true, 1 / 0.93);
    hot_row("page cache, depth 128, fixed", 128, true, 0);
    hot_row("page cache, depth 1", 1, false, 0);
    hot_row("page cache, depth 32", 32, false, 0);
    if (bare.fds[1] >= 0) {
        direct_row("O_DIRECT, depth 1, fixed", 1, 0);
        direct_row("O_DIRECT, depth 32, fixed", 32, 1 / 0.98);
        direct_row("O_DIRECT, depth 128, fixed", 128, 0);
    }
    nop_row("NOP by aio_add_sqe(), depth 32", 32);
    leave_engine();
}

static void other_rows(enum aio_engine engine, const char *hot, const char *direct)
{
    if (!use_engine(engine))
        return;
    hot_row(hot, 32, true, 0);
    if (bare.fds[1] >= 0)
        direct_row(direct, 32, 0);
    leave_engine();
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "bench_disk.tmp";
    int fd = bare_reads_make_file(path, FILE_BYTES);

    bare_reads_open(&bare, fd, open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), FILE_BYTES);
    unlink(path);

    compare_head();
    double before = noise();
    io_uring_rows();
    other_rows(
        AIO_ENGINE_LINUX_AIO, "linux-aio, page cache, depth 32", "linux-aio, O_DIRECT, depth 32");
    other_rows(AIO_ENGINE_THREADS, "threads, page cache, depth 32", "threads, O_DIRECT, depth 32");
    double after = noise();
    if (before > MOST_NOISE || after > MOST_NOISE)
        printf("This machine was too busy: the ratios above are off by as much as %.0f %%.\n",
            (before > after ? before : after) * 100);
    bare_reads_close(&bare);
    return compare_end();
}
