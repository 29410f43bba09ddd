/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/port.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <nng/protocol/reqrep0/rep.h>

#include "ipc/client/nng_close.h"
#include "ipc/client/nng_error.h"
#include "ipc/gateway/broken_pipe.h"
#include "ipc/gateway/handshakes.h"
#include "ipc/gateway/limits.h"
#include "proto/protocol.h"
#include "shard/client_records.h"

/*
 * Each exchange has a context of the REP socket and goes round: nng receives into it, hands it to
 * the loop through the inbox, the loop hands it back with the answer, nng sends that and receives
 * again. It has one owner at a time, and changes hands under the inbox's mutex or by the call that
 * starts the operation, so its fields need no atomics.
 *
 * nng reads from a connection only while some context waits for a message: so contexts that receive
 * are what flow control is made of. New ones are opened so that EXCHANGES_SPARE always do; those
 * held by the loop for long are waiting `next` messages, which sessions limit. One that sends waits
 * for its connection's reader; where such waits have taken all contexts that there may be, the
 * connection that has most of them is closed, so that who reads nothing keeps nobody out.
 *
 * A connection is noted before nng reads its first byte, in the callback before it is added. An
 * answer that nng can't hand to a connection within ANSWER_TAKE_MS closes it.
 *
 * Strangers, who came by tcp and have not been welcomed yet, are few, for each may make nng hold a
 * message of 4 MiB. A newcomer displaces the oldest: who has the token shows it at once, so
 * strangers that linger keep nobody out.
 */
enum exchange_phase {
    EXCHANGE_RECEIVING, /* nng's */
    EXCHANGE_HELD,      /* the loop's */
    EXCHANGE_SENDING,   /* nng's */
    EXCHANGE_ENDED,     /* the port closes */
};

#define BUCKETS 1024u

struct port {
    struct port_config config;
    nng_socket socket;
    nng_listener remote_listener;
    bool has_remote;
    bool opened;
    BH *bh;
    AioTimer stranger_timer;
    AioTimer handshake_timer;

    pthread_mutex_t lock; /* all below to the blank line */
    struct exchange *inbox;
    struct exchange **inbox_last;
    struct connection *connections[BUCKETS]; /* by pipe */
    uint32_t n_local, n_remote;
    uint32_t n_sending; /* exchanges */
    struct connection *gone;
    struct connection *strangers; /* oldest first */
    struct connection **strangers_last;
    uint32_t n_strangers;

    /* The loop's. */
    struct exchange **exchanges;
    uint32_t n_exchanges;
    uint32_t n_held;
};

/* ---- in nng's threads ---- */

static void push_exchange(struct port *port, struct exchange *exchange)
{
    pthread_mutex_lock(&port->lock);
    exchange->next = NULL;
    *port->inbox_last = exchange;
    port->inbox_last = &exchange->next;
    pthread_mutex_unlock(&port->lock);
    bh_schedule(port->bh);
}

static void receive(struct exchange *exchange)
{
    exchange->phase = EXCHANGE_RECEIVING;
    nng_aio_set_timeout(exchange->aio, NNG_DURATION_INFINITE);
    nng_ctx_recv(exchange->ctx, exchange->aio);
}

static void received(struct exchange *exchange)
{
    exchange->msg = nng_aio_get_msg(exchange->aio);
    exchange->pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(exchange->msg));
    exchange->phase = EXCHANGE_HELD;
    push_exchange(exchange->port, exchange);
}

/* The caller holds the lock. */
static struct connection *connection_of(struct port *port, uint32_t pipe)
{
    struct connection *connection = port->connections[pipe % BUCKETS];

    while (connection && connection->pipe != pipe)
        connection = connection->next;
    return connection;
}

static void note_sending(struct exchange *exchange, bool begins)
{
    struct port *port = exchange->port;

    pthread_mutex_lock(&port->lock);
    struct connection *connection = connection_of(port, exchange->pipe);
    port->n_sending += begins ? 1 : -1u;
    if (connection)
        connection->n_sending += begins ? 1 : -1u;
    pthread_mutex_unlock(&port->lock);
}

static void on_exchange(void *opaque)
{
    struct exchange *exchange = opaque;
    int result = nng_aio_result(exchange->aio);

    if (exchange->phase == EXCHANGE_SENDING)
        note_sending(exchange, false);
    if (exchange->phase == EXCHANGE_SENDING && result != 0) {
        nng_msg_free(nng_aio_get_msg(exchange->aio));
        if (result == NNG_ETIMEDOUT)
            nng_pipe_close((nng_pipe){.id = exchange->pipe});
    }
    if (result == NNG_ECLOSED || result == NNG_ECANCELED)
        exchange->phase = EXCHANGE_ENDED;
    else if (exchange->phase == EXCHANGE_RECEIVING && result == 0)
        received(exchange);
    else
        receive(exchange);
}

/* The caller holds the lock. */
static uint32_t *count_of(struct port *port, const struct connection *connection)
{
    return connection->remote ? &port->n_remote : &port->n_local;
}

/* The caller holds the lock. */
static void add_stranger(struct port *port, struct connection *connection)
{
    connection->since_ns = aio_clock_ns();
    connection->stranger_link = port->strangers_last;
    *port->strangers_last = connection;
    port->strangers_last = &connection->next_stranger;
    port->n_strangers++;
}

/* The caller holds the lock. */
static void remove_stranger(struct port *port, struct connection *connection)
{
    if (!connection->stranger_link)
        return;
    *connection->stranger_link = connection->next_stranger;
    if (connection->next_stranger)
        connection->next_stranger->stranger_link = connection->stranger_link;
    else
        port->strangers_last = connection->stranger_link;
    connection->stranger_link = NULL;
    connection->next_stranger = NULL;
    port->n_strangers--;
}

/* Takes the oldest stranger off the list, where it has to go: its pipe, or 0. */
static uint32_t take_stranger(struct port *port, uint32_t most, int64_t before_ns)
{
    uint32_t pipe = 0;

    pthread_mutex_lock(&port->lock);
    struct connection *oldest = port->strangers;
    if (oldest && (port->n_strangers > most || oldest->since_ns <= before_ns)) {
        pipe = oldest->pipe;
        remove_stranger(port, oldest);
    }
    pthread_mutex_unlock(&port->lock);
    return pipe;
}

static bool add_connection(struct port *port, struct connection *connection)
{
    struct connection **bucket = &port->connections[connection->pipe % BUCKETS];

    pthread_mutex_lock(&port->lock);
    uint32_t *count = count_of(port, connection);
    bool added = *count < (connection->remote ? LIMIT_REMOTE : LIMIT_LOCAL);
    if (added) {
        connection->next = *bucket;
        *bucket = connection;
        ++*count;
    }
    if (added && connection->remote)
        add_stranger(port, connection);
    pthread_mutex_unlock(&port->lock);
    return added;
}

static void on_handshake(void *opaque)
{
    struct port *port = opaque;

    timer_mod_anticipate_ns(&port->handshake_timer, aio_clock_ns() + HANDSHAKE_LOOK_NS);
}

static void end_handshake(nng_pipe pipe)
{
    nng_sockaddr from;

    if (nng_pipe_get_addr(pipe, NNG_OPT_REMADDR, &from) == 0)
        handshakes_over(&from);
}

/* The kernel's word, of a Unix socket. */
static uint32_t uid_of(nng_pipe pipe, bool remote)
{
    uint64_t uid;

    return !remote && nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) == 0
               ? (uint32_t)uid
               : CLIENT_USER_REMOTE;
}

static void on_pipe_added(nng_pipe pipe, nng_pipe_ev event, void *opaque)
{
    struct port *port = opaque;
    struct connection *connection = calloc(1, sizeof(*connection));
    bool remote = port->has_remote && nng_pipe_listener(pipe).id == port->remote_listener.id;

    if (remote)
        end_handshake(pipe);
    if (connection) {
        connection->pipe = (uint32_t)nng_pipe_id(pipe);
        connection->remote = remote;
        connection->uid = uid_of(pipe, remote);
    }
    if (!connection || !add_connection(port, connection)) {
        free(connection);
        nng_pipe_close(pipe);
        return;
    }
    /* From here on the loop may free it. */
    if (!remote)
        return;
    timer_mod_anticipate_ns(&port->stranger_timer, aio_clock_ns() + STRANGER_NS);
    uint32_t oldest = take_stranger(port, LIMIT_STRANGERS, INT64_MIN);
    if (oldest != 0)
        nng_pipe_close((nng_pipe){.id = oldest});
}

static void on_pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *opaque)
{
    struct port *port = opaque;
    uint32_t id = (uint32_t)nng_pipe_id(pipe);

    pthread_mutex_lock(&port->lock);
    struct connection **link = &port->connections[id % BUCKETS];
    while (*link && (*link)->pipe != id)
        link = &(*link)->next;
    struct connection *connection = *link;
    if (connection) {
        connection->next_gone = port->gone;
        port->gone = connection;
        remove_stranger(port, connection);
    }
    pthread_mutex_unlock(&port->lock);
    if (connection)
        bh_schedule(port->bh);
}

/* ---- in the loop ---- */

static struct connection *find_connection(struct port *port, uint32_t pipe)
{
    pthread_mutex_lock(&port->lock);
    struct connection *connection = connection_of(port, pipe);
    pthread_mutex_unlock(&port->lock);
    return connection;
}

static void free_connection(struct port *port, struct connection *connection)
{
    pthread_mutex_lock(&port->lock);
    struct connection **link = &port->connections[connection->pipe % BUCKETS];
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    --*count_of(port, connection);
    pthread_mutex_unlock(&port->lock);
    free(connection);
}

/* The loop is done with an exchange: nng gets it back after this. */
static void let_go(struct exchange *exchange)
{
    struct connection *connection = exchange->connection;

    assert(exchange->phase == EXCHANGE_HELD);
    nng_msg_free(exchange->msg);
    exchange->msg = NULL;
    exchange->request = NULL;
    exchange->connection = NULL;
    exchange->port->n_held--;
    if (connection && --connection->held == 0 && connection->gone)
        free_connection(exchange->port, connection);
}

void exchange_reply(struct exchange *exchange, nng_msg *msg)
{
    note_sending(exchange, true);
    let_go(exchange);
    exchange->phase = EXCHANGE_SENDING;
    nng_aio_set_msg(exchange->aio, msg);
    nng_aio_set_timeout(exchange->aio, ANSWER_TAKE_MS);
    nng_ctx_send(exchange->ctx, exchange->aio);
}

void exchange_drop(struct exchange *exchange)
{
    let_go(exchange);
    receive(exchange);
}

void connection_welcome(struct connection *connection, struct port *port)
{
    pthread_mutex_lock(&port->lock);
    remove_stranger(port, connection);
    pthread_mutex_unlock(&port->lock);
}

static void on_stranger_timer(void *opaque)
{
    struct port *port = opaque;
    uint32_t pipe;

    while ((pipe = take_stranger(port, LIMIT_STRANGERS, aio_clock_ns() - STRANGER_NS)) != 0)
        nng_pipe_close((nng_pipe){.id = pipe});
    pthread_mutex_lock(&port->lock);
    int64_t next_ns = port->strangers ? port->strangers->since_ns + STRANGER_NS : INT64_MAX;
    pthread_mutex_unlock(&port->lock);
    if (next_ns != INT64_MAX)
        timer_mod_anticipate_ns(&port->stranger_timer, next_ns);
}

static void on_handshake_timer(void *opaque)
{
    struct port *port = opaque;
    int64_t next_ns = handshakes_expire(aio_clock_ns());

    if (next_ns != INT64_MAX)
        timer_mod_anticipate_ns(&port->handshake_timer, next_ns);
}

void connection_close(struct connection *connection)
{
    nng_pipe_close((nng_pipe){.id = connection->pipe});
}

static int open_exchange(struct port *port)
{
    struct exchange *exchange = calloc(1, sizeof(*exchange));
    if (!exchange)
        return -ENOMEM;
    exchange->port = port;
    int r = nng_aio_alloc(&exchange->aio, on_exchange, exchange);
    if (r == 0 && (r = nng_ctx_open(&exchange->ctx, port->socket)) != 0)
        nng_aio_free(exchange->aio);
    if (r != 0) {
        free(exchange);
        return nng_errno(r);
    }
    port->exchanges[port->n_exchanges++] = exchange;
    receive(exchange);
    return 0;
}

static void close_who_reads_least(struct port *port)
{
    const struct connection *most = NULL;
    uint32_t pipe = 0;

    pthread_mutex_lock(&port->lock);
    for (uint32_t i = 0; i < BUCKETS; i++)
        for (struct connection *each = port->connections[i]; each; each = each->next)
            if (each->n_sending > 0 && (!most || each->n_sending > most->n_sending))
                most = each;
    if (most)
        pipe = most->pipe;
    pthread_mutex_unlock(&port->lock);
    if (pipe != 0)
        nng_pipe_close((nng_pipe){.id = pipe});
}

/* How many receive, or are about to be the loop's. */
static uint32_t count_spare(struct port *port)
{
    pthread_mutex_lock(&port->lock);
    uint32_t n_sending = port->n_sending;
    pthread_mutex_unlock(&port->lock);
    return port->n_exchanges - port->n_held - n_sending;
}

/* Where no more can be opened, those there are go on: clients wait for their turn. Who takes no
 * answers is closed where there may be no more, and where memory is short only if nobody else can
 * be heard. */
static int open_spare(struct port *port)
{
    uint32_t n_spare = count_spare(port);
    int r = 0;

    for (; r == 0 && port->n_exchanges < EXCHANGES_MAX && n_spare < EXCHANGES_SPARE; n_spare++)
        r = open_exchange(port);
    if (n_spare < EXCHANGES_SPARE && (r == 0 || n_spare == 0))
        close_who_reads_least(port);
    return r;
}

static void deliver(struct port *port, struct exchange *exchange)
{
    exchange->connection = find_connection(port, exchange->pipe);
    exchange->request = nng_msg_body(exchange->msg);
    exchange->request_len = nng_msg_len(exchange->msg);
    port->n_held++;
    if (!exchange->connection) {
        exchange_drop(exchange);
        return;
    }
    exchange->connection->held++;
    port->config.message(exchange, port->config.opaque);
}

static void deliver_gone(struct port *port, struct connection *connection)
{
    connection->gone = true;
    connection->held++;
    port->config.gone(connection, port->config.opaque);
    if (--connection->held == 0)
        free_connection(port, connection);
}

static struct exchange *take_message(struct port *port, struct connection **ret_gone)
{
    pthread_mutex_lock(&port->lock);
    struct exchange *exchange = port->inbox;
    if (exchange) {
        port->inbox = exchange->next;
        if (!port->inbox)
            port->inbox_last = &port->inbox;
    }
    *ret_gone = port->gone;
    port->gone = NULL;
    pthread_mutex_unlock(&port->lock);
    return exchange;
}

static void on_inbox(void *opaque)
{
    struct port *port = opaque;

    for (uint32_t n = 0; n < MESSAGES_A_TURN; n++) {
        struct connection *gone;
        struct exchange *exchange = take_message(port, &gone);
        if (exchange)
            deliver(port, exchange);
        while (gone) {
            struct connection *next = gone->next_gone;
            deliver_gone(port, gone);
            gone = next;
        }
        if (!exchange) {
            open_spare(port);
            return;
        }
    }
    open_spare(port);
    bh_schedule(port->bh);
}

/* ---- open and close ---- */

static int listen_local(struct port *port)
{
    const char *path = port->config.local_path;
    char *url = NULL;
    nng_listener listener;

    if (asprintf(&url, "ipc://%s", path) < 0)
        return -ENOMEM;
    int r = nng_listener_create(&listener, port->socket, url);
    free(url);
    if (r != 0)
        return nng_errno(r);
    /* Whoever holds the instance's lock owns the name: a socket there is a dead gateway's. */
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0600);
    if (r == 0)
        r = nng_listener_start(listener, 0);
    return nng_errno(r);
}

static int listen_remote(struct port *port)
{
    int r = nng_listener_create(&port->remote_listener, port->socket, port->config.listen_url);
    if (r != 0)
        return nng_errno(r);
    port->has_remote = true;
    handshakes_start(on_handshake, port);
    nng_listener_set_bool(port->remote_listener, NNG_OPT_TCP_KEEPALIVE, true);
    if (port->config.tls)
        r = nng_listener_set_ptr(port->remote_listener, NNG_OPT_TLS_CONFIG, port->config.tls);
    return nng_errno(r == 0 ? nng_listener_start(port->remote_listener, 0) : r);
}

static int open_socket(struct port *port)
{
    int r = nng_rep0_open(&port->socket);
    if (r != 0)
        return nng_errno(r);
    port->opened = true;
    r = nng_socket_set_size(port->socket, NNG_OPT_RECVMAXSZ, PROTOCOL_MESSAGE_MAX);
    if (r == 0)
        r = nng_pipe_notify(port->socket, NNG_PIPE_EV_ADD_PRE, on_pipe_added, port);
    if (r == 0)
        r = nng_pipe_notify(port->socket, NNG_PIPE_EV_REM_POST, on_pipe_removed, port);
    return nng_errno(r);
}

static int start(struct port *port, const char **ret_what)
{
    *ret_what = "memory";
    port->exchanges = calloc(EXCHANGES_MAX, sizeof(struct exchange *));
    port->bh = aio_bh_new(port->config.ctx, on_inbox, port);
    if (!port->exchanges || !port->bh)
        return -ENOMEM;
    *ret_what = "nng's sendmsg() or accept() is not the program's own";
    if (!broken_pipe_stands() || !handshakes_stand())
        return -ELIBACC;
    *ret_what = "the socket of nng";
    int r = open_socket(port);
    if (r == 0)
        r = open_spare(port);
    if (r < 0)
        return r;
    *ret_what = port->config.local_path;
    r = listen_local(port);
    if (r < 0 || !port->config.listen_url)
        return r;
    *ret_what = port->config.listen_url;
    return listen_remote(port);
}

int port_open(const struct port_config *config, struct port **ret_port, const char **ret_what)
{
    struct port *port = calloc(1, sizeof(*port));
    *ret_what = "memory";
    if (!port)
        return -ENOMEM;
    port->config = *config;
    port->inbox_last = &port->inbox;
    port->strangers_last = &port->strangers;
    aio_timer_init(config->ctx, &port->stranger_timer, on_stranger_timer, port);
    aio_timer_init(config->ctx, &port->handshake_timer, on_handshake_timer, port);
    pthread_mutex_init(&port->lock, NULL);
    int r = start(port, ret_what);
    if (r < 0)
        port_close(port);
    else
        *ret_port = port;
    return r;
}

static void free_exchange(struct exchange *exchange)
{
    nng_aio_free(exchange->aio); /* waits for its callback */
    nng_msg_free(exchange->msg);
    free(exchange);
}

bool port_is_sending(struct port *port)
{
    pthread_mutex_lock(&port->lock);
    bool sends = port->n_sending > 0;
    pthread_mutex_unlock(&port->lock);
    return sends;
}

void port_close(struct port *port)
{
    if (!port)
        return;
    for (uint32_t i = 0; i < port->n_exchanges; i++)
        nng_aio_stop(port->exchanges[i]->aio); /* waits for its callback */
    if (port->opened) {
        nng_pipe_notify(port->socket, NNG_PIPE_EV_ADD_PRE, NULL, NULL);
        nng_pipe_notify(port->socket, NNG_PIPE_EV_REM_POST, NULL, NULL);
        nng_close_in_time(port->socket);
    }
    for (uint32_t i = 0; i < port->n_exchanges; i++)
        free_exchange(port->exchanges[i]);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        while (port->connections[i]) {
            struct connection *connection = port->connections[i];
            port->connections[i] = connection->next;
            free(connection);
        }
    }
    if (port->has_remote)
        handshakes_stop();
    timer_del(&port->handshake_timer);
    timer_del(&port->stranger_timer);
    bh_delete(port->bh);
    pthread_mutex_destroy(&port->lock);
    free(port->exchanges);
    free(port);
}
