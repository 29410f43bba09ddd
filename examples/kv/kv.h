/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * kv - what its files share: commands about a key (kv.c), and who asks for them (session.c)
 *
 * Concurrency: owner loop of the shard
 */
#include <sherd/service.h>

#include "resp.h"
#include "store.h"

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
    struct store store;
};

struct key {
    const char *data;
    size_t len;
    uint64_t hash;
};

/* Appends an answer. False: no memory for it. */
typedef bool command_fn(
    struct kv *kv, const struct resp_command *c, const struct key *key, struct resp_out *out);

struct command {
    const char *name;
    command_fn *run;
    uint32_t n_least; /* words, its own included */
    bool many;        /* keys; the answer is the sum of what each gives */
    bool once;        /* not to be run again where its shard died meanwhile */
};

/* NULL: it is about no key. */
const struct command *find_command(const struct resp_command *c);
struct key key_of(const struct resp_arg *arg);

/* A connection, to its end. */
int coroutine_fn session_serve(struct service_call *call);
