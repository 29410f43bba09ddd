/* SPDX-License-Identifier: MIT */
#include "shard/order.h"

#include <stddef.h>

static const char *text_of(const char *const *texts, size_t n, uint32_t i)
{
    return i < n && texts[i] ? texts[i] : "unknown";
}

#define N_OF(array) (sizeof(array) / sizeof((array)[0]))

const char *order_kind_text(uint32_t kind)
{
    static const char *const texts[] = {
#define X(name, text) [ORDER_KIND_##name] = text,
        ORDER_KINDS(X)
#undef X
    };

    return text_of(texts, N_OF(texts), kind);
}

const char *order_state_text(uint32_t state)
{
    static const char *const texts[] = {
#define X(name, text) [ORDER_##name] = text,
        ORDER_STATES(X)
#undef X
    };

    return text_of(texts, N_OF(texts), state);
}

uint64_t order_word(const struct order *order)
{
    return (uint64_t)order->kind << 56 | (uint64_t)(order->target & 0xff) << 48 |
           (uint64_t)(order->limit_ms & ORDER_LIMIT_MAX_MS) << 24 |
           (order->token & ORDER_TOKEN_MASK);
}

bool order_parse(uint64_t word, uint32_t n_peers, struct order *ret)
{
    struct order order = {.kind = (enum order_kind)(word >> 56),
        .target = (uint32_t)(word >> 48) & 0xff,
        .limit_ms = (uint32_t)(word >> 24) & ORDER_LIMIT_MAX_MS,
        .token = (uint32_t)word & ORDER_TOKEN_MASK};

    if (order.kind == ORDER_KIND_NONE || order.kind >= N_ORDER_KINDS)
        return false;
    if (order.target >= n_peers && order.target != ORDER_ALL_SHARDS)
        return false;
    *ret = order;
    return true;
}
