/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * question - what a client asks the gateway itself, beside submitting: how the instance is, and
 *            that it drain
 *
 * Why:         it is no request: no shard runs it, and it may be asked twice.
 * Use:         the transport's ask() with one; step and wait until it is answered; ask() with NULL
 * Concurrency: one thread; one question at a time
 * Lifetime:    the asker's, who takes it back before it goes. Its answer may come over another
 *              connection than it went by: either may be asked twice.
 */
#include <nng/nng.h>

#include "ipc/client/client.h"
#include "proto/sherd.pb-c.h"

enum question_kind { QUESTION_WATCH, QUESTION_DRAIN };

struct question {
    uint32_t kind; /* enum question_kind */
    bool off;      /* drain: its end */
    bool sent;     /* the transport's */
    bool answered;
    uint32_t wait_ms; /* watch: how long; drain: its limit */
    uint64_t seen;
    int error;  /* of the answer: 0 or -errno */
    char *text; /* with an error; for free() */
    struct sherd_status status;
};

/* instance: its name, as hello told it. NULL: no memory. */
nng_msg *question_pack(const struct question *question, const char *instance);

/* reply: NULL: there is none, for `error`. */
void question_answer(struct question *question, const Sherd__Wire__Reply *reply, int error);
