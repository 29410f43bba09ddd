/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * kv - what its files share: commands about a key (kv.c), and who asks for them (session.c)
 *
 * Concurrency: owner loop of the shard
 */
#include <sherd/service.h>
#include <sherd/store.h>

#include "resp.h"

enum {
    KV_KEYS,
    KV_BYTES,
    KV_EVICTED,
    KV_HITS,
    KV_MISSES,
    KV_REMOTE,
};

struct kv {
    struct service_home *home;
    struct store *store;
};

struct key {
    const char *data;
    size_t len;
};

/* A command as it runs; what it points to is in what was parsed. */
struct step {
    const struct command *command; /* NULL: it is about no key */
    struct key key; /* without data: it is not simply about one, or has the wrong number of words */
    struct resp_arg value;
    uint32_t shard; /* whose it is */
    size_t at, bytes;
};

/* Appends an answer. False: no memory for it. */
typedef bool command_fn(struct kv *kv, const struct step *step, struct resp_out *out);

struct command {
    const char *name;
    command_fn *run;
    uint32_t n_words; /* its own included */
    bool many;        /* keys, one or more; the answer is the sum of what each gives */
    bool once;        /* not to be run again where its shard died meanwhile */
};

/* What there is to do; what has no key is this shard's, and nobody runs it as it is. */
struct step step_of(const struct service_call *call, const struct resp_command *c);
struct key key_of(const struct resp_arg *arg);

/* After changes: what its counters say. */
void kv_show(struct kv *kv);

/* A connection, to its end. */
int coroutine_fn session_serve(struct service_call *call);
