/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pump - keeps many requests in flight, from a source of any length, in bounded memory
 *
 * Why:         100,000 files in one command: neither the names nor the answers may pile up, and
 *              slow input, slow output and an interrupt must not stop one another.
 * Use:         struct pump pump;
 *              pump_init(&pump, client, window)    // before nng starts threads: see below
 *              r = pump_run(&pump, &job);          // every item's ended() has come
 *              pump_deinit(&pump);
 *              One request at a time: pump_call().
 * Concurrency: one thread. While it runs, SIGINT is taken by the pump: interrupt_block() comes
 *              before the client is opened, so that the threads of nng do not get it.
 * Memory:      at most `window` requests are in flight and, in order, 4 times as many ended ones
 *              wait for a slower one before them; no more are started while these hold 16 MiB.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/client.h"
#include "tools/names.h"
#include "tools/output.h"
#include "tools/progress.h"

#define PUMP_WINDOW     256u /* in flight, unless told otherwise */
#define PUMP_SPAN       4u   /* windows between the oldest item not handed on and the newest */
#define PUMP_HELD_BYTES ((size_t)16 * 1024 * 1024)

struct pump_entry;

struct pump {
    struct sherd_client *client;
    uint32_t window;
    int signal_fd;
    struct output out;   /* for what jobs print */
    bool is_interrupted; /* what ends now was cancelled */
    /* While pump_run() runs */
    const struct pump_job *job;
    struct pump_entry *oldest, *newest; /* items not handed on, in the order of the source */
    size_t n_entries, n_flying, held_bytes;
    uint64_t n_done, n_failed, n_cut; /* cut: cancelled by an interrupt */
};

/* What is to be done, and with what came of it. */
struct pump_job {
    struct names *names;
    struct progress *progress;
    bool is_ordered; /* ended() comes in the order of names, else as they end */
    /* Fills the request for a name; what it points to is copied before the next call. 0, or -errno:
     * the item ends as failed, with that error and nothing sent. */
    int (*make)(void *opaque, const struct name *name, struct sherd_request *ret_request);
    /* Once for each name, cut ones apart. False: it counts as failed. */
    bool (*ended)(
        void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result);
    void *opaque;
};

int pump_init(struct pump *pump, struct sherd_client *client, uint32_t window);
void pump_deinit(struct pump *pump);

/* 0: all names were worked on, see the figures. -EINTR: interrupted; -ENOTCONN: the instance is
 * gone; -EPIPE, -ENOSPC, …: standard output or input failed. What was in flight then is
 * cancelled. */
int pump_run(struct pump *pump, const struct pump_job *job);

/* One request; sherd_result_deinit() what came of it. 0, -EINTR, -ENOTCONN or -errno. */
int pump_call(
    struct pump *pump, const struct sherd_request *request, struct sherd_result *ret_result);

/* Waits until fd (or none: -1) is readable. 0, or -EINTR. */
int pump_wait_readable(struct pump *pump, int fd);
