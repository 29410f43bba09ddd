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
#include <liburing.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/aio_register.h"
#include "runtime/aio_sqe.h"
#include "runtime/disk.h"
#include "tests/bench/compare.h"

#define FILE_BYTES ((size_t)512 << 20)
#define READ_BYTES ((size_t)4096)
#define MOST_DEPTH 128
#define RING_FLAGS \
    (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
#define HOT_REPEATS 1536 /* a good millisecond, which mostly is one time slice */
#define HOT_ROUNDS  501
#define MOST_NOISE  0.03 /* of the bare loop against itself */

/* What a row measures. The callbacks of compare.h take no argument. */
static struct {
    int fd;        /* of the file, plain */
    int direct_fd; /* the same with O_DIRECT, or -1 */
    char *buffers; /* MOST_DEPTH of READ_BYTES */
    uint64_t seed;
    unsigned depth;
    bool fixed;  /* registered file and buffers */
    bool direct; /* O_DIRECT */
    AioContext *ctx;
    struct io_uring ring;
} bench;

static void die(const char *what, int error)
{
    fprintf(stderr, "bench_disk: %s: %s\n", what, strerror(error));
    exit(1);
}

/* ---- what is read ---- */

static uint64_t next_offset(void)
{
    bench.seed ^= bench.seed << 13;
    bench.seed ^= bench.seed >> 7;
    bench.seed ^= bench.seed << 17;
    return bench.seed % (FILE_BYTES / READ_BYTES) * READ_BYTES;
}

static void make_file(const char *path)
{
    char *block = malloc((size_t)1 << 20);

    if (!block)
        die(path, ENOMEM);
    memset(block, 'x', (size_t)1 << 20);
    bench.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (bench.fd < 0)
        die(path, errno);
    for (size_t at = 0; at < FILE_BYTES; at += (size_t)1 << 20)
        if (pwrite(bench.fd, block, (size_t)1 << 20, (off_t)at) != 1 << 20)
            die(path, errno ? errno : ENOSPC);
    free(block);
    if (fsync(bench.fd) < 0)
        die(path, errno);
    bench.direct_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    unlink(path);
}

static int plain_fd(void)
{
    return bench.direct ? bench.direct_fd : bench.fd;
}

/* ---- the bare loop ---- */

static void open_ring(void)
{
    int files[] = {bench.fd, bench.direct_fd};
    struct iovec arena = {.iov_base = bench.buffers, .iov_len = MOST_DEPTH * READ_BYTES};
    int r = io_uring_queue_init(2 * MOST_DEPTH, &bench.ring, RING_FLAGS);

    if (r == 0)
        r = io_uring_register_files(&bench.ring, files, 2);
    if (r == 0)
        r = io_uring_register_buffers(&bench.ring, &arena, 1);
    if (r < 0)
        die("io_uring", -r);
}

static void prepare_read(char *buf)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&bench.ring);

    if (bench.fixed) {
        io_uring_prep_read_fixed(sqe, bench.direct, buf, READ_BYTES, next_offset(), 0);
        sqe->flags |= IOSQE_FIXED_FILE;
    } else {
        io_uring_prep_read(sqe, plain_fd(), buf, READ_BYTES, next_offset());
    }
    io_uring_sqe_set_data(sqe, buf);
}

static void prepare_nop(char *buf)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&bench.ring);

    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, buf);
}

static inline void bare_loop(uint64_t n, void (*prepare)(char *buf), int expected)
{
    uint64_t n_started = 0, n_ended = 0;

    while (n_started < bench.depth)
        prepare(bench.buffers + n_started++ * READ_BYTES);
    while (n_ended < n_started) {
        struct io_uring_cqe *cqe;
        unsigned head, n_here = 0;

        io_uring_submit_and_wait(&bench.ring, 1);
        io_uring_for_each_cqe(&bench.ring, head, cqe)
        {
            if (cqe->res != expected)
                die("a bare operation", cqe->res < 0 ? -cqe->res : EIO);
            n_here++;
            if (n_started < n) {
                n_started++;
                prepare(io_uring_cqe_get_data(cqe));
            }
        }
        io_uring_cq_advance(&bench.ring, n_here);
        n_ended += n_here;
    }
}

static void bare_reads(uint64_t n)
{
    bare_loop(n, prepare_read, READ_BYTES);
}

static void bare_nops(uint64_t n)
{
    bare_loop(n, prepare_nop, 0);
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
    int fd = bench.fixed ? AIO_FIXED_FD(bench.direct) : plain_fd();

    while (*reader->n_left > 0) {
        --*reader->n_left;
        ssize_t n = co_pread(fd, reader->buf, READ_BYTES, next_offset());
        if (n != (ssize_t)READ_BYTES)
            die("co_pread", n < 0 ? (int)-n : EIO);
    }
    --*reader->n_running;
}

static void our_reads(uint64_t n)
{
    struct reader readers[MOST_DEPTH];
    unsigned n_running = bench.depth;

    for (unsigned i = 0; i < bench.depth; i++) {
        readers[i] = (struct reader){bench.buffers + i * READ_BYTES, &n, &n_running};
        coroutine_enter(coroutine_create(read_blocks, &readers[i]));
    }
    while (n_running > 0)
        aio_poll(bench.ctx, true);
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
    struct nops nops[MOST_DEPTH];
    unsigned n_running = bench.depth;

    for (unsigned i = 0; i < bench.depth; i++) {
        nops[i] = (struct nops){.handler.cb = next_nop, .n_left = &n, .n_running = &n_running};
        next_nop(&nops[i].handler, 0, 0);
    }
    while (n_running > 0)
        aio_poll(bench.ctx, true);
}

/* ---- the table ---- */

/* False where the engine is not to be had, which is said. */
static bool use_engine(enum aio_engine engine)
{
    struct aio_config config = {.engine = engine};
    int files[] = {bench.fd, bench.direct_fd};
    struct iovec arena = {.iov_base = bench.buffers, .iov_len = MOST_DEPTH * READ_BYTES};
    int r = aio_context_new(&config, &bench.ctx);

    if (r < 0) {
        printf("%s: %s\n", aio_engine_name(engine), strerror(-r));
        return false;
    }
    aio_context_set_current(bench.ctx);
    if (aio_register_files(files, 2) < 0 || aio_register_buffers(&arena, 1) < 0)
        die("aio_register", ENOMEM);
    return true;
}

static void leave_engine(void)
{
    aio_context_set_current(NULL);
    aio_context_unref(bench.ctx);
}

static void hot_row(const char *what, unsigned depth, bool fixed, const char *goal)
{
    bench.depth = depth;
    bench.fixed = fixed;
    bench.direct = false;
    compare_row(&(struct compare){.what = what,
        .run = our_reads,
        .baseline_name = fixed ? "bare liburing, fixed" : "bare liburing",
        .baseline = bare_reads,
        .repeats = HOT_REPEATS,
        .rounds = HOT_ROUNDS,
        .goal = goal});
}

static void direct_row(const char *what, unsigned depth, const char *goal)
{
    bench.depth = depth;
    bench.fixed = bench.direct = true;
    compare_row(&(struct compare){.what = what,
        .run = our_reads,
        .baseline_name = "bare liburing, fixed",
        .baseline = bare_reads,
        .repeats = depth == 1 ? 50 : 500,
        .rounds = 41,
        .goal = goal});
}

static void nop_row(const char *what, unsigned depth)
{
    bench.depth = depth;
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
    bench.depth = 32;
    bench.fixed = true;
    bench.direct = false;
    struct compare_result r = compare_row(&(struct compare){.what = "bare liburing, depth 32",
        .run = bare_reads,
        .baseline_name = "itself",
        .baseline = bare_reads,
        .repeats = HOT_REPEATS,
        .rounds = HOT_ROUNDS,
        .goal = "1.00 on a quiet machine"});
    double spread = r.ns / r.least_ns - 1;

    printf("%44s a turn took %.0f %% more than the fastest one\n", "", spread * 100);
    return fabs(r.ratio - 1);
}

static void io_uring_rows(void)
{
    if (!use_engine(AIO_ENGINE_IO_URING))
        return;
    printf("flags: %s\n", aio_context_engine_flags(bench.ctx));
    hot_row("page cache, depth 1, fixed", 1, true, NULL);
    hot_row("page cache, depth 32, fixed", 32, true, "at most 1.075 (0.93 of the rate)");
    hot_row("page cache, depth 128, fixed", 128, true, NULL);
    hot_row("page cache, depth 1", 1, false, NULL);
    hot_row("page cache, depth 32", 32, false, NULL);
    if (bench.direct_fd >= 0) {
        direct_row("O_DIRECT, depth 1, fixed", 1, NULL);
        direct_row("O_DIRECT, depth 32, fixed", 32, "at most 1.02 (0.98 of the rate)");
        direct_row("O_DIRECT, depth 128, fixed", 128, NULL);
    }
    nop_row("NOP by aio_add_sqe(), depth 32", 32);
    leave_engine();
}

static void other_rows(enum aio_engine engine, const char *hot, const char *direct)
{
    if (!use_engine(engine))
        return;
    hot_row(hot, 32, true, NULL);
    if (bench.direct_fd >= 0)
        direct_row(direct, 32, NULL);
    leave_engine();
}

int main(int argc, char **argv)
{
    bench.seed = 88172645463325252ULL;
    if (posix_memalign((void **)&bench.buffers, 4096, MOST_DEPTH * READ_BYTES) != 0)
        die("buffers", ENOMEM);
    memset(bench.buffers, 0, MOST_DEPTH * READ_BYTES);
    make_file(argc > 1 ? argv[1] : "bench_disk.tmp");
    open_ring();

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
    io_uring_queue_exit(&bench.ring);
    free(bench.buffers);
    return 0;
}
