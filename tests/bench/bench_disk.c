/* SPDX-License-Identifier: MIT */
/*
 * bench_disk - what the runtime adds to a read
 *
 * Random reads of 4 KiB from a file in the page cache, by coroutines on each engine, beside a bare
 * liburing loop with the same depth in the same run. Each round measures all of them one after the
 * other; printed are the medians of the rounds, and the ratio to the bare loop: 1.00 is as fast.
 *
 * usage: bench_disk [FILE]     a file of FILE_BYTES is made there and removed; default ./bench_disk.tmp
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/disk.h"

#define FILE_BYTES ((size_t)256 << 20)
#define READ_BYTES ((size_t)4096)
#define N_READS    100000
#define N_ROUNDS   5
#define MOST_DEPTH 32
#define N_SUBJECTS 4

static int file_fd;

static void die(const char *what, int error)
{
    fprintf(stderr, "bench_disk: %s: %s\n", what, strerror(error));
    exit(1);
}

/* ---- what is read ---- */

static uint64_t next_offset(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % (FILE_BYTES / READ_BYTES) * READ_BYTES;
}

static void make_file(const char *path)
{
    char *block = malloc((size_t)1 << 20);

    if (!block)
        die(path, ENOMEM);
    memset(block, 'x', (size_t)1 << 20);
    file_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file_fd < 0)
        die(path, errno);
    for (size_t at = 0; at < FILE_BYTES; at += (size_t)1 << 20)
        if (pwrite(file_fd, block, (size_t)1 << 20, (off_t)at) != 1 << 20)
            die(path, errno ? errno : ENOSPC);
    free(block);
    unlink(path);
}

/* ---- the bare loop ---- */

static void prepare_read(struct io_uring *ring, char *buf, uint64_t *seed)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    io_uring_prep_read(sqe, file_fd, buf, READ_BYTES, next_offset(seed));
    io_uring_sqe_set_data(sqe, buf);
}

static void bare_loop(struct io_uring *ring, char (*buffers)[READ_BYTES], unsigned depth)
{
    uint64_t seed = 88172645463325252ULL;
    unsigned n_started = 0, n_ended = 0;

    while (n_started < depth)
        prepare_read(ring, buffers[n_started++], &seed);
    while (n_ended < N_READS) {
        struct io_uring_cqe *cqe;
        unsigned head, n = 0;

        io_uring_submit_and_wait(ring, 1);
        io_uring_for_each_cqe(ring, head, cqe)
        {
            if (cqe->res != (int)READ_BYTES)
                die("read", cqe->res < 0 ? -cqe->res : EIO);
            n++;
            if (n_started++ < N_READS)
                prepare_read(ring, io_uring_cqe_get_data(cqe), &seed);
        }
        io_uring_cq_advance(ring, n);
        n_ended += n;
    }
}

/* ns, or -errno where there is no io_uring. */
static int64_t measure_bare(unsigned depth)
{
    static char buffers[MOST_DEPTH][READ_BYTES];
    struct io_uring ring;
    int r = io_uring_queue_init(
        MOST_DEPTH * 2, &ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (r < 0)
        return r;

    int64_t begin_ns = aio_clock_ns();
    bare_loop(&ring, buffers, depth);
    int64_t ns = aio_clock_ns() - begin_ns;

    io_uring_queue_exit(&ring);
    return ns;
}

/* ---- coroutines ---- */

struct readers {
    uint64_t seed;
    unsigned n_started;
    unsigned n_running;
};

static void read_blocks(void *opaque)
{
    struct readers *readers = opaque;
    char buf[READ_BYTES];

    while (readers->n_started < N_READS) {
        readers->n_started++;
        ssize_t n = co_pread(file_fd, buf, sizeof buf, next_offset(&readers->seed));
        if (n != (ssize_t)sizeof buf)
            die("co_pread", n < 0 ? (int)-n : EIO);
    }
    readers->n_running--;
}

/* ns, or -errno where the engine is not to be had. */
static int64_t measure_engine(enum aio_engine engine, unsigned depth)
{
    struct aio_config config = {.engine = engine};
    struct readers readers = {.seed = 88172645463325252ULL, .n_running = depth};
    AioContext *ctx;
    int r = aio_context_new(&config, &ctx);
    if (r < 0)
        return r;

    aio_context_set_current(ctx);
    int64_t begin_ns = aio_clock_ns();
    for (unsigned i = 0; i < depth; i++)
        coroutine_enter(coroutine_create(read_blocks, &readers));
    while (readers.n_running > 0)
        aio_poll(ctx, true);
    int64_t ns = aio_clock_ns() - begin_ns;

    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return ns;
}

/* ---- the table ---- */

static int64_t measure(unsigned subject, unsigned depth)
{
    static const enum aio_engine engines[] = {
        AIO_ENGINE_IO_URING, AIO_ENGINE_LINUX_AIO, AIO_ENGINE_THREADS};

    return subject == 0 ? measure_bare(depth) : measure_engine(engines[subject - 1], depth);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void compare(unsigned depth)
{
    static const char *const names[N_SUBJECTS] = {
        "bare liburing", "io_uring", "linux-aio", "threads"};
    int64_t ns[N_SUBJECTS][N_ROUNDS];

    for (unsigned round = 0; round < N_ROUNDS; round++)
        for (unsigned s = 0; s < N_SUBJECTS; s++)
            ns[s][round] = measure(s, depth);
    for (unsigned s = 0; s < N_SUBJECTS; s++) {
        if (ns[s][0] < 0) {
            printf("%-14s %5u  %s\n", names[s], depth, strerror((int)-ns[s][0]));
            continue;
        }
        qsort(ns[s], N_ROUNDS, sizeof ns[s][0], by_value);
        double per_read = (double)ns[s][N_ROUNDS / 2] / N_READS;
        printf("%-14s %5u %9.0f %9.0f", names[s], depth, per_read, 1e6 / per_read);
        if (ns[0][0] > 0)
            printf(" %7.2f", (double)ns[0][N_ROUNDS / 2] / (double)ns[s][N_ROUNDS / 2]);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    make_file(argc > 1 ? argv[1] : "bench_disk.tmp");
    printf("%-14s %5s %9s %9s %7s\n", "4 KiB, hot", "depth", "ns/read", "K reads/s", "ratio");
    compare(1);
    compare(MOST_DEPTH);
    close(file_fd);
    return 0;
}
