/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crowd - many connections whose data is waited for together
 *
 * Why:         io_uring's poll of an fd is armed anew for each event, which took a cache's server a
 *              tenth of its time; a set of epoll's is told once of each fd, and the loop polls the
 *              set alone.
 * Use:         crowd_open(&crowd, ctx); crowd_add(&crowd, &member, fd);
 *              n = crowd_recv(&member, buf, len);
 *              crowd_remove(&crowd, &member); before fd is closed; crowd_close(&crowd)
 * Concurrency: owner loop; crowd_recv() in one coroutine of a member at a time
 * Lifetime:    the crowd outlives its members, who do not move
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/co_wait.h"

struct crowd {
    AioContext *ctx;
    int fd;                    /* of epoll; -1: closed */
    struct crowd_batch *batch; /* events that are looked at just now; or NULL */
};

struct crowd_member {
    struct co_wait wait; /* first: its withdraw() gets a pointer to it */
    Coroutine *reader;   /* that waits; or NULL */
    int fd;
    uint32_t in_a_row; /* successes since others had a turn */
    bool is_ready;     /* there may be something */
    bool is_ended;     /* and there will be no more: told for the last time */
};

/* 0 or -errno. */
int crowd_open(struct crowd *crowd, AioContext *ctx);
void crowd_close(struct crowd *crowd);

/* fd is a stream, and does not block. 0 or -errno. */
int crowd_add(struct crowd *crowd, struct crowd_member *member, int fd);

/* Nothing is written to the member afterwards; also while others are told of what came for them. */
void crowd_remove(struct crowd *crowd, struct crowd_member *member);

/* As recv(): some bytes, 0 at the end, -errno; -ECANCELED and -ETIMEDOUT by the coroutine's scopes,
 * while it waits. */
ssize_t coroutine_fn crowd_recv(struct crowd_member *member, void *buf, size_t len);
