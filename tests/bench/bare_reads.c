/* SPDX-License-Identifier: MIT */
#include "tests/bench/bare_reads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define RING_FLAGS \
    (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
#define SEED        UINT64_C(88172645463325252)
#define BLOCK_BYTES ((size_t)1 << 20)

static void die(const char *what, int error)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(error));
    exit(1);
}

int bare_reads_make_file(const char *path, size_t bytes)
{
    char *block = malloc(BLOCK_BYTES);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (!block || fd < 0)
        die(path, block ? errno : ENOMEM);
    memset(block, 'x', BLOCK_BYTES);
    for (size_t at = 0; at < bytes; at += BLOCK_BYTES)
        if (pwrite(fd, block, BLOCK_BYTES, (off_t)at) != (ssize_t)BLOCK_BYTES)
            die(path, errno ? errno : ENOSPC);
    free(block);
    if (fsync(fd) < 0)
        die(path, errno);
    return fd;
}

void bare_reads_open(struct bare_reads *bare, int fd, int direct_fd, size_t file_bytes)
{
    size_t arena_bytes = BARE_DEPTH_MAX * BARE_READ_BYTES;

    *bare = (struct bare_reads){
        .fds = {fd, direct_fd}, .n_blocks = file_bytes / BARE_READ_BYTES, .seed = SEED};
    if (posix_memalign((void **)&bare->buffers, 4096, arena_bytes) != 0)
        die("buffers", ENOMEM);
    memset(bare->buffers, 0, arena_bytes);
    struct iovec arena = {.iov_base = bare->buffers, .iov_len = arena_bytes};
    int r = io_uring_queue_init(2 * BARE_DEPTH_MAX, &bare->ring, RING_FLAGS);
    if (r == 0)
        r = io_uring_register_files(&bare->ring, bare->fds, 2);
    if (r == 0)
        r = io_uring_register_buffers(&bare->ring, &arena, 1);
    if (r < 0)
        die("io_uring", -r);
}

void bare_reads_close(struct bare_reads *bare)
{
    io_uring_queue_exit(&bare->ring);
    free(bare->buffers);
}

uint64_t bare_reads_offset(struct bare_reads *bare)
{
    bare->seed ^= bare->seed << 13;
    bare->seed ^= bare->seed >> 7;
    bare->seed ^= bare->seed << 17;
    return bare->seed % bare->n_blocks * BARE_READ_BYTES;
}

static void prepare_read(struct bare_reads *bare, char *buf)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&bare->ring);
    uint64_t offset = bare_reads_offset(bare);

    if (bare->is_fixed) {
        io_uring_prep_read_fixed(sqe, bare->is_direct, buf, BARE_READ_BYTES, offset, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
    } else {
        io_uring_prep_read(sqe, bare->fds[bare->is_direct], buf, BARE_READ_BYTES, offset);
    }
    io_uring_sqe_set_data(sqe, buf);
}

static void prepare_nop(struct bare_reads *bare, char *buf)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&bare->ring);

    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, buf);
}

static inline void run(struct bare_reads *bare, uint64_t n,
    void (*prepare)(struct bare_reads *bare, char *buf), int expected)
{
    uint64_t n_started = 0, n_ended = 0;

    while (n_started < bare->depth)
        prepare(bare, bare->buffers + n_started++ * BARE_READ_BYTES);
    while (n_ended < n_started) {
        struct io_uring_cqe *cqe;
        unsigned head, n_here = 0;

        io_uring_submit_and_wait(&bare->ring, 1);
        io_uring_for_each_cqe(&bare->ring, head, cqe)
        {
            if (cqe->res != expected)
                die("a bare operation", cqe->res < 0 ? -cqe->res : EIO);
            n_here++;
            if (n_started >= n)
                continue;
            n_started++;
            prepare(bare, io_uring_cqe_get_data(cqe));
            if (bare->batch > 0 && io_uring_sq_ready(&bare->ring) >= bare->batch)
                io_uring_submit(&bare->ring);
        }
        io_uring_cq_advance(&bare->ring, n_here);
        n_ended += n_here;
    }
}

void bare_reads_run(struct bare_reads *bare, uint64_t n)
{
    run(bare, n, prepare_read, (int)BARE_READ_BYTES);
}

void bare_reads_nops(struct bare_reads *bare, uint64_t n)
{
    run(bare, n, prepare_nop, 0);
}

void bare_reads_at_once(struct bare_reads *bare, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        char *buf = bare->buffers + i % bare->depth * BARE_READ_BYTES;
        struct iovec iov = {.iov_base = buf, .iov_len = BARE_READ_BYTES};
        off_t offset = (off_t)bare_reads_offset(bare);
        if (preadv2(bare->fds[0], &iov, 1, offset, RWF_NOWAIT) != (ssize_t)BARE_READ_BYTES)
            die("preadv2", errno);
    }
}
