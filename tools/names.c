/* SPDX-License-Identifier: MIT */
#include "tools/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int names_init(struct names *names, char *const *operands, size_t n_operands, char delimiter)
{
    struct stat st;
    *names = (struct names){
        .operands = operands,
        .n_operands = n_operands,
        .repeat = 1,
        .delimiter = delimiter,
        .fd = STDIN_FILENO,
        .buffer = malloc(NAMES_BUFFER + 1),
    };
    if (!fstat(names->fd, &st) && S_ISREG(st.st_mode))
        names->file_bytes = (uint64_t)st.st_size;
    return names->buffer ? 0 : -ENOMEM;
}

void names_deinit(struct names *names)
{
    free(names->buffer);
}

static void hand_out(struct names *names, size_t len, size_t taken, struct name *ret_name)
{
    char *bytes = names->buffer + names->begin;
    bytes[len] = 0;
    *ret_name = (struct name){.bytes = bytes, .len = len};
    names->begin += taken;
    names->consumed_bytes += taken;
}

/* The next whole name in the buffer; behind the last delimiter, at the end of input, one
 * without. */
static bool take_buffered(struct names *names, struct name *ret_name)
{
    while (names->begin < names->end) {
        char *bytes = names->buffer + names->begin;
        size_t len = names->end - names->begin;
        char *delimiter = memchr(bytes, names->delimiter, len);
        if (!delimiter && !names->is_over && len < NAMES_BUFFER && !names->is_skipping)
            return false;
        bool was_skipping = names->is_skipping;
        names->is_skipping = !delimiter && !names->is_over;
        size_t name_len = delimiter ? (size_t)(delimiter - bytes) : len;
        hand_out(names, name_len, name_len + (delimiter ? 1 : 0), ret_name);
        ret_name->is_too_long = names->is_skipping;
        if (!was_skipping)
            return true;
    }
    return false;
}

static int fill(struct names *names)
{
    memmove(names->buffer, names->buffer + names->begin, names->end - names->begin);
    names->end -= names->begin;
    names->begin = 0;
    names->may_read = false;
    ssize_t n = read(names->fd, names->buffer + names->end, NAMES_BUFFER - names->end);
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    names->end += (size_t)n;
    names->is_over = n == 0;
    return 0;
}

/* 1, 0 at the end of input, -EAGAIN or -errno. */
static int next_from_input(struct names *names, struct name *ret_name)
{
    for (;;) {
        if (take_buffered(names, ret_name))
            return 1;
        if (names->is_over)
            return 0;
        if (!names->may_read)
            return -EAGAIN;
        int r = fill(names);
        if (r)
            return r;
    }
}

int names_next(struct names *names, struct name *ret_name)
{
    for (;;) {
        if (names->is_reading) {
            int r = next_from_input(names, ret_name);
            if (r)
                return r;
            names->is_reading = false;
        }
        if (names->next == names->n_operands)
            return 0;
        const char *operand = names->operands[names->next];
        if (!strcmp(operand, "-")) {
            names->is_reading = true;
            names->next++;
            continue;
        }
        *ret_name = (struct name){.bytes = operand, .len = strlen(operand)};
        if (++names->repeated == names->repeat) {
            names->repeated = 0;
            names->next++;
        }
        return 1;
    }
}

int names_fd(const struct names *names)
{
    return names->is_reading && !names->is_over ? names->fd : -1;
}

void names_readable(struct names *names)
{
    names->may_read = true;
}

double names_fraction(const struct names *names)
{
    bool has_input = names->is_reading || names->consumed_bytes;
    for (size_t i = names->next; i < names->n_operands; i++)
        has_input = has_input || !strcmp(names->operands[i], "-");
    if (!has_input) {
        double total = (double)names->n_operands * (double)names->repeat;
        return ((double)names->next * (double)names->repeat + (double)names->repeated) / total;
    }
    if (names->n_operands > 1 || !names->file_bytes)
        return -1;
    return (double)names->consumed_bytes / (double)names->file_bytes;
}
