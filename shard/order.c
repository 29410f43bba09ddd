/* SPDX-License-Identifier: MIT */
/*
 * Orderings     first              then        ordered by                   if broken
 *   NOTED  the rest of a note      its state   operate.c's store release,   another order's figures
 *                                              this acquire                 are told
 */
#include "shard/order.h"

#include <stddef.h>

#include "runtime/atomic.h"
#include "shard/segment.h"

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

bool order_find(const struct segment *seg, uint64_t word, struct order_end *ret_end)
{
    const struct supervisor_head *head = segment_supervisor(seg);

    for (uint32_t i = 0; i < SEGMENT_ORDER_NOTES; i++) {
        const struct order_note *note = &head->orders[i];
        uint32_t state = atomic_load_acquire(&note->state); /* NOTED */
        *ret_end = (struct order_end){.state = (enum order_state)state,
            .peer = atomic_load_relaxed(&note->peer),
            .n_cut = atomic_load_relaxed(&note->n_cut)};
        if (state != ORDER_STATE_NONE && atomic_load_acquire(&note->word) == word) /* NOTED */
            return true;
    }
    return false;
}
