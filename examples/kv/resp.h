/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * resp - requests and replies of Redis: RESP2, as clients write it, and lines that people type
 *
 * Use:         struct resp_command c;
 *              while ((r = resp_parse(data, len, &c)) > 0) { …; data += c.bytes; len -= c.bytes; }
 *              r == 0: there is no whole command yet; r < 0: it is no RESP, and never will be
 * Concurrency: pure functions, but resp_out's, which one coroutine fills at a time
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESP_ARGS_MAX  64u
#define RESP_BULK_MAX  ((size_t)512 * 1024) /* of one argument */
#define RESP_BYTES_MAX ((size_t)640 * 1024) /* of a command */

struct resp_arg {
    const char *data; /* in what was parsed */
    size_t len;
};

struct resp_command {
    struct resp_arg args[RESP_ARGS_MAX];
    uint32_t n;   /* 0: an empty line, which asks for nothing */
    size_t bytes; /* that it takes; where there is no whole one yet, that it takes at least */
};

/* 1: a command; 0: more bytes are needed; -EPROTO: neither an array of bulk strings nor a line of
 * words; -EMSGSIZE: more than the limits above. */
int resp_parse(const char *data, size_t len, struct resp_command *ret);

/* Whether the argument is that word, in capitals, however it is spelled. */
bool resp_is(const struct resp_arg *arg, const char *word);

/* The number that the argument is, which has no more digits than it needs. */
bool resp_int64(const struct resp_arg *arg, int64_t *ret);

/* ---- replies: all of them are false where there is no memory, and nothing is added ---- */

struct resp_out {
    char *data;
    size_t len;
    size_t capacity;
};

void resp_out_deinit(struct resp_out *out);

/* Gives back what is more than a usual reply needs; it is empty then. */
void resp_out_reset(struct resp_out *out);

bool resp_raw(struct resp_out *out, const void *data, size_t len);
bool resp_text(struct resp_out *out, const char *text); /* a whole reply: "+OK\r\n" */
bool resp_bulk(struct resp_out *out, const void *data, size_t len);
bool resp_integer(struct resp_out *out, int64_t n);
