/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * port - the gateway's side of nng: listeners, connections, and messages that want an answer
 *
 * Why:         nng calls back in threads of its own, the gateway's state lives in one loop. Between
 *              the two is one queue.
 * Use:         port_open(); for each message the loop gets a struct exchange, and ends it with
 *              exchange_reply() or exchange_drop(), at once or later
 * Concurrency: owner loop. Only the inside is touched by nng's threads.
 * Lifetime:    an exchange belongs to the loop from the message callback to its end, its connection
 *              at least as long. nng must not be initialised before the fork.
 *
 * nng 1.5.2 has no setting for its number of threads: two a core for its tasks and five more, all
 * asleep when nothing happens.
 */
#include <stdbool.h>
#include <stdint.h>
#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "runtime/aio.h"

struct port;

struct connection {
    uint32_t pipe;
    bool remote;        /* by tcp, with TLS or without */
    uint32_t uid;       /* of the other side; CLIENT_USER_REMOTE: by tcp, or not known */
    bool is_operator;   /* the user's: may have the instance drain */
    bool gone;          /* what is sent to it is lost */
    uint32_t held;      /* exchanges of it that the loop has */
    uint32_t n_sending; /* under the port's lock: answers that nng has not handed over */
    void *session;      /* the user's */
    struct connection *next;
    struct connection *next_gone;
    int64_t since_ns;                  /* where it is a stranger: */
    struct connection **stranger_link; /* NULL: it is none */
    struct connection *next_stranger;
};

struct exchange {
    struct connection *connection;
    const uint8_t *request; /* private memory, until the exchange ends */
    size_t request_len;
    /* The port's own. */
    struct port *port;
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *msg;
    uint32_t phase; /* enum exchange_phase */
    uint32_t pipe;
    struct exchange *next;
};

struct port_config {
    AioContext *ctx;
    const char *local_path; /* of the Unix socket; what a dead gateway left there is replaced */
    const char *listen_url; /* NULL, or tcp://… or tls+tcp://… */
    nng_tls_config *tls;    /* of the latter, held from then on */
    /* In the loop. */
    void (*message)(struct exchange *exchange, void *opaque);
    void (*gone)(struct connection *connection, void *opaque); /* freed after its last exchange */
    void *opaque;
};

/* 0 or -errno; ret_what: a constant that says what failed. */
int port_open(const struct port_config *config, struct port **ret_port, const char **ret_what);

/* Exchanges that the loop holds must have ended. NULL does nothing. */
void port_close(struct port *port);

/* Some answer has not been handed to its connection. */
bool port_is_sending(struct port *port);

/* Consumes msg. */
void exchange_reply(struct exchange *exchange, nng_msg *msg);

/* No answer. */
void exchange_drop(struct exchange *exchange);

/* It has shown that it may be here. A remote one that does not come to this in time is closed. */
void connection_welcome(struct connection *connection, struct port *port);

/* Closes the connection under it; gone() follows. */
void connection_close(struct connection *connection);
