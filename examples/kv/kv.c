/* SPDX-License-Identifier: MIT */
/*
 * kv - a cache that speaks Redis' protocol, and keeps its data when a shard dies
 *
 *     sherd run --service ./kv.so --set kv.listen=tcp://127.0.0.1:6379 [--set kv.memory=64M]
 *
 * A key lives in the shard that its hash says, in a store, which outlives that shard. Whichever
 * shard accepted a connection, a request is run by the shard that has its key, as it came, and what
 * that answers is sent as it is: a pipeline (sherd/pipeline.h) carries one and the other.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/pipeline.h>
#include <sherd/store.h>

#define WORDS_MAX   64u /* of a request */
#define LINE_BYTES  (64 * 1024)
#define WORD_MAX    ((size_t)512 * 1024)
#define REQUEST_MAX ((size_t)640 * 1024)

struct word {
    const char *data; /* in what was parsed */
    size_t len;
};

struct request {
    struct word words[WORDS_MAX];
    uint32_t n;   /* 0: an empty line, which asks for nothing */
    size_t bytes; /* that it takes */
};

/* ---- requests: arrays of strings, as programs write them, or lines of words ---- */

static bool take_line(const char **at, const char *end, struct word *ret)
{
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    if (!stop)
        return false;
    *ret = (struct word){*at, (size_t)(stop - *at) - (stop > *at && stop[-1] == '\r')};
    *at = stop + 1;
    return true;
}

/* "*3" or "$5"; -EPROTO: it is neither, or above max. */
static ssize_t length_in(const struct word *line, char kind, size_t max)
{
    char *end;
    if (line->len < 2 || *line->data != kind || !isdigit((unsigned char)line->data[1]))
        return -EPROTO;
    size_t n = strtoul(line->data + 1, &end, 10); /* to the end of the line at most */
    return end == line->data + line->len && n <= max ? (ssize_t)n : -EPROTO;
}

static int take_array(struct word line, const char **at, const char *end, struct request *ret)
{
    ssize_t n = length_in(&line, '*', WORDS_MAX);
    for (ret->n = 0; ret->n < n; ret->n++) {
        if (!take_line(at, end, &line))
            return end - *at > LINE_BYTES ? -EPROTO : 0;
        ssize_t len = length_in(&line, '$', WORD_MAX);
        if (len >= 0 && end - *at < len + 2)
            return 0;
        if (len < 0 || memcmp(*at + len, "\r\n", 2) != 0)
            return -EPROTO;
        ret->words[ret->n] = (struct word){*at, (size_t)len};
        *at += len + 2;
    }
    return n < 0 ? -EPROTO : 1;
}

/* A word ends at a space, at the latest at the end of the line. */
static int split(struct word line, struct request *ret)
{
    const char *at = line.data, *end = at + line.len;
    for (ret->n = 0; (at += strspn(at, " ")) < end; ret->n++) {
        size_t len = strcspn(at, " \r\n");
        if (len == 0 || ret->n == WORDS_MAX)
            return -EPROTO;
        ret->words[ret->n] = (struct word){at, len};
        at += len;
    }
    return 1;
}

/* 1; 0: there is no whole one yet; -EPROTO: nor will there be. */
static int parse(const char *data, size_t len, struct request *ret)
{
    const char *at = data, *end = data + len;
    struct word line;
    if (!take_line(&at, end, &line))
        return end - at > LINE_BYTES ? -EPROTO : 0;
    int r = line.len && *line.data == '*' ? take_array(line, &at, end, ret) : split(line, ret);
    ret->bytes = (size_t)(at - data);
    return r;
}

/* ---- commands ---- */

enum { KEYS, BYTES, EVICTED, REMOTE };

static const struct service_counter counters[] = {
    [KEYS] = {"keys", SERVICE_GAUGE, "keys that there are"},
    [BYTES] = {"bytes", SERVICE_GAUGE, "what they take, with their values"},
    [EVICTED] = {"evicted", SERVICE_GAUGE, "keys that had to go, since the instance began"},
    [REMOTE] = {"remote", SERVICE_COUNTER, "keys that another shard was asked about"},
};

enum what { TEXT, PING, QUIT, GET, SET, INCR, DEL, EXISTS }; /* from GET on with a key */

static const struct command {
    const char *name;
    enum what what;
    uint32_t min, max;  /* words, its own included; the second is a key, or all are but the first */
    const char *answer; /* where nothing else is to be said */
} commands[] = {
    {"GET", GET, 2, 2, "$-1\r\n"},
    {"SET", SET, 3, 3, "+OK\r\n"},
    {"INCR", INCR, 2, 2},
    {"DEL", DEL, 2, WORDS_MAX},
    {"EXISTS", EXISTS, 2, WORDS_MAX},
    {"PING", PING, 1, 2, "+PONG\r\n"},
    {"QUIT", QUIT, 1, 1, "+OK\r\n"},
    /* What redis-cli and redis-benchmark say as they begin. */
    {"COMMAND", TEXT, 1, WORDS_MAX, "*0\r\n"},
    {"CONFIG", TEXT, 3, 3, "*2\r\n$0\r\n\r\n$0\r\n\r\n"},
    {"CLIENT", TEXT, 1, WORDS_MAX, "+OK\r\n"},
    {"SELECT", TEXT, 2, 2, "+OK\r\n"},
    {"INFO", TEXT, 1, WORDS_MAX, "$32\r\n# Server\r\nserver_name:sherd-kv\r\n\r\n"},
    {NULL, TEXT, 0, 0, "-ERR wrong number of arguments, or no such command\r\n"},
};

static const struct command *find_command(const struct request *q)
{
    const struct command *c = commands;
    while (c->name && (q->n < c->min || q->n > c->max || strlen(c->name) != q->words[0].len ||
                          strncasecmp(c->name, q->words[0].data, q->words[0].len) != 0))
        c++;
    return c;
}

static void put_string(struct bytes *out, const struct word *word)
{
    bytes_put_text(out, "$");
    bytes_put_decimal(out, (int64_t)word->len);
    bytes_put_text(out, "\r\n");
    bytes_put(out, word->data, word->len);
    bytes_put_text(out, "\r\n");
}

static uint32_t count_keys(const struct command *c, const struct request *q)
{
    return c->what < GET ? 0 : c->max == WORDS_MAX ? q->n - 1 : 1;
}

static void show(struct service_home *home, const struct store *store)
{
    service_count_set(home, KEYS, store_n_keys(store));
    service_count_set(home, BYTES, store_live_bytes(store));
    service_count_set(home, EVICTED, store_n_evicted(store));
}

/* Runs a request in a shard that has keys of it, for these. Whoever calls kv.run by hand may have
 * asked a shard that has none. */
static int answer(struct service_call *call, const void *data, size_t len, struct bytes *out)
{
    struct store *store = service_state(call);
    struct request q;
    int r = parse(data, len, &q) > 0 ? 0 : -EINVAL;
    if (r < 0 || q.n == 0)
        return r;
    const struct command *c = find_command(&q);
    struct word value = c->what == PING && q.n == 2 ? q.words[1] : (struct word){0};
    int64_t n = 0, n_elsewhere = 0;
    for (const struct word *key = &q.words[1]; key <= &q.words[count_keys(c, &q)]; key++)
        if (service_shard_of_key(call, key->data, key->len) != service_shard(call))
            n_elsewhere++;
        else if (c->what == SET)
            r = store_set(store, key->data, key->len, key[1].data, key[1].len);
        else if (c->what == INCR)
            r = store_add(store, key->data, key->len, 1, &n);
        else if (c->what == DEL)
            n += store_delete(store, key->data, key->len);
        else if (c->what == EXISTS)
            n += store_get(store, key->data, key->len, &len) != NULL;
        else
            value.data = store_get(store, key->data, key->len, &value.len);

    if (n_elsewhere > 0 && n_elsewhere == count_keys(c, &q))
        bytes_put_text(out, "-ERR another shard has what this is about\r\n");
    else if (r < 0)
        bytes_put_text(out, r == -EMSGSIZE ? "-ERR key and value are too large for kv.memory\r\n"
                                           : "-ERR value is not an integer or out of range\r\n");
    else if (value.data)
        put_string(out, &value);
    else if (c->answer)
        bytes_put_text(out, c->answer);
    else
        bytes_printf(out, ":%lld\r\n", (long long)n);
    show(service_home(call), store);
    return 0;
}

/* ---- a connection ---- */

/* A request goes to the shards of its keys, one about none to this one. */
static ssize_t take(struct pipeline *pipeline, const char *data, size_t len)
{
    struct service_call *call = pipeline_call(pipeline);
    struct request q;
    int r = parse(data, len, &q);
    if (r <= 0)
        return r;
    const struct command *c = find_command(&q);
    for (const struct word *key = &q.words[1]; key <= &q.words[count_keys(c, &q)]; key++) {
        uint32_t shard = service_shard_of_key(call, key->data, key->len);
        pipeline_ask(pipeline, shard);
        service_count(service_home(call), REMOTE, shard != service_shard(call));
        if (shard == service_shard(call))
            store_prefetch(service_state(call), key->data, key->len);
    }
    if (c->what == INCR)
        pipeline_once(pipeline);
    if (c->what == QUIT)
        pipeline_end(pipeline);
    return (ssize_t)q.bytes;
}

/* ":1\r\n:2\r\n", what several shards counted, is ":3\r\n". */
static void join(struct bytes *out, size_t begin)
{
    long long sum = 0;
    char *at = out->data + begin;
    for (; *at == ':'; at += 2)
        sum += strtoll(at + 1, &at, 10);
    out->len = begin;
    if (*at)
        bytes_put_text(out, "-ERR a shard did not answer; the others have\r\n");
    else
        bytes_printf(out, ":%lld\r\n", sum);
}

static void explain(struct bytes *out, uint32_t shard, int error)
{
    if (shard == PIPELINE_NOBODY)
        bytes_put_text(out, error == -ENOMEM ? "-ERR no memory\r\n" : "-ERR Protocol error\r\n");
    else
        bytes_printf(out, "-ERR shard %u: %s\r\n", shard,
            error == -EOWNERDEAD ? "it died meanwhile; whether this was done is in doubt"
                                 : strerrordesc_np(-error));
}

static const struct pipeline_rules rules = {
    REQUEST_MAX, take, answer, "kv.run", "kv.once", join, explain};

static int coroutine_fn serve(struct service_call *call)
{
    return pipeline_serve(call, &rules);
}

static int coroutine_fn run_for_others(struct service_call *call)
{
    return pipeline_answer(call, &rules);
}

/* ---- the service ---- */

enum { LISTEN, MEMORY, CONNECTIONS };

static const struct service_setting settings[] = {
    {"listen", SERVICE_TEXT, "tcp://ADDRESS:PORT or unix:///PATH"},
    {"memory", SERVICE_SIZE, "of each shard", 64 << 20, STORE_BYTES_MIN, STORE_BYTES_MAX},
    {"connections", SERVICE_NUMBER, "of each shard", 1000, 1, 100000},
};

static int prepare(struct service_plan *plan, const void *config, char **ret_error)
{
    const union service_value *value = config;
    struct service_listener listener = {.name = "resp",
        .address = value[LISTEN].text,
        .connections_max = (uint32_t)value[CONNECTIONS].number,
        .serve = serve};
    int r = service_plan_region(plan, "store", value[MEMORY].number);
    return r < 0 || !listener.address ? r : service_listen(plan, &listener, ret_error);
}

static int start(struct service_home *home, const void *config, void **ret_state)
{
    struct service_region region;
    struct store *store;
    int r = service_region(home, "store", &region);
    if (r == 0 && (r = store_open(&region, &store)) == 0)
        show(home, *ret_state = store);
    return r;
}

static const struct service_method methods[] = {
    {"run", run_for_others, SERVICE_IDEMPOTENT, "a pipeline's requests, for keys of that shard"},
    {"once", run_for_others, 0, "the same, with some among them that must not be run twice"},
};

const struct service sherd_service = {SERVICE_ABI, "kv", "a cache that speaks RESP", methods, 2,
    .settings = settings, .n_settings = 3, .counters = counters, .n_counters = 4,
    .prepare = prepare, .start = start, .stop = store_close};
