/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * names - what a command works on, one after the other: operands, and where one of them is "-" the
 *         names that standard input holds
 *
 * Why:         a list of any length must not be held in memory, and reading it must not keep the
 *              answers to what was read before from being printed.
 * Use:         while ((r = names_next(&names, &name)) > 0) …;
 *              -EAGAIN: poll(names_fd()), then names_readable(), and go on. 0: that was all.
 * Concurrency: one thread
 * Lifetime:    a name is valid until the next names_next()
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NAMES_BUFFER ((size_t)64 * 1024) /* also the longest name from standard input */

struct names {
    char *const *operands;
    size_t n_operands, next;
    uint64_t repeat; /* how often each operand comes */
    uint64_t repeated;
    char delimiter;
    /* standard input */
    int fd;
    bool is_reading;  /* the operand "-" is not at its end */
    bool may_read;    /* a read() does not wait */
    bool is_over;     /* end of file was read */
    bool is_skipping; /* in the rest of a name that was too long */
    char *buffer;
    size_t begin, end;
    uint64_t consumed_bytes;
    uint64_t file_bytes; /* 0: not a regular file, how much is to come is not known */
};

struct name {
    const char *bytes; /* NUL-terminated as well */
    size_t len;
    bool is_too_long; /* bytes are its beginning */
};

/* 0 or -ENOMEM. */
int names_init(struct names *names, char *const *operands, size_t n_operands, char delimiter);
void names_deinit(struct names *names);

/* 1 with the next one; 0: there are no more; -EAGAIN: not before standard input is readable; -errno
 * of read(). */
int names_next(struct names *names, struct name *ret_name);

/* -1, or what to poll for reading after -EAGAIN. */
int names_fd(const struct names *names);
void names_readable(struct names *names);

/* How much of it has been handed out, 0 to 1; negative: not known. */
double names_fraction(const struct names *names);
