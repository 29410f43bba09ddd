/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * session - what the gateway remembers of one client, over its connections: ids used, ends not yet
 *           acknowledged, `next` messages that wait
 *
 * Why:         a connection may break at any byte and no end may be lost or delivered for another
 *              request; so ends are kept until the client says that they arrived. What a gateway's
 *              heir needs of that stands in the fates (fates.h).
 * Use:         sessions_init(); hello: sessions_find() or sessions_add(), session_attach();
 *              a request ends: session_append(); next: session_ack(), then session_next()
 * Concurrency: owner loop
 * Lifetime:    a session lives as long as its connection and SESSION_KEEP_NS more. Where there are
 *              too many, the one longest without a connection and with nothing under way goes
 *              first.
 *
 * Ends have positions, from 1 without gaps. A reply to `next` takes the ends after those that went
 * before; attaching to a new connection starts again behind the last acknowledged one.
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/gateway/fates.h"
#include "ipc/gateway/idset.h"
#include "ipc/gateway/limits.h"
#include "ipc/gateway/port.h"
#include "ipc/gateway/round.h"
#include "proto/protocol.h"
#include "runtime/aio.h"

struct request;
struct sessions;

/* How a request ended. */
struct ended {
    struct ended *next;
    uint64_t id;
    uint32_t kind;  /* enum call_end */
    int32_t error;  /* 0 or -errno */
    uint32_t shard; /* UINT32_MAX: nobody ran it */
    uint32_t fate;  /* where it outlives the gateway */
    bool gone;      /* it had an answer, which was too large for that */
    size_t len;
    uint8_t *data;
};

void ended_free(struct ended *ended);

struct waiting_next {
    struct session *session;
    struct exchange *exchange; /* NULL: free */
    uint32_t max_ends;
    uint64_t order;
    AioTimer timer;
};

struct session {
    struct sessions *sessions;
    uint8_t token[PROTOCOL_SESSION_LEN];
    uint32_t row;         /* among the fates */
    uint32_t number;      /* for people */
    uint32_t uid;         /* whose it is; CLIENT_USER_REMOTE: of who has the token */
    int64_t barred_ns;    /* nothing of that one's is started before; 0: nothing keeps it */
    int64_t condemned_ns; /* since then it is to end (penalty.c); 0: it is not */
    struct connection *connection; /* NULL: gone */
    int64_t gone_ns;               /* since when */
    struct idset ids;

    struct ended *ends; /* not acknowledged, oldest first */
    struct ended **ends_last;
    struct ended *unsent;     /* the first that no reply has carried on this connection */
    uint64_t first_position;  /* of ends */
    uint64_t unsent_position; /* of unsent */
    uint32_t n_ends;
    uint64_t answer_bytes; /* of ends, and set aside for requests that were started */

    struct waiting_next nexts[LIMIT_NEXTS_SESSION];
    bool dirty; /* on the list of those with something to send */
    struct session *next_dirty;

    struct request *requests; /* not ended (requests.c) */
    uint32_t n_requests;
    struct line *lines; /* of requests not started, by shard and lane of the mesh */
    bool paused;        /* some line is out of its round, for want of room or connection */
};

struct sessions_config {
    AioContext *ctx;
    struct fates *fates;
    uint32_t n_lines; /* of a session */
    /* The session ends: let go of its requests. */
    void (*abandon)(struct session *session, void *opaque);
    /* Ends were acknowledged, or a connection attached: requests may start. */
    void (*room)(struct session *session, void *opaque);
    void *opaque;
};

struct sessions {
    struct sessions_config config;
    struct session *all[LIMIT_SESSIONS];
    uint32_t n;
    uint32_t n_attached;
    uint64_t n_ends; /* not acknowledged, of all */
    uint64_t answer_bytes;
    uint64_t next_order;
    uint64_t n_over; /* that have ended, since the start */
    struct session **by_row;
    struct session *dirty;
    bool leaving; /* farewell has been said */
    BH *flush;
    AioTimer expiry;
};

int sessions_init(struct sessions *sessions, const struct sessions_config *config);
/* The fates go on without it. */
void sessions_deinit(struct sessions *sessions);

/* NULL: no such session (any more). The comparison takes the same time whatever the token. */
struct session *sessions_find(struct sessions *sessions, const uint8_t *token, size_t len);

/* Goes on with the sessions that the fates tell of: their ends that were not acknowledged are to be
 * fetched again, at the same positions. For a start. 0 or -ENOMEM. */
int sessions_inherit(struct sessions *sessions);

/* A new one without a connection. 0; -EAGAIN: there are too many, all in use; -ENOMEM. */
int sessions_add(struct sessions *sessions, struct session **ret_session);

/* Some client that is there has ends to fetch. */
bool sessions_owe(const struct sessions *sessions);

/* The connection becomes the session's only one, and the session its only one; it is that one's
 * user's from then on. */
void session_attach(struct session *session, struct connection *connection);
void session_detach(struct session *session);

/* Consumes ended. It goes out at the end of this phase of the loop. */
void session_append(struct session *session, struct ended *ended);

/* The end of a request that has ended, and was acknowledged, comes once more. 0; -EAGAIN,
 * -ENOMEM. */
int session_tell_again(struct session *session, uint32_t fate);

/* Frees the ends up to position. 0; -EINVAL: beyond the last. */
int session_ack(struct session *session, uint64_t position);

/* Answers the exchange with ends, at once where there are any or wait_ms is 0. */
void session_next(
    struct session *session, struct exchange *exchange, uint32_t max_ends, uint32_t wait_ms);

/* The gateway leaves, and takes nothing more: a session all of whose requests have ended, as its
 * client has acknowledged, hears so by its nexts: what it has no answer to was never taken. */
void sessions_farewell(struct sessions *sessions);

/* Hands out at most max_ends unsent ends and about LIMIT_REPLY_BYTES: the first of them (follow
 * next), its position, and how many. */
uint32_t session_take(
    struct session *session, uint32_t max_ends, struct ended **ret_first, uint64_t *ret_position);

/* Accounts for answers, positive or negative. */
void session_charge(struct session *session, int64_t bytes);
