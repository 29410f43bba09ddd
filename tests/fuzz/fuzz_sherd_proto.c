/* SPDX-License-Identifier: MIT */
/*
 * Messages of sherd.proto, from clients that have several connections and lose them: the gateway's
 * dispatch with all behind it, and a shard that serves `sys`. nng alone is not there: this file is
 * the gateway's port. Every message is answered once, and once its clients are gone the gateway
 * holds nothing of them.
 *
 * Input: a sequence of a byte that says what happens and on which connection, and for a message
 * two bytes of length and its bytes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "ipc/gateway/core.h"
#include "services/sys.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/shard/mesh_rig.h"

#define CONNECTIONS 4
#define TURNS_MAX   1000000 /* until nothing is under way */

enum happening { MESSAGE, LOSS, TURN, DRAIN, RESUME, N_HAPPENINGS };

static struct rig rig;
static struct rig_end gateway_end, shard_end;
static struct log quiet;
static struct child_env env;
static struct gateway gateway;
static struct connection connections[CONNECTIONS];
static uint32_t n_exchanges;

/* ---- the port ---- */

static void end_exchange(struct exchange *exchange)
{
    assert(n_exchanges > 0);
    n_exchanges--;
    exchange->connection->held--;
    free((void *)exchange->request);
    free(exchange);
}

void exchange_reply(struct exchange *exchange, nng_msg *msg)
{
    assert(nng_msg_len(msg) <= PROTOCOL_MESSAGE_MAX);
    nng_msg_free(msg);
    end_exchange(exchange);
}

void exchange_drop(struct exchange *exchange)
{
    end_exchange(exchange);
}

void connection_welcome(struct connection *connection, struct port *port)
{
    (void)connection;
    (void)port;
}

void connection_close(struct connection *connection)
{
    (void)connection;
}

int port_open(const struct port_config *config, struct port **ret_port, const char **ret_what)
{
    (void)config;
    (void)ret_port;
    (void)ret_what;
    abort();
}

bool port_is_sending(struct port *port)
{
    (void)port;
    return false;
}

void port_close(struct port *port)
{
    (void)port;
    abort();
}

/* ---- what gateway.c does ---- */

static void on_ended(void *opaque)
{
    (void)opaque;
}

static void on_abandon(struct session *session, void *opaque)
{
    (void)opaque;
    requests_abandon(&gateway.requests, session);
}

static void on_room(struct session *session, void *opaque)
{
    (void)opaque;
    requests_room(&gateway.requests, session);
}

/* The supervisor's part: the order is taken, or cannot be. */
static void on_ask(uint64_t word, void *opaque)
{
    struct supervisor_head *head = segment_supervisor(&rig.seg);
    struct order_note *note = &head->orders[word % SEGMENT_ORDER_NOTES];

    (void)opaque;
    note->word = word;
    note->state = ORDER_TAKEN + (uint32_t)(word >> 24) % (ORDER_WRONG - ORDER_TAKEN + 1);
    head->state = word >> 56 == ORDER_KIND_DRAIN ? PEER_DRAINING : PEER_UP;
}

static void on_tell(struct exchange *exchange, void *opaque)
{
    (void)opaque;
    arena_reset(&gateway.arena);
    describe_status(&gateway, exchange);
}

static void open_gateway(void)
{
    struct orders_config orders = {.ctx = gateway.ctx, .segment = &rig.seg, .ask = on_ask};
    struct watches_config watches = {.ctx = gateway.ctx, .segment = &rig.seg, .tell = on_tell};
    struct requests_config requests = {
        .ctx = gateway.ctx,
        .mesh = gateway_end.mesh,
        .fates = &gateway.fates,
        .segment = &rig.seg,
        .registry = rig.registry,
        .ended = on_ended,
    };
    struct sessions_config sessions = {
        .ctx = gateway.ctx,
        .fates = &gateway.fates,
        .n_lines = requests_n_lines(&rig.seg),
        .abandon = on_abandon,
        .room = on_room,
    };

    assert(fates_open(&gateway.fates, &rig.seg) == 0);
    assert(requests_init(&gateway.requests, &requests) == 0);
    assert(sessions_init(&gateway.sessions, &sessions) == 0);
    arena_init(&gateway.arena, PROTOCOL_UNPACKED_MAX);
    orders_init(&gateway.orders, &orders);
    watches_init(&gateway.watches, &watches);
}

static void open_world(void)
{
    rig_open(&rig, 1, &sys_service);
    rig_begin(&rig, 0, &shard_end);
    rig_begin(&rig, segment_gateway(&rig.seg), &gateway_end);
    log_init(&quiet, -1, LOG_LEVEL_ERROR);
    env = (struct child_env){.segment = &rig.seg,
        .registry = rig.registry,
        .log = &quiet,
        .instance = "fuzz",
        .peer = segment_gateway(&rig.seg)};
    gateway.env = &env;
    gateway.ctx = gateway_end.ctx;
    gateway.operator_token = (struct token){.secret = (uint8_t *)"order", .len = 5};
    gateway.token = (struct token){.secret = (uint8_t *)"secret", .len = 6};
}

/* ---- what happens ---- */

/* The loop that this thread is at, of the two. */
static void become(AioContext *ctx)
{
    aio_context_set_current(NULL);
    aio_context_set_current(ctx);
}

static void turn(struct rig_end *end)
{
    become(end->ctx);
    aio_poll(end->ctx, false);
}

static void turn_both(void)
{
    turn(&shard_end);
    turn(&gateway_end); /* last: what happens next is in its loop */
}

static void deliver(struct connection *connection, struct fuzz_bytes message)
{
    struct exchange *exchange = calloc(1, sizeof(*exchange));
    uint8_t *copy = malloc(message.len ? message.len : 1);

    assert(exchange && copy);
    memcpy(copy, message.at, message.len);
    *exchange =
        (struct exchange){.connection = connection, .request = copy, .request_len = message.len};
    connection->held++;
    n_exchanges++;
    dispatch_message(&gateway, exchange);
}

static void lose(struct connection *connection)
{
    orders_forget(&gateway.orders, connection);
    watches_forget(&gateway.watches, connection);
    if (connection->session)
        session_detach(connection->session);
    assert(!connection->session);
}

static void happen(uint8_t byte, struct fuzz_bytes *bytes)
{
    struct connection *connection = &connections[byte % CONNECTIONS];

    switch ((enum happening)(byte / CONNECTIONS % N_HAPPENINGS)) {
    case MESSAGE:
        deliver(connection, fuzz_take(bytes, (size_t)fuzz_number(bytes, 2)));
        return;
    case LOSS:
        lose(connection);
        return;
    case TURN:
        turn_both();
        return;
    case DRAIN:
        gateway.draining = true;
        requests_drain(&gateway.requests);
        return;
    case RESUME:
        gateway.draining = false;
        requests_resume(&gateway.requests);
        return;
    case N_HAPPENINGS:
        break;
    }
    abort();
}

static bool is_busy(void)
{
    return !requests_is_idle(&gateway.requests) || !mesh_is_idle(gateway_end.mesh) ||
           !mesh_is_idle(shard_end.mesh) || rig_slots_in_use(&rig) > 0;
}

static void close_gateway(void)
{
    for (int i = 0; i < CONNECTIONS; i++)
        lose(&connections[i]);
    orders_deinit(&gateway.orders);
    watches_deinit(&gateway.watches);
    sessions_deinit(&gateway.sessions);
    for (int turns = 0; is_busy(); turns++) {
        assert(turns < TURNS_MAX);
        turn_both();
    }
    assert(n_exchanges == 0);
    assert(rig_balances(&rig));
    requests_deinit(&gateway.requests);
    fates_close(&gateway.fates);
    arena_deinit(&gateway.arena);
    aio_context_set_current(NULL);
}

static void close_world(void)
{
    rig_finish(&gateway_end);
    rig_finish(&shard_end);
    rig_close(&rig);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct fuzz_bytes bytes = {data, len};

    if (!gateway.ctx) {
        open_world();
        atexit(close_world);
    }
    gateway.draining = false;
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        connections[i] = (struct connection){.pipe = i + 1, .remote = i == CONNECTIONS - 1};
    become(gateway.ctx);
    open_gateway();
    while (bytes.len > 0)
        happen((uint8_t)fuzz_number(&bytes, 1), &bytes);
    close_gateway();
}
