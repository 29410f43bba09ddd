/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * poll_mode - looks busily for a while before a loop sleeps
 *
 * Why:         a wake-up costs microseconds, which is more than many an event is away.
 * Use:         aio_poll() calls poll_mode_run() before it would sleep, and poll_mode_learn() after
 *              the wait.
 * Concurrency: owner loop, but for the parameters, which any thread sets.
 * Lifetime:    part of the context. A handler is on the list of polled ones only while it is
 *              registered or waits to be freed: who frees it calls poll_mode_forget().
 * Not here:    the sleep itself (fdmon.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"

#define POLL_MODE_QUIET_NS (5 * AIO_SCALE_S)

struct aio_handler;

/* What a context keeps for it. */
struct poll_mode {
    /* Any thread: aio_context_set_poll_params(). */
    int64_t max_ns; /* 0: off */
    int64_t grow;
    int64_t shrink;

    /* Owner loop. */
    int64_t own_ns;             /* the while of what is no fd: doorbell, sources, completions */
    struct aio_handler *polled; /* handlers that have a while, or are asked by io_poll */
    uint32_t n_silent;          /* of these, those whose fd the monitor need not look at */
    int64_t tidied_ns;          /* when quiet handlers were last dropped */
    int64_t began_ns;           /* this wait; 0: it was over before the clock was read */
    int64_t now_ns;             /* when the clock was last read in it */
    bool was_asked;             /* the monitor, with the answer in the ready list */
    bool found_at_once; /* some wait was over before the clock was read; the turn resets it */
    bool in_callback;   /* io_poll, io_poll_begin or io_poll_end runs */
};

/* One handler's part. Owner loop, but for the callbacks, which are set under handler_lock. */
struct polled {
    IOHandler *begin;
    IOHandler *end;
    int64_t while_ns;
    struct aio_handler *next;  /* polled handlers */
    struct aio_handler **link; /* NULL: is not one */
    bool was_quiet;            /* not ready since poll_mode_tidy() last looked */
    bool has_begun;            /* begin was called, end was not yet */
    bool is_ready;             /* io_poll said so; io_poll_ready is to be called */
    bool is_running;           /* io_poll_ready */
};

/*
 * Looks at everything: once where timeout_ns is 0; else until there is something, and for as long
 * as the longest while, but not beyond timeout_ns (-1: no end). Returns whether there is something,
 * so that the turn must not sleep; where it returns false, all are told that the loop sleeps.
 * What is ready is on the ready list.
 */
bool poll_mode_run(AioContext *ctx, int64_t timeout_ns);

/* Tells all that the loop sleeps, in whatever wait. Returns whether there is something after
 * all. */
bool poll_mode_leave(AioContext *ctx);

/* This wait has slept. */
void poll_mode_slept(AioContext *ctx, int64_t begin_ns, int64_t end_ns);

/* Adjusts the whiles of those for which the wait that ends now was. Call it before the doorbell is
 * accepted. */
void poll_mode_learn(AioContext *ctx);

/* Drops handlers that have been quiet for POLL_MODE_QUIET_NS, so that a loop which never sleeps
 * does not ask them for ever. The turn calls it now and then. */
void poll_mode_tidy(AioContext *ctx, int64_t now_ns);

/* Takes handler off the list. */
void poll_mode_forget(AioContext *ctx, struct aio_handler *handler);
