/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach - the client's side of the connection by which it is attached (proto/attach.h)
 *
 * Use:         attach_connect(); attach_hello() or attach_open(); when the fd is readable
 *              attach_receive() until it returns 0; attach_remind() at attach_next_ns()
 * Concurrency: one thread. Nothing here waits.
 */
#include <stdbool.h>
#include <stdint.h>

#include "proto/attach.h"

struct attach {
    int fd;          /* -1: not connected */
    uint64_t serial; /* of the latest message */
    bool waits;      /* for its answer */
    int64_t sent_ns;
    uint32_t message_len;
    union {
        struct attach_head head;
        struct attach_hello hello;
        struct attach_open open;
    } message;
};

struct attach_answer {
    int fd; /* -1: none; the caller's */
    union {
        struct attach_head head;
        struct attach_welcome welcome;
        struct attach_opened opened;
        struct attach_refused refused;
    };
};

/* 0; -ENOENT, -ECONNREFUSED: nobody is there; -EAGAIN: too many are waiting; -EACCES, … */
int attach_connect(struct attach *attach, const char *path);

/* Not connected: does nothing. */
void attach_close(struct attach *attach);

/* One of these at a time, until its answer has come. 0; -EAGAIN: try again; -errno: it is broken. */
int attach_hello(struct attach *attach, const char *name, uint64_t data_bytes, uint32_t n_entries);
int attach_open(struct attach *attach, uint32_t shard);

/* 1: the answer to what was sent, checked; 0: there is none yet; -ECONNRESET: the connection has
 * ended; -EPROTO: nothing that the other side may send. */
int attach_receive(struct attach *attach, struct attach_answer *ret_answer);

/* When to send once more what has no answer: who was to answer may have died. */
int64_t attach_next_ns(const struct attach *attach);
int attach_remind(struct attach *attach, int64_t now_ns);
