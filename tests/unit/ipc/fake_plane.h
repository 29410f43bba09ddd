/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fake_plane - an instance as a client of the data plane sees it: attach, lanes, and a server that
 *              does as the test likes, also what no shard would
 *
 * Use:         fake_plane_start(); open a client of instance "fake"; set `mode` and the like at any
 *              time; fake_plane_stop()
 * Concurrency: one thread of its own. What is marked so may be set by the test meanwhile.
 *
 * Methods: t.ping answers nothing; t.echo its arguments; t.hold ends when cancelled, or once `hold`
 * is cleared.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/attach.h"
#include "proto/data_plane.h"

#define FAKE_SHARDS 2u
#define FAKE_HELD   4096u

/* X(name): what is done instead of what is right. */
#define FAKE_MODES(X)                                                                     \
    X(HONEST)                                                                             \
    X(WELCOME_ENTRIES) /* seven entries in a ring */                                      \
    X(WELCOME_TOTAL)   /* memory longer than there is */                                  \
    X(WELCOME_NO_FD)                                                                      \
    X(WELCOME_PLAIN) /* no features */                                                    \
    X(WELCOME_SHORT) /* half a message */                                                 \
    X(REFUSE_BUSY)   /* -EAGAIN, as long as it lasts */                                   \
    X(REFUSE_USER)   /* -EPERM */                                                         \
    X(DEAF_OPEN)     /* no answer to the first open, as of a gateway that died over it */ \
    X(END_UNKNOWN)   /* completions of requests that nobody made */                       \
    X(END_KIND)      /* of a kind that there is not */                                    \
    X(END_LONG)      /* answers longer than their room */                                 \
    X(END_TWICE)

enum fake_mode {
#define X(name) FAKE_##name,
    FAKE_MODES(X)
#undef X
};

struct fake_held {
    struct plane_submission entry;
    uint32_t shard;
    bool is_held, is_cancelled;
};

struct fake_client {
    int fd; /* -1: none */
    uint8_t *base;
    struct plane_layout layout;
    int bells[FAKE_SHARDS];
    uint64_t head[FAKE_SHARDS], urgent_head[FAKE_SHARDS], tail[FAKE_SHARDS];
    uint32_t rung[FAKE_SHARDS];
};

struct fake_plane {
    char dir[64];
    int listen_fd;
    int stop_fd;
    pthread_t thread;
    struct fake_client client; /* one at a time */
    struct fake_held held[FAKE_HELD];
    uint32_t n_held;
    /* Set by the test. */
    uint32_t mode;    /* enum fake_mode */
    uint32_t hold;    /* t.hold waits */
    uint32_t stalled; /* takes nothing out of the rings */
    uint32_t hang_up; /* ends the connection, once */
    uint32_t lingers; /* leaves its mapping to the test then */
    uint32_t leaves;  /* says before that what it has taken out of the rings */
    uint32_t cuts;    /* says before that that this is for what the client did */
    uint32_t down; /* a bit a shard: it is given up; what it had is over, and no open is granted */
    uint32_t sleeps; /* asks to be rung for */
    /* Read by the test. */
    uint32_t n_served, n_hellos, n_opens, n_rung, n_closed;
    uint32_t n_woken;    /* how often it rang for a client that slept */
    uint32_t n_taken;    /* of t.hold */
    uint32_t n_urgent;   /* entries taken from urgent rings */
    uint32_t is_stalled; /* it has seen that it is to be */
};

void fake_plane_start(struct fake_plane *fake);
void fake_plane_stop(struct fake_plane *fake);
