/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attachment - the client's side of the connection by which it is attached (proto/attach.h)
 *
 * Why:         it is made, used and made again while requests are under way, without ever waiting.
 * Use:         attachment_connect(); attach_hello() or attachment_open(); when the fd is readable
 *              attachment_receive() until it returns 0; attachment_remind() at attachment_next_ns()
 * Concurrency: one thread. Nothing here waits.
 */
#include <stdbool.h>
#include <stdint.h>

#include "proto/attach.h"

struct attachment {
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

struct attachment_answer {
    int fd; /* -1: none; the caller's */
    union {
        struct attach_head head;
        struct attach_welcome welcome;
        struct attach_opened opened;
        struct attach_refused refused;
        struct attach_closed closed;
    };
};

/* 0; -ENOENT, -ECONNREFUSED: nobody is there; -EAGAIN: too many are waiting; -EACCES, … */
int attachment_connect(struct attachment *attach, const char *path);

/* Not connected: does nothing. */
void attachment_close(struct attachment *attach);

/* One of these at a time, until its answer has come. 0; -EAGAIN: try again; -errno: it is
 * broken. */
int attach_hello(
    struct attachment *attach, const char *name, uint64_t data_bytes, uint32_t n_entries);
int attachment_open(struct attachment *attach, uint32_t shard);

/* 1: the answer to what was sent, checked, or what comes by itself: that a lane is closed, or, with
 * serial 0, why the connection is about to end; 0: there is none yet; -ECONNRESET: the connection
 * has ended; -EPROTO: nothing that the other side may send. */
int attachment_receive(struct attachment *attach, struct attachment_answer *ret_answer);

/* When to send once more what has no answer: who was to answer may have died. */
int64_t attachment_next_ns(const struct attachment *attach);
int attachment_remind(struct attachment *attach, int64_t now_ns);
