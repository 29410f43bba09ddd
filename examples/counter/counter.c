/* SPDX-License-Identifier: MIT */
/*
 * counter - counters by name, that outlive the shard that holds them: docs/tutorial.md builds it
 *
 * A counter lives in the shard that its name's hash says. There the counters stand in a region,
 * which a replacement of the shard finds as it was left; two words change together, the counter and
 * the sum of all, so the region is marked meanwhile.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/service.h>
#include <sherd/stream.h>

#define NAME_BYTES 24
#define LINE_BYTES 128
struct counter {
    char name[NAME_BYTES];
    int64_t value;
};

struct table {
    uint64_t n;  /* counters that there are */
    int64_t sum; /* of all of them */
    struct counter counters[];
};

struct state {
    struct service_home *home;
    struct service_region region;
    struct table *table;
    size_t n_max;
};

enum { COUNT_ADDED, COUNT_NAMES, COUNT_MENDED };

static const struct service_counter counts[] = {
    [COUNT_ADDED] = {"added", SERVICE_COUNTER, "how often something was added"},
    [COUNT_NAMES] = {"names", SERVICE_GAUGE, "counters that there are"},
    [COUNT_MENDED] = {"mended", SERVICE_COUNTER, "deaths in the middle of a change"},
};

enum { SET_MAX, SET_LISTEN };

static const struct service_setting settings[] = {
    [SET_MAX] = {"max", SERVICE_NUMBER, "names in each shard", 1000, 1, 1000000},
    [SET_LISTEN] = {"listen", SERVICE_TEXT, "tcp://ADDRESS:PORT or unix:///PATH"},
};

/* NULL: there is none of that name. */
static struct counter *find(const struct state *s, const char *name)
{
    for (size_t i = 0; i < s->table->n; i++)
        if (strcmp(s->table->counters[i].name, name) == 0)
            return &s->table->counters[i];
    return NULL;
}

/* A new one counts once n says so, which is one store. NULL: there is no room. */
static struct counter *add_counter(const struct state *s, const char *name)
{
    struct table *t = s->table;
    if (t->n == s->n_max)
        return NULL;
    struct counter *c = &t->counters[t->n];
    *c = (struct counter){.value = 0};
    strcpy(c->name, name);
    service_region_publish(&t->n, t->n + 1);
    service_count_set(s->home, COUNT_NAMES, t->n);
    return c;
}

/* Two words, so the region is marked meanwhile. */
static void change(const struct state *s, struct counter *c, int64_t n)
{
    service_region_begin(&s->region, 1);
    c->value += n;
    s->table->sum += n;
    service_region_end(&s->region);
    service_count(s->home, COUNT_ADDED, 1);
}

/* After a death in the middle: the counters are what counts, and the sum follows from them. */
static void mend(const struct state *s)
{
    s->table->sum = 0;
    for (size_t i = 0; i < s->table->n; i++)
        s->table->sum += s->table->counters[i].value;
    service_region_end(&s->region);
    service_count(s->home, COUNT_MENDED, 1);
}

static int start(struct service_home *home, const void *config, void **ret_state)
{
    struct state *s = calloc(1, sizeof(*s));
    int r = s ? service_region(home, "table", &s->region) : -ENOMEM;
    if (r < 0) {
        free(s);
        return r;
    }
    s->home = home;
    s->table = s->region.data;
    s->n_max = (s->region.bytes - sizeof(*s->table)) / sizeof(s->table->counters[0]);
    if (s->region.mark)
        mend(s);
    service_count_set(home, COUNT_NAMES, s->table->n);
    *ret_state = s;
    return 0;
}

/* "NAME" or "NAME N": adds N, or 1, and answers with what that makes. */
static int coroutine_fn add(struct service_call *call)
{
    const struct state *s = service_state(call);
    char line[LINE_BYTES + 1], name[LINE_BYTES + 1], answer[32];
    long long n = 1;
    size_t len;
    const char *args = service_args(call, &len);
    if (len > LINE_BYTES)
        return service_fail(call, -EINVAL, "counter: more than %d bytes", LINE_BYTES);
    memcpy(line, args, len);
    line[len] = '\0';
    if (sscanf(line, "%128s %lld", name, &n) < 1 || strlen(name) >= NAME_BYTES)
        return service_fail(
            call, -EINVAL, "counter: a name of 1 to %d bytes, and maybe a number", NAME_BYTES - 1);
    struct counter *c = find(s, name);
    if (!c)
        c = add_counter(s, name);
    if (!c)
        return service_fail(
            call, -ENOSPC, "counter: %zu names are all; raise counter.max", s->n_max);
    change(s, c, n);
    len = (size_t)snprintf(answer, sizeof(answer), "%lld\n", (long long)c->value);
    return service_reply(call, answer, len);
}

static int coroutine_fn sum(struct service_call *call)
{
    const struct state *s = service_state(call);
    char answer[32];
    int len = snprintf(answer, sizeof(answer), "%lld\n", (long long)s->table->sum);
    return service_reply(call, answer, (size_t)len);
}

/* The name decides which shard has it; a sum is any shard's own. */
static int hash(uint32_t method, const void *args, size_t len, uint64_t *ret_hash)
{
    const char *space = memchr(args, ' ', len);
    if (method != 0)
        return -ENOENT;
    *ret_hash = service_hash(args, space ? (size_t)(space - (const char *)args) : len);
    return 0;
}

/* A line is what counter.add takes; what it answers goes back. */
static void coroutine_fn answer_line(
    struct service_call *call, const char *line, size_t len, struct bytes *out)
{
    const char *space = memchr(line, ' ', len);
    uint32_t shard = service_shard_of_key(call, line, space ? (size_t)(space - line) : len);
    void *answer;
    size_t answer_len;
    int r = service_call_shard(call, shard, "counter.add", line, len, &answer, &answer_len);
    if (r == 0)
        bytes_put(out, answer, answer_len);
    else
        bytes_printf(out, "failed\n");
    free(answer);
}

/* All lines that have come whole; what they answer leaves together. */
static int coroutine_fn serve(struct service_call *call)
{
    struct stream *stream;
    size_t len = 0;
    int r = stream_open(call, LINE_BYTES + 1, &stream);
    if (r < 0)
        return r;
    while ((r = stream_fill(stream, len + 1)) > 0) {
        const char *line = stream_in(stream, &len), *end;
        while ((end = memchr(line, '\n', len))) {
            size_t line_len = (size_t)(end - line);
            answer_line(call, line, line_len, stream_out(stream));
            stream_take(stream, line_len + 1);
            line = stream_in(stream, &len);
        }
    }
    stream_close(stream);
    return r; /* they have ended, or the shard is to leave */
}

static int prepare(struct service_plan *plan, const void *config, char **ret_error)
{
    const union service_value *set = config;
    size_t n = set[SET_MAX].number;
    int r = service_plan_region(plan, "table", sizeof(struct table) + n * sizeof(struct counter));
    if (r == 0 && set[SET_LISTEN].text)
        r = service_listen(plan,
            &(struct service_listener){
                .name = "lines", .address = set[SET_LISTEN].text, .serve = serve},
            ret_error);
    return r;
}

static const struct service_method methods[] = {
    {"add", add, 0, "NAME [N]: adds N, or 1, to that counter, and answers with what that makes"},
    {"sum", sum, SERVICE_IDEMPOTENT, "the sum of all counters of one shard"},
};

const struct service sherd_service = {
    .abi = SERVICE_ABI,
    .name = "counter",
    .help = "counts by name",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0]),
    .settings = settings,
    .n_settings = sizeof(settings) / sizeof(settings[0]),
    .prepare = prepare,
    .counters = counts,
    .n_counters = sizeof(counts) / sizeof(counts[0]),
    .start = start,
    .stop = free,
    .hash = hash,
};
