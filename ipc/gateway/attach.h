/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach - local clients get their memory and their doorbells here, and end here
 *
 * Why:         who may attach is decided once, by the kernel's word (SO_PEERCRED); what is granted
 *              then lives on without the gateway.
 * Use:         attach_start() once there is a loop; attach_turn() after each turn of it;
 *              attach_stop() after the last
 * Concurrency: owner loop; one coroutine for each connection that has a request under way, none for
 *              one that is idle
 * Lifetime:    the connection is the client: its end, or its being cut off, is the client's. What
 *              belongs to it is with the keeper (shard/fd_keep.h), from where a replacement of the
 *              gateway takes it over.
 * Not here:    messages to the byte (proto/attach.h), requests (ipc/plane/)
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/aio.h"
#include "shard/fd_keep.h"
#include "shard/log.h"
#include "shard/segment.h"

struct attach_config {
    AioContext *ctx;
    const struct segment *segment;
    struct log *log;
    const struct fd_keep_heir *keep; /* what it has inherited; fds are taken over */
    const char *instance;
    uint64_t client_bytes; /* memory of all clients together */
    uint64_t client_rate;  /* requests a second of a client in a shard; 0: no limit */
    uid_t owner;           /* whose instance it is */
};

struct attach;

/* 0 or -errno, logged. Without a listener among what is kept there are no clients, and *ret_attach
 * is NULL. */
int attach_start(const struct attach_config *config, struct attach **ret_attach);

/* Nobody new is let in while it is set. */
void attach_set_draining(struct attach *attach, bool draining);

/* Looks whether a shard wants a client's end, or crashed over one. */
void attach_turn(struct attach *attach);

/* How many clients have ended since the start. */
uint64_t attach_n_over(const struct attach *attach);

/* Takes nothing more, waits for what is under way (at most as long as pages take to be made, or to
 * be given back), and closes its fds: clients stay attached. NULL does nothing. */
void attach_stop(struct attach *attach);
