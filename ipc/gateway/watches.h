/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * watches - clients that wait for the instance to be another way
 *
 * Why:         who runs an instance from afar wants to know of a death, or the end of a drain, when
 *              it happens, and not to ask ten times a second.
 * Use:         watches_init(); for each message, watches_add(); watches_forget() when a connection
 *              is gone. The exchange is answered at once, at a change, or when its time is over.
 * Concurrency: owner loop
 * Lifetime:    watches_deinit() drops who waits
 *
 * What counts as a change is condensed into a number, so that nothing is kept of a client between
 * two of its messages: one that comes back to another gateway misses nothing. Nobody rings the
 * gateway for all that may have changed, so while somebody waits it is looked at ten times a
 * second.
 */
#include "ipc/gateway/port.h"
#include "shard/segment.h"

struct watch;

struct watches_config {
    AioContext *ctx;
    const struct segment *segment;
    /* The answer, which tells how the instance is. */
    void (*tell)(struct exchange *exchange, void *opaque);
    void *opaque;
};

struct watches {
    struct watches_config config;
    struct watch *first; /* of those that wait */
    AioTimer timer;
};

void watches_init(struct watches *watches, const struct watches_config *config);
void watches_deinit(struct watches *watches);

/* One waits a connection: a further one has the earlier answered. */
void watches_add(
    struct watches *watches, struct exchange *exchange, uint64_t seen, uint32_t wait_ms);

void watches_forget(struct watches *watches, const struct connection *connection);

/* How the instance is, in a number that is never 0. */
uint64_t watches_change(const struct segment *segment);

/* Takes nothing new, and everything is finished. */
bool watches_is_drained(const struct segment *segment);
bool watches_is_draining(const struct segment *segment);
