/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_inside - what attach.c, attach_serve.c and attach_closed.c share
 *
 * Concurrency: owner loop; each connection's requests in a coroutine of its own
 * Lifetime:    a connection lives until it is over and no coroutine serves it
 * Not here:    what others see of it (attach.h)
 */
#include "ipc/gateway/attach.h"
#include "ipc/gateway/attach_keeper.h"
#include "ipc/gateway/attach_wire.h"
#include "ipc/gateway/clients.h"
#include "ipc/plane/plane_shard.h"
#include "runtime/co_semaphore.h"

/* A connection: of a stranger first (client is CLIENTS_NONE), then of a client. */
struct attach_link {
    struct attach *attach;
    struct attach_link *prev, *next; /* strangers, the oldest first */
    int fd;
    int memory_fd; /* -1: none yet */
    uint32_t client;
    uid_t uid;
    pid_t pid;
    bool is_stranger; /* linked as such */
    bool busy;        /* a coroutine serves it */
    bool over;        /* it goes as soon as that one returns */
    int64_t came_ns;  /* CLOCK_MONOTONIC */
    int64_t paid_ns;  /* up to then its requests are paid for (attach_serve.c) */
    CoSleep sleep;    /* until then */
};

struct attach {
    struct attach_config config;
    struct clients clients;
    struct keeper keeper;
    CoSemaphore makers; /* of memory, at a time */
    uint32_t n_making;  /* workers that are at it */
    uint32_t n_closing; /* those that give back what somebody had */
    int listener;
    int spare_fd; /* given up for a moment where there are no more fds; -1: there is none */
    bool draining, stopping, deaf;
    uint32_t n_busy;
    struct attach_link *first, *last; /* strangers */
    uint32_t n_strangers;
    struct attach_link **links; /* by client */
    int *last_fds;              /* by client that ends: its memory; -1: none */
    uint64_t n_unsaid;          /* complaints since the last that was logged */
    int64_t next_complaint_ns;
    uint64_t *seen_cuts;        /* by shard: part_head.clients_cut, as of the last look */
    uint32_t *seen_incarnation; /* by shard */
    uint64_t *given_up; /* by shard: incarnation + 1 of whose end its clients have been told */
    AioTimer stranger_timer, deaf_timer, reap_timer;
    int64_t reap_ns; /* until the next look */
};

/* ---- attach.c ---- */

/* The client's end, where it is one, and that of the connection. */
void attach_end(struct attach_link *link, enum cut_reason reason, uint32_t by);

/* The same, with the reason to the client and the log. */
void attach_cut_off(struct attach_link *link, uint32_t shard, uint32_t reason);

/* A stranger has become a client. */
void attach_welcome_link(struct attach_link *link, uint32_t client, int memory_fd);

/* It did not become one: what was taken for it goes back. */
void attach_give_up(struct attach *attach, uint32_t client);

/* Logs what a client did wrong, now and then: a client could do it all day. */
void attach_complain(struct attach *attach, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Watches an idle connection. 0 or -errno. */
int attach_watch(struct attach_link *link);

/* ---- attach_serve.c ---- */

/* There is something to read: serves it in a coroutine. */
void attach_serve(struct attach_link *link);

/* ---- attach_closed.c ---- */

/* Tells the clients of a shard that is given up. */
void attach_look_at_given_up(struct attach *attach, uint32_t shard);

/* The client has been told that its lane there is over, and has not opened it since. */
bool attach_is_closed(const struct attach_link *link, uint32_t shard);

/* It opens that lane. False: not yet, the shard has something of the one before. */
bool attach_reopen(struct attach_link *link, uint32_t shard);
