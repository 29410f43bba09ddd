/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * orders - a client's order to drain, or to end that, from its message to the supervisor's word on it
 *
 * Why:         the supervisor takes orders from the segment alone (shard/order.h), and says there,
 *              later, what became of them; until then the exchange waits.
 * Use:         orders_ask() where the client may; the exchange is answered when the supervisor has
 *              taken the order, or has not
 * Concurrency: owner loop
 * Lifetime:    orders_deinit() drops who waits
 * Not here:    who may (dispatch.c), carrying it out (shard/operate.c)
 */
#include "ipc/gateway/port.h"
#include "shard/order.h"
#include "shard/segment.h"

struct orders_config {
    AioContext *ctx;
    const struct segment *segment;
    void (*ask)(uint64_t word, void *opaque); /* has the supervisor see it */
    void *opaque;
};

struct orders {
    struct orders_config config;
    struct exchange *exchange; /* whose order is on its way; NULL: there is none */
    enum order_kind kind;
    uint64_t word;
    uint32_t n_asked;
    int64_t until_ns;
    AioTimer timer;
};

void orders_init(struct orders *orders, const struct orders_config *config);
void orders_deinit(struct orders *orders);

/* One at a time: EBUSY else. limit_ms: 0: the instance's own. */
void orders_ask(
    struct orders *orders, struct exchange *exchange, enum order_kind kind, uint32_t limit_ms);

/* Its connection is gone; the order stays. */
void orders_forget(struct orders *orders, const struct connection *connection);
