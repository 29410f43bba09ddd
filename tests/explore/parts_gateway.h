/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * parts_gateway - what the gateway's side of attaching needs around it: connections, timers, and the
 * supervisor that keeps fds
 *
 * Why:         rows, cuts and ends are to be explored, and not the sockets in between.
 * Use:         begin():    parts_gateway_reset()
 *              a gateway:  parts_gateway_inherit(); attach_start() with what that returns; then in
 *                          turns attach_turn(), parts_gateway_hear(), parts_gateway_sleep()
 *              a shard:    parts_keep_inherit(); what comes later it reads from its channel
 *              a client:   parts_connection_say(), parts_connection_told()
 * Concurrency: one OS thread; a gateway is one scenario thread's at a time
 * Lifetime:    one run
 * Not here:    what is answered to whom (stage_gateway.h)
 *
 * A connection, the memory that comes with it and a shard's end of its doorbell all have its
 * number. The supervisor does at once what it is asked for, and tells a shard by the same step:
 * that shard may look at it any time later, or its replacement inherit it.
 */
#include "ipc/plane/plane.h"
#include "shard/fd_keep.h"
#include "tests/explore/parts_plane.h"

#define PARTS_CONNECTIONS 2
#define PARTS_LISTENER_FD 64
#define PARTS_CHANNEL     PARTS_SHARD_EVENTS

/* By a client. */
enum parts_said {
    SAID_HELLO = 1, /* asks for a memory, and for the shard */
    SAID_END = 2,   /* its connection is closed */
    SAID_OPEN = 4,  /* asks for the shard once more */
};

/* By the gateway. */
enum parts_told {
    TOLD_OPENED = 1,
    TOLD_OVER = 2,   /* the connection is shut */
    TOLD_CLOSED = 4, /* the shard is given up; of what it took, parts_connection_taken() */
    TOLD_OPENED_AGAIN = 8,
    TOLD_REFUSED = 16, /* to the last open */
};

void parts_gateway_reset(void);

/* ---- a client ---- */

void parts_connection_say(uint32_t connection, enum parts_said what);
/* All that it was told so far: enum parts_told. */
uint32_t parts_connection_told(uint32_t connection);
uint64_t parts_connection_taken(uint32_t connection);
/* Until one of these is told. */
uint32_t parts_connection_wait(uint32_t connection, uint32_t what);

/* ---- the gateway ---- */

/* What a gateway has of it; the table is good until the next call. */
struct fd_keep_heir parts_gateway_inherit(void);

/* What was said at this connection and not answered: enum parts_said. */
uint32_t parts_connection_asks(uint32_t connection);
void parts_connection_tell(uint32_t connection, enum parts_told what);

/* Listens, and serves connections that have said something. */
void parts_gateway_hear(void);
/* Until it is rung; where a timer is armed, until nothing else goes on: then that fires. */
void parts_gateway_sleep(const struct doorbell *bell);

/* ---- the supervisor ---- */

/* Keeps connection and memory of a client. */
void parts_keep_put(uint32_t client, uint64_t generation, uint32_t connection);
/* Keeps its doorbell of the shard, and hands that over. again: whether or not there is one. */
void parts_keep_bell(const struct plane_grant *grant, bool again);

/* What a shard has of it when it is forked. */
struct fd_keep_heir parts_keep_inherit(void);
