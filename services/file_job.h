/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_job - one call about the file at a path, from its arguments to its answer: what it asks, and
 *            what it holds meanwhile
 *
 * Why:         whatever a method does in between, what it holds is bounded, and given back at each
 *              of its ends.
 * Use:         file_job_run_co(call, "file.read", read_co): read_co() opens the file, does its work
 *              and replies, or fails with a text for people
 * Concurrency: coroutines of the shard's loop.
 * Lifetime:    a job lies in the frame of file_job_run_co()
 * Not here:    files that are open already (file_io.h)
 */
#include <stddef.h>
#include <stdint.h>

#include "proto/arena.h"
#include "proto/file.pb-c.h"
#include "services/buffer_pool.h"
#include "services/file_hash.h"
#include "services/file_open.h"
#include "services/file_roots.h"
#include "services/open_files.h"
#include "shard/service.h"

#define FILE_PIECES  64u
#define FILE_WINDOWS 16u

/* What a shard has for its calls. */
struct file_state {
    struct file_roots *roots;
    struct buffer_pool pieces;
    struct buffer_pool windows;
    struct file_hasher *hasher;
    struct open_files *open;
};

struct file_job {
    struct service_call *call;
    struct file_state *state;
    const char *method;
    struct arena arena;
    Sherd__File__Request *request; /* in the arena, without its data */
    const uint8_t *data;           /* in the arguments */
    size_t data_len;
    char *path;              /* the request's, as a string */
    void *piece;             /* FILE_PIECE_BYTES; NULL: none */
    int fd;                  /* -1: none */
    struct file_opened file; /* what file_job_open_regular_co() opened; closed by way of `fd` */
};

typedef int file_job_fn(struct file_job *job); /* coroutine_fn */

/* Unpacks what the call asks, takes its piece, runs the method, and gives back what is left of all.
 * What the method returned, or why it was not run; method is for texts. */
int coroutine_fn file_job_run_co(struct service_call *call, const char *method, file_job_fn *run);

/* Gives back what others wait for: file and piece. */
void coroutine_fn file_job_let_go_co(struct file_job *job);

/* May wait in line, for a job without one. 0; -ENOMEM; -ETIMEDOUT or -ECANCELED where the answer is
 * not wanted any more, with a text. */
int coroutine_fn file_job_take_piece_co(struct file_job *job);

/* Opens the regular file at the path, with open()'s flags; where they say so it is made. 0, or
 * -errno with a text. */
int coroutine_fn file_job_open_regular_co(struct file_job *job, uint64_t flags);

/* 0, or why the answer to the struct service_call is not wanted any more: -ETIMEDOUT,
 * -ECANCELED. */
int file_job_may_go_on(const void *call);

/* Fail with "METHOD: text", consuming text, which may be NULL, and with "METHOD: PATH: doing: what
 * error means". They return error, or why there is no text. */
int file_job_fail(struct file_job *job, int error, char *text);
int file_job_fail_io(struct file_job *job, int error, const char *doing);

/* Replies with the message, packed; the file is let go before that waits for room. */
int coroutine_fn file_job_reply_co(struct file_job *job, const ProtobufCMessage *message);
