/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bare_reads - random reads of a file by a bare liburing loop: what the kernel and the disk can do
 *
 * Use:         bare_reads_open(&bare, fd, direct_fd, file_bytes);
 *              bare.depth = 32; bare.is_fixed = true; bare_reads_run(&bare, n);
 *              bare_reads_close(&bare);
 * Concurrency: one thread
 * Lifetime:    the fds are the caller's. Whatever goes wrong ends the program.
 *
 * The ring has the flags that fit a loop of one thread best. What a wait has brought is asked for
 * anew: all of it with the next wait, or, where `batch` says so, as many together as that.
 */
#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BARE_READ_BYTES ((size_t)4096)
#define BARE_DEPTH_MAX  128u

struct bare_reads {
    struct io_uring ring;
    int fds[2];        /* plain, with O_DIRECT; registered, where they are there */
    char *buffers;     /* BARE_DEPTH_MAX of BARE_READ_BYTES, registered */
    uint64_t n_blocks; /* of the file */
    uint64_t seed;     /* of the next offset */
    uint32_t depth;
    uint32_t batch; /* handed over together; 0: all that a wait has brought */
    bool is_fixed;  /* registered file and buffers */
    bool is_direct; /* O_DIRECT */
};

/* Writes a file of so many bytes, a multiple of 1 MiB, and gives it back open, in the page cache
 * and on the disk. */
int bare_reads_make_file(const char *path, size_t bytes);

/* direct_fd is -1 where the file system has no such thing. */
void bare_reads_open(struct bare_reads *bare, int fd, int direct_fd, size_t file_bytes);
void bare_reads_close(struct bare_reads *bare);

/* Of a block at random. */
uint64_t bare_reads_offset(struct bare_reads *bare);

/* n reads, and as many operations that do nothing. */
void bare_reads_run(struct bare_reads *bare, uint64_t n);
void bare_reads_nops(struct bare_reads *bare, uint64_t n);

/* n reads by preadv2(), one after the other, of what is in the page cache. */
void bare_reads_at_once(struct bare_reads *bare, uint64_t n);
