/* SPDX-License-Identifier: MIT */
/*
 * kv - a cache that speaks Redis' protocol, and keeps its data when a shard dies
 *
 * sherd run --service ./kv.so --set kv.listen=tcp://127.0.0.1:6379 [--set kv.memory=64M]
 *
 * A key lives in the shard that its hash says. Whichever shard accepted a connection answers all of
 * it: what is its own at once, the rest by one call to each other shard that a pipeline is about,
 * all of them at a time. The answers go back in order, as one piece.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

#define MEMORY_BYTES ((uint64_t)64 << 20)         /* of each shard */
#define REPLY_BYTES  (SERVICE_REPLY_MAX / 2 - 64) /* one more answer fits behind it */

static const struct service_counter counters[] = {
    [KV_KEYS] = {"keys", SERVICE_GAUGE, "keys that there are"},
    [KV_BYTES] = {"bytes", SERVICE_GAUGE, "what they take, with their values"},
    [KV_EVICTED] = {"evicted", SERVICE_GAUGE, "keys that had to go, since the instance began"},
    [KV_HITS] = {"hits", SERVICE_COUNTER, "GETs that found their key"},
    [KV_MISSES] = {"misses", SERVICE_COUNTER, "GETs that did not"},
    [KV_REMOTE] = {"remote", SERVICE_COUNTER, "commands that another shard was asked"},
};

/* ---- commands about a key, in its shard ---- */

static bool get(struct kv *kv, const struct step *step, struct resp_out *out)
{
    size_t len;
    const void *value = store_get(kv->store, step->key.data, step->key.len, &len);
    service_count(kv->home, value ? KV_HITS : KV_MISSES, 1);
    return value ? resp_bulk(out, value, len) : resp_text(out, "$-1\r\n");
}

void kv_show(struct kv *kv)
{
    service_count_set(kv->home, KV_KEYS, store_n_keys(kv->store));
    service_count_set(kv->home, KV_BYTES, store_live_bytes(kv->store));
    service_count_set(kv->home, KV_EVICTED, store_n_evicted(kv->store));
}

static bool put(struct kv *kv, const struct step *step, const void *value, size_t len)
{
    return store_set(kv->store, step->key.data, step->key.len, value, len) == 0;
}

static bool set(struct kv *kv, const struct step *step, struct resp_out *out)
{
    return resp_text(out, put(kv, step, step->value.data, step->value.len)
                              ? "+OK\r\n"
                              : "-ERR key and value are too large for kv.memory\r\n");
}

static bool del(struct kv *kv, const struct step *step, struct resp_out *out)
{
    return resp_integer(out, store_delete(kv->store, step->key.data, step->key.len));
}

static bool exists(struct kv *kv, const struct step *step, struct resp_out *out)
{
    size_t len;
    return resp_integer(out, store_get(kv->store, step->key.data, step->key.len, &len) != NULL);
}

static bool incr(struct kv *kv, const struct step *step, struct resp_out *out)
{
    size_t old_len = 1;
    const char *value = store_get(kv->store, step->key.data, step->key.len, &old_len);
    struct resp_arg old = {value ? value : "0", old_len};
    char text[24];
    int64_t n;
    if (!resp_int64(&old, &n) || n == INT64_MAX)
        return resp_text(out, "-ERR value is not an integer or out of range\r\n");
    int len = snprintf(text, sizeof text, "%lld", (long long)n + 1);
    put(kv, step, text, (size_t)len);
    return resp_integer(out, n + 1);
}

static const struct command commands[] = {
    {"GET", get, 2, false, false},
    {"SET", set, 3, false, false},
    {"DEL", del, 2, true, false},
    {"EXISTS", exists, 2, true, false},
    {"INCR", incr, 2, false, true},
};

/* NULL: it is about no key. */
static const struct command *find_command(const struct resp_command *c)
{
    for (size_t i = 0; c->n && i < sizeof commands / sizeof commands[0]; i++)
        if (resp_is(&c->args[0], commands[i].name))
            return &commands[i];
    return NULL;
}

struct key key_of(const struct resp_arg *arg)
{
    return (struct key){arg->data, arg->len};
}

struct step step_of(const struct service_call *call, const struct resp_command *c)
{
    struct step step = {
        .command = find_command(c), .shard = service_shard(call), .bytes = c->bytes};
    if (step.command && c->n == step.command->n_words) {
        step.key = key_of(&c->args[1]);
        step.value = c->n > 2 ? c->args[2] : step.value;
        step.shard = service_shard_of_key(call, step.key.data, step.key.len);
    }
    return step;
}

/* ---- for other shards: kv.run and kv.once ---- */

/* Commands, one behind the other; of each the answer, with its length before it. Fewer answers are
 * no error: the rest is asked again. */
static int coroutine_fn run_for_others(struct service_call *call)
{
    size_t len;
    const char *at = service_args(call, &len), *end = at + len;
    struct resp_out out = {0};
    struct resp_command c;
    uint32_t bytes = 0;
    bool ok = true;
    while (ok && at < end && out.len < REPLY_BYTES && resp_parse(at, (size_t)(end - at), &c) > 0) {
        struct step step = step_of(call, &c);
        size_t begin = out.len;
        ok = step.key.data && step.shard == service_shard(call) &&
             resp_raw(&out, &bytes, sizeof bytes) &&
             step.command->run(service_state(call), &step, &out);
        bytes = (uint32_t)(out.len - begin - sizeof bytes);
        if (ok)
            memcpy(out.data + begin, &bytes, sizeof bytes);
        at += c.bytes;
    }
    kv_show(service_state(call));
    int r = ok && len ? service_reply(call, out.data, out.len)
                      : service_fail(call, -EINVAL, "kv: not for this shard, or no memory");
    resp_out_deinit(&out);
    return r;
}

/* ---- the service ---- */

struct config {
    char *listen;
    uint64_t memory;
    uint32_t connections;
};

/* "64M"; 0: it is no size. */
static uint64_t parse_size(const char *text)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    bool fits = n <= UINT64_MAX >> shift && text[0] >= '0' && text[0] <= '9';
    return fits && end[shift != 0] == '\0' ? (uint64_t)n << shift : 0;
}

static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    struct config *c = *config ? *config : calloc(1, sizeof *c);
    uint64_t n = parse_size(value);
    if (!c)
        return -ENOMEM;
    *config = c;
    if (strcmp(key, "listen") == 0) {
        char *listen = strdup(value);
        free(c->listen);
        c->listen = listen;
        return listen ? 0 : -ENOMEM;
    }
    if (strcmp(key, "memory") == 0 && n >= STORE_BYTES_MIN && n <= STORE_BYTES_MAX) {
        c->memory = n;
        return 0;
    }
    if (strcmp(key, "connections") == 0 && n >= 1 && n <= 100000) {
        c->connections = (uint32_t)n;
        return 0;
    }
    *ret_error =
        strdup("the settings are listen: tcp://ADDRESS:PORT or unix:///PATH; memory of each "
               "shard: 16K to 32G; connections of each shard: 1 to 100000");
    return -EINVAL;
}

static void discard(void *config)
{
    struct config *c = config;
    if (c)
        free(c->listen);
    free(c);
}

static int prepare(struct service_plan *plan, const void *config, char **ret_error)
{
    const struct config *c = config;
    int r = service_plan_region(plan, "store", c && c->memory ? c->memory : MEMORY_BYTES);
    if (r == 0 && c && c->listen)
        r = service_listen(plan,
            &(struct service_listener){.name = "resp",
                .address = c->listen,
                .connections_max = c->connections,
                .serve = session_serve},
            ret_error);
    return r;
}

static int start(struct service_home *home, const void *config, void **ret_state)
{
    struct kv *kv = calloc(1, sizeof *kv);
    struct service_region region;
    int r = kv ? service_region(home, "store", &region) : -ENOMEM;
    (void)config;
    if (r == 0)
        r = store_open(&region, &kv->store);
    if (r < 0) {
        free(kv);
        return r;
    }
    kv->home = home;
    kv_show(kv);
    *ret_state = kv;
    return 0;
}

static void stop(void *state)
{
    struct kv *kv = state;
    store_close(kv->store);
    free(kv);
}

static const struct service_method methods[] = {
    {"run", run_for_others, SERVICE_IDEMPOTENT, "commands in RESP for keys of that shard"},
    {"once", run_for_others, 0, "the same, with some among them that must not be run twice"},
};

const struct service sherd_service = {
    .abi = SERVICE_ABI,
    .name = "kv",
    .help = "a cache that speaks RESP",
    .methods = methods,
    .n_methods = sizeof methods / sizeof methods[0],
    .configure = configure,
    .discard = discard,
    .prepare = prepare,
    .counters = counters,
    .n_counters = sizeof counters / sizeof counters[0],
    .start = start,
    .stop = stop,
};
