/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * session - one connection: what came and is not answered yet (session.c), and what other shards
 * are asked for it (afar.c)
 *
 * Concurrency: the connection's coroutine
 */
#include "kv.h"

#define BATCH     32u /* commands that are looked through together */
#define PARTS_MAX 128u

/* What another shard was asked of this batch. */
struct part {
    struct resp_out text;
    size_t taken; /* of its answers */
    bool once;
};

struct session {
    struct service_call *call;
    struct kv *kv;
    char *in;
    size_t in_len, in_capacity;
    size_t at; /* what is before is answered */
    struct step steps[BATCH];
    uint32_t n_steps;
    int parsed;   /* what resp_parse() says of what is behind them */
    size_t wants; /* and how long that has to become, at least */
    struct resp_out out;
    bool ends;
    uint32_t n_parts;
    struct service_part calls[PARTS_MAX];
    struct part parts[PARTS_MAX];
};

/* ---- afar.c: false, where no memory is left ---- */

/* Asks each other shard, in one call, for what is its of the steps. */
bool coroutine_fn ask_others(struct session *s);

/* One command alone, which stands there as it came. */
bool coroutine_fn ask_alone(
    struct session *s, uint32_t shard, bool once, const char *text, size_t text_len);

/* The answer to a step of another shard. */
bool coroutine_fn answer_from_afar(struct session *s, const struct step *step);

void afar_deinit(struct session *s);
