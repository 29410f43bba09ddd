/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * source - a queue outside the loop that the loop looks into at the right moments
 *
 * Why:         rings between shards are neither fds nor bottom halves: they are looked into once
 *              a turn without a system call, and what was pushed to others is rung once a phase,
 *              never after the loop has gone to sleep on it.
 * Use:         fill struct aio_source, aio_add_source(); take it off before freeing it
 * Concurrency: owner loop; every callback runs there, none inside a coroutine. A source may be
 *              added and taken off anywhere but in a source's callback.
 * Lifetime:    the caller's; the context only links it.
 * Not here:    the rings (ring.h), and who is rung (doorbell.h)
 */
#include "runtime/aio.h"

struct aio_source {
    /* Is there work? Called with notify_me raised, before a blocking wait, and while busy-polling.
     * Reads only, and cheap. */
    bool (*pending)(void *opaque);
    /* Does the work there is. Called once a turn, after the doorbell was accepted and before the
     * bottom halves. Returns progress. */
    bool (*dispatch)(void *opaque);
    /* Rings whom this loop has pushed to. Called when a turn begins, nested ones included, so
     * before any wait; and after each phase that ran something (sources, bottom halves, fd
     * callbacks, timers). Cheap where nothing was pushed. */
    void (*flush)(void *opaque);
    void *opaque;
    /* The loop is about to sleep, notify_me is raised, and pending() said no: those who have not
     * been asked to ring must be now. Returns whether there is work after all. May be NULL. */
    bool (*prepare)(void *opaque);
    struct aio_source *next; /* the loop's */
};

void aio_add_source(AioContext *ctx, struct aio_source *source);
void aio_remove_source(AioContext *ctx, struct aio_source *source);
