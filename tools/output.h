/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * output - a stream to standard output that an interrupt gets through
 *
 * Why:         a reader that stands still blocks write(2), and a SIGINT that is read from a
 *              signalfd would wait with it.
 * Use:         struct output out;
 *              output_open(&out, STDOUT_FILENO, signal_fd);
 *              fprintf(out.stream, …); r = output_flush(&out);
 *              output_close(&out);
 * Concurrency: one thread
 * Lifetime:    both fds stay the caller's. What was not flushed is gone with output_close().
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define OUTPUT_BUFFER ((size_t)64 * 1024)

struct output {
    FILE *stream;
    char *buffer; /* the stream's */
    int fd;
    int stop_fd;  /* readable: write nothing more */
    size_t piece; /* what a write that poll() allowed takes without waiting */
    int error;    /* -errno of the first write that failed; -EINTR: stop_fd */
};

/* 0 or -ENOMEM. */
int output_open(struct output *out, int fd, int stop_fd);
void output_close(struct output *out);

/* 0, or the first error since output_open(), which stays. */
int output_flush(struct output *out);
