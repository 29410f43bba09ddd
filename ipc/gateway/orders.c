/* SPDX-License-Identifier: MIT */
/*
 * Nobody rings the gateway for the supervisor's note of an order, so it is looked at some hundred
 * times a second while one is on its way: the supervisor takes it within a turn of its loop.
 */
#include "ipc/gateway/orders.h"

#include <errno.h>

#include "ipc/gateway/reply.h"
#include "proto/sherd.pb-c.h"
#include "runtime/atomic.h"

#define LOOK_NS  (INT64_C(5) * 1000000)
#define TAKEN_NS (INT64_C(5) * 1000000000)

static void on_timer(void *opaque);

void orders_init(struct orders *orders, const struct orders_config *config)
{
    *orders = (struct orders){.config = *config};
    aio_timer_init(config->ctx, &orders->timer, on_timer, orders);
}

static struct exchange *take_exchange(struct orders *orders)
{
    struct exchange *exchange = orders->exchange;

    orders->exchange = NULL;
    timer_del(&orders->timer);
    return exchange;
}

void orders_deinit(struct orders *orders)
{
    struct exchange *exchange = take_exchange(orders);

    if (exchange)
        exchange_drop(exchange);
}

void orders_forget(struct orders *orders, const struct connection *connection)
{
    if (orders->exchange && orders->exchange->connection == connection)
        orders_deinit(orders);
}

static void reply_taken(struct exchange *exchange)
{
    Sherd__Wire__DrainReply body = SHERD__WIRE__DRAIN_REPLY__INIT;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;

    reply.body_case = SHERD__WIRE__REPLY__BODY_DRAIN;
    reply.drain = &body;
    reply_send(exchange, &reply);
}

/* A drain has begun when nothing new is taken here; its end has when it is, lest the client that
 * gave the order be surprised. */
static bool is_answer(const struct orders *orders, enum order_state state)
{
    const struct segment *seg = orders->config.segment;
    bool refuses =
        atomic_load_relaxed(&segment_part(seg, segment_gateway(seg))->order) == ORDER_DRAIN;

    return state > ORDER_TAKEN || (orders->kind == ORDER_KIND_DRAIN && refuses);
}

static void answer(struct orders *orders, enum order_state state)
{
    struct exchange *exchange = take_exchange(orders);
    const char *kind = order_kind_text(orders->kind), *why = order_state_text(state);

    if (state == ORDER_BUSY)
        reply_error(exchange, -EBUSY, "%s: %s; try again later", kind, why);
    else if (state == ORDER_LEAVING)
        reply_error(exchange, -ESHUTDOWN, "%s: %s", kind, why);
    else if (state == ORDER_FAILED || state == ORDER_WRONG)
        reply_error(exchange, -EIO, "%s: %s", kind, why);
    else
        reply_taken(exchange);
}

static void on_timer(void *opaque)
{
    struct orders *orders = opaque;
    struct order_end end;

    if (order_find(orders->config.segment, orders->word, &end) && is_answer(orders, end.state))
        answer(orders, end.state);
    else if (aio_clock_ns() >= orders->until_ns)
        reply_error(take_exchange(orders), -ETIMEDOUT,
            "%s: the supervisor takes no notice: is it stopped?", order_kind_text(orders->kind));
    else
        timer_mod_ns(&orders->timer, aio_clock_ns() + LOOK_NS);
}

void orders_ask(
    struct orders *orders, struct exchange *exchange, enum order_kind kind, uint32_t limit_ms)
{
    if (orders->exchange) {
        reply_error(exchange, -EBUSY, "another client gives an order just now; try again later");
        return;
    }
    int64_t now_ns = aio_clock_ns();
    struct order order = {.kind = kind,
        .target = ORDER_ALL_SHARDS,
        .limit_ms = limit_ms < ORDER_LIMIT_MAX_MS ? limit_ms : ORDER_LIMIT_MAX_MS,
        /* Another one than an earlier gateway had, and a tool has. */
        .token = ((uint32_t)(now_ns >> 10) ^ orders->n_asked++) & ORDER_TOKEN_MASK};
    orders->exchange = exchange;
    orders->kind = kind;
    orders->word = order_word(&order);
    orders->until_ns = now_ns + TAKEN_NS;
    orders->config.ask(orders->word, orders->config.opaque);
    timer_mod_ns(&orders->timer, now_ns + LOOK_NS);
}
