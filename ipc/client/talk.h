/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * talk - the conversation with the gateway: a session that outlives connections, requests that go
 *        out in batches, ends that come back
 *
 * Why:         a connection may break at any byte, and the gateway die: what was accepted is
 *              neither lost nor run twice.
 * Use:         talk_step() whenever a letter or a time is due; talk_next_ns() says when the latter
 *              is
 * Concurrency: one thread. Callbacks of requests run inside talk_step(), and may submit and cancel.
 * Not here:    waiting (client.c), nng (link.h), what a message looks like (wire.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/client/acked.h"
#include "ipc/client/cancels.h"
#include "ipc/client/link.h"
#include "ipc/client/methods.h"
#include "ipc/client/question.h"
#include "ipc/client/ticket.h"
#include "ipc/client/wire.h"
#include "proto/arena.h"
#include "proto/protocol.h"

#define TALK_BATCHES_MAX 4u              /* messages of submissions under way */
#define TALK_URGENT_MORE 16u             /* urgent requests with the gateway beyond the window */
#define TALK_NEXTS_MAX   ACKED_NEXTS_MAX /* one is on its way while the other waits at the gateway */

enum talk_phase {
    TALK_APART,   /* no session on this connection, or no connection */
    TALK_HELLO,   /* said hello */
    TALK_METHODS, /* asked which methods may be repeated */
    TALK_READY,
};

struct talk {
    struct link *link;
    int64_t wait_ns; /* for a gateway that is gone */
    uint32_t window;
    const char *name; /* for logs; NULL: the program's */
    const uint8_t *token;
    size_t token_len;

    struct ticket_table tickets;
    uint64_t last_id;
    bool cancels_in_line; /* some ticket in line is to be cancelled */
    bool ended_unheard;   /* some ticket ended here before the gateway said that it has it */
    struct cancels cancels;

    uint32_t phase; /* enum talk_phase */
    bool eager;     /* say hello also without a request */
    uint8_t session[PROTOCOL_SESSION_LEN];
    size_t session_len;
    uint64_t session_number;    /* of those this client had */
    uint64_t connection_number; /* counts hellos */
    uint32_t gateway;           /* which one of the instance's answered the latest hello */
    uint32_t pipe;              /* of the latest hello's answer */
    uint32_t max_in_flight;
    struct acked acked;
    uint32_t n_shards;
    struct method_table methods; /* of the instance */

    char *instance;            /* its name; NULL: there was no memory */
    struct question *question; /* NULL: none */
    uint64_t question_connection;
    uint64_t n_questions; /* that were sent: an answer to an earlier one is nobody's */

    uint32_t n_batches, n_nexts;         /* under way */
    struct letter early[LINK_EXCHANGES]; /* until the answer to hello has come */
    uint32_t n_early;
    int64_t give_up_ns;  /* when to stop waiting for the gateway; 0: it is there */
    int64_t retry_ns;    /* not to say hello before; 0: at once */
    int64_t redial_ns;   /* when to connect anew if no message has been taken; 0: none waits */
    int64_t patience_ns; /* from one such time to the next */
    uint64_t n_gone;     /* of the link's messages, when redial_ns was set */
    int trouble;         /* why connecting fails: link_trouble(); 0: it does not, or nobody knows */
    int64_t hold_ns;     /* not to submit before, the gateway is full; 0: it is not */

    int error; /* -errno: the conversation has ended with it, until somebody submits again */
    char *error_text;
    uint64_t n_ended;    /* requests */
    struct ticket *kept; /* ended, without a callback, not fetched: oldest first */
    struct ticket **kept_last;
    struct wire_batch batch;
    struct arena arena;
};

void talk_init(struct talk *talk);

/* Closes the link too. */
void talk_deinit(struct talk *talk);

/* Handles what has come, ends what is due, sends what may go. */
void talk_step(struct talk *talk);

/* When talk_step() has something to do even if no letter comes; INT64_MAX: never. */
int64_t talk_next_ns(const struct talk *talk);

/* Asks it as soon as there is a connection, and again where that breaks; NULL: not any more. */
void talk_ask(struct talk *talk, struct question *question);

/* -ENOENT; else its end follows. */
int talk_cancel(struct talk *talk, uint64_t id);

/* The oldest end without a callback, in ticket->result: talk_free_kept() it. NULL: none. */
struct ticket *talk_take_kept(struct talk *talk);
void talk_free_kept(struct ticket *ticket);

int64_t talk_now_ns(void);
