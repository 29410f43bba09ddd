/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/core.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ipc/client/token.h"
#include "ipc/gateway/reply.h"
#include "proto/sherd.pb-c.h"

/*
 * A message is unpacked from nng's buffer, which nobody else can write, into the arena, and handled
 * to the end before the next one: what must live longer is copied. Only a hello is heard from a
 * connection without a session, so that nothing else has to ask who is there.
 */

#define COMPLAINT_NS (INT64_C(1) * 1000000000)

/* Logs it, but one a second at most: clients without a token must not fill a disk. */
__attribute__((format(printf, 2, 3))) static void complain(
    struct gateway *gateway, const char *format, ...)
{
    int64_t now_ns = aio_clock_ns();
    char text[200];
    va_list args;

    if (now_ns < gateway->next_complaint_ns) {
        gateway->n_unsaid++;
        return;
    }
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (gateway->n_unsaid > 0)
        log_line(gateway->env->log, LOG_LEVEL_WARNING, "%s (%llu such lines before it left out)",
            text, (unsigned long long)gateway->n_unsaid);
    else
        log_line(gateway->env->log, LOG_LEVEL_WARNING, "%s", text);
    gateway->n_unsaid = 0;
    gateway->next_complaint_ns = now_ns + COMPLAINT_NS;
}

static void reject_malformed(struct gateway *gateway, struct exchange *exchange)
{
    complain(gateway,
        "a client sent a message of %zu bytes that is not the protocol; it was told so",
        exchange->request_len);
    reply_error(exchange, -EPROTO,
        "not understood: %zu bytes that are no Request of sherd.proto, version %u",
        exchange->request_len, PROTOCOL_VERSION);
}

static bool knows(const struct token *token, const Sherd__Wire__Hello *hello)
{
    return token->len > 0 &&
           token_equal(token->secret, token->len, hello->token.data, hello->token.len);
}

/* Who may signal the supervisor may give it orders; else who has the token for that. */
static bool is_operator(
    const struct gateway *gateway, const struct exchange *exchange, const Sherd__Wire__Hello *hello)
{
    const struct connection *connection = exchange->connection;

    if (!connection->remote)
        return connection->uid == 0 || connection->uid == geteuid();
    return knows(&gateway->operator_token, hello);
}

static uint32_t max_in_flight(const struct gateway *gateway)
{
    return gateway->fates.n_all < FATES_SESSION ? gateway->fates.n_all : FATES_SESSION;
}

static void welcome(
    struct gateway *gateway, struct exchange *exchange, struct session *session, bool resumed)
{
    Sherd__Wire__HelloReply body = SHERD__WIRE__HELLO_REPLY__INIT;
    body.version = PROTOCOL_VERSION;
    body.session.data = session->token;
    body.session.len = sizeof(session->token);
    body.resumed = resumed;
    body.instance = (char *)gateway->env->instance;
    body.server = (char *)SHERD_VERSION;
    body.shards = gateway->env->segment->geometry.n_shards;
    body.max_in_flight = max_in_flight(gateway);
    body.gateway = gateway->env->incarnation;
    body.max_batch = PROTOCOL_BATCH_MAX;
    body.max_payload = PROTOCOL_PAYLOAD_MAX;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_HELLO;
    reply.hello = &body;
    reply_send(exchange, &reply);
}

static void handle_hello(
    struct gateway *gateway, struct exchange *exchange, const Sherd__Wire__Hello *hello)
{
    if (gateway->sessions
            .leaving) { /* the connection ends soon, and the client asks the next one */
        exchange_drop(exchange);
        return;
    }
    if (hello->version != PROTOCOL_VERSION) {
        reply_error(exchange, -EPROTONOSUPPORT,
            "version %u of the protocol is not spoken here, version %u is", hello->version,
            PROTOCOL_VERSION);
        return;
    }
    bool has_orders = is_operator(gateway, exchange, hello);
    if (exchange->connection->remote && !has_orders && !knows(&gateway->token, hello)) {
        complain(gateway, "a client over tcp gave %s token and was refused",
            hello->token.len > 0 ? "a wrong" : "no");
        reply_error(exchange, -EACCES,
            "the token is %s: clients over tcp need what is in the file that "
            "`sherd run --token-file` names",
            hello->token.len > 0 ? "wrong" : "missing");
        return;
    }
    struct session *session =
        sessions_find(&gateway->sessions, hello->session.data, hello->session.len);
    bool resumed = session != NULL;

    if (resumed && session->condemned_ns) {
        reply_error(exchange, -EPERM, PENALTY_TEXT, session->number);
        return;
    }
    int r = resumed ? 0 : sessions_add(&gateway->sessions, &session);
    if (r < 0) {
        reply_error(exchange, r,
            "no more clients: %u have a session, and what became of their requests fills the room "
            "that there is for it (sherd run --fates-memory); try again later",
            gateway->sessions.n);
        return;
    }
    exchange->connection->is_operator = has_orders;
    session_attach(session, exchange->connection);
    penalty_meet(gateway, session);
    connection_welcome(exchange->connection, gateway->port);
    gateway_count(gateway);
    log_line(gateway->env->log, LOG_LEVEL_DEBUG, "client %u is %.64s%s", session->number,
        hello->client && *hello->client ? hello->client : "nameless", resumed ? ", again" : "");
    welcome(gateway, exchange, session, resumed);
}

static void handle_next(
    struct session *session, struct exchange *exchange, const Sherd__Wire__Next *next)
{
    if (next->session.len > 0 &&
        !token_equal(session->token, sizeof(session->token), next->session.data, next->session.len))
        reply_error(exchange, -ESTALE, "this connection has another session now");
    else if (session_ack(session, next->ack) < 0)
        reply_error(exchange, -EINVAL, "next acknowledges position %llu, but the last end has %llu",
            (unsigned long long)next->ack,
            (unsigned long long)(session->first_position + session->n_ends - 1));
    else
        session_next(session, exchange, next->max_ends, next->wait_ms);
}

static void handle_cancel(struct gateway *gateway, struct session *session,
    struct exchange *exchange, const Sherd__Wire__Cancel *cancel)
{
    Sherd__Wire__CancelReply body = SHERD__WIRE__CANCEL_REPLY__INIT;

    for (size_t i = 0; i < cancel->n_ids; i++)
        body.cancelled += requests_cancel(&gateway->requests, session, cancel->ids[i]);
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_CANCEL;
    reply.cancel = &body;
    reply_send(exchange, &reply);
}

static void handle_drain(
    struct gateway *gateway, struct exchange *exchange, const Sherd__Wire__Drain *drain)
{
    if (strcmp(drain->instance, gateway->env->instance) != 0) {
        reply_error(exchange, -EINVAL, "an order names the instance that it is for, here %s",
            gateway->env->instance);
        return;
    }
    if (exchange->connection->is_operator) {
        orders_ask(&gateway->orders, exchange, drain->off ? ORDER_KIND_RESUME : ORDER_KIND_DRAIN,
            drain->limit_ms);
        return;
    }
    complain(gateway, "a client over tcp wanted the instance to drain and was refused");
    reply_error(exchange, -EACCES,
        "this token is not for orders: over tcp the instance is drained by who has what is in the "
        "file that `sherd run --operator-token-file` names");
}

/* Everything but hello. */
static void handle_in_session(struct gateway *gateway, struct session *session,
    struct exchange *exchange, const Sherd__Wire__Request *request)
{
    switch (request->body_case) {
    case SHERD__WIRE__REQUEST__BODY_SUBMIT:
        dispatch_submissions(gateway, session, exchange, &request->submit, 1);
        return;
    case SHERD__WIRE__REQUEST__BODY_SUBMIT_MANY:
        dispatch_submissions(gateway, session, exchange, request->submit_many->submissions,
            request->submit_many->n_submissions);
        return;
    case SHERD__WIRE__REQUEST__BODY_NEXT:
        handle_next(session, exchange, request->next);
        return;
    case SHERD__WIRE__REQUEST__BODY_CANCEL:
        handle_cancel(gateway, session, exchange, request->cancel);
        return;
    case SHERD__WIRE__REQUEST__BODY_STATUS:
        describe_status(gateway, exchange);
        return;
    case SHERD__WIRE__REQUEST__BODY_WATCH:
        watches_add(&gateway->watches, exchange, request->watch->seen, request->watch->wait_ms);
        return;
    case SHERD__WIRE__REQUEST__BODY_DRAIN:
        handle_drain(gateway, exchange, request->drain);
        return;
    case SHERD__WIRE__REQUEST__BODY_METHODS:
        describe_methods(gateway, exchange);
        return;
    default:
        reject_malformed(gateway, exchange);
        return;
    }
}

void dispatch_message(struct gateway *gateway, struct exchange *exchange)
{
    struct session *session = exchange->connection->session;

    arena_reset(&gateway->arena);
    const Sherd__Wire__Request *request = sherd__wire__request__unpack(
        &gateway->arena.allocator, exchange->request_len, exchange->request);
    if (!request || request->body_case == SHERD__WIRE__REQUEST__BODY__NOT_SET)
        reject_malformed(gateway, exchange);
    else if (request->body_case == SHERD__WIRE__REQUEST__BODY_HELLO)
        handle_hello(gateway, exchange, request->hello);
    else if (!session)
        reply_error(exchange, -ESTALE, "this connection has no session: say hello first");
    else
        handle_in_session(gateway, session, exchange, request);
}
