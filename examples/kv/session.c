/* SPDX-License-Identifier: MIT */
/*
 * A pipeline is looked through before it is answered: what is other shards' goes to each in one call,
 * all of them at a time. Then it is answered in order: what is this shard's runs now, of the rest the
 * answers are there. A shard that could not answer all of its part in one message is asked again,
 * command by command.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv.h"

#define BATCH       32u /* commands that are looked through together */
#define PARTS_MAX   128u
#define FLUSH_BYTES ((size_t)64 * 1024) /* of answers, before the rest of a pipeline */
#define READ_BYTES  ((size_t)16 * 1024)

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

/* ---- asking others ---- */

/* Its part of this batch; NULL: it has none. */
static struct part *find_part(struct session *s, uint32_t shard, struct service_part **ret_call)
{
    for (uint32_t i = 0; i < s->n_parts; i++)
        if (s->calls[i].shard == shard) {
            *ret_call = &s->calls[i];
            return &s->parts[i];
        }
    return NULL;
}

static struct part *new_part(struct session *s, uint32_t shard)
{
    struct part *part = &s->parts[s->n_parts];
    part->taken = 0;
    part->once = false;
    part->text.len = 0;
    s->calls[s->n_parts++] = (struct service_part){.shard = shard};
    return part;
}

static void forget_parts(struct session *s)
{
    for (uint32_t i = 0; i < s->n_parts; i++)
        free(s->calls[i].data);
    s->n_parts = 0;
}

/* Parses what is not answered yet, and asks for the memory that it is about. */
static void look_ahead(struct session *s)
{
    struct resp_command c;
    size_t at = s->at;
    s->n_steps = 0;
    while (s->n_steps < BATCH && (s->parsed = resp_parse(s->in + at, s->in_len - at, &c)) > 0) {
        struct step *step = &s->steps[s->n_steps++];
        *step = step_of(s->call, &c);
        step->at = at;
        at += c.bytes;
        if (step->command)
            store_prefetch_chain(&s->kv->store, step->key.hash);
    }
    s->wants = c.bytes;
    for (uint32_t i = 0; i < s->n_steps; i++)
        if (s->steps[i].command)
            store_prefetch_record(&s->kv->store, s->steps[i].key.hash);
}

/* False: no memory. */
static bool coroutine_fn ask_others(struct session *s)
{
    uint32_t self = service_shard(s->call);
    struct service_part *call;
    bool once = false;
    forget_parts(s);
    for (uint32_t i = 0; i < s->n_steps; i++) {
        const struct step *step = &s->steps[i];
        if (step->shard == self)
            continue;
        struct part *part = find_part(s, step->shard, &call);
        part = part ? part : new_part(s, step->shard);
        once |= step->command->once;
        service_count(s->kv->home, KV_REMOTE, 1);
        if (!resp_raw(&part->text, s->in + step->at, step->bytes))
            return false;
    }
    for (uint32_t i = 0; i < s->n_parts; i++) {
        s->calls[i].args = s->parts[i].text.data;
        s->calls[i].args_len = s->parts[i].text.len;
    }
    if (s->n_parts)
        service_gather(s->call, once ? "kv.once" : "kv.run", s->calls, s->n_parts, 0);
    return true;
}

static bool put_failure(struct session *s, uint32_t shard, int status)
{
    char text[96];
    snprintf(text, sizeof text, "-ERR shard %u: %s\r\n", shard,
        status == -EOWNERDEAD ? "it died meanwhile; whether this was done is in doubt"
                              : strerrordesc_np(-status));
    return resp_text(&s->out, text);
}

/* The next of the answers that lie at *taken; 0: there are no more; -1: no memory. */
static int put_next(struct session *s, const char *data, size_t len, size_t *taken)
{
    uint32_t bytes;
    if (len - *taken < sizeof bytes)
        return 0;
    memcpy(&bytes, data + *taken, sizeof bytes);
    *taken += sizeof bytes + bytes;
    return resp_raw(&s->out, data + *taken - bytes, bytes) ? 1 : -1;
}

/* One command alone. */
static bool coroutine_fn ask_alone(
    struct session *s, uint32_t shard, bool once, const char *text, size_t text_len)
{
    void *data;
    size_t len, taken = 0;
    int r = service_call_shard(
        s->call, shard, once ? "kv.once" : "kv.run", text, text_len, &data, &len);
    bool ok = r < 0 ? put_failure(s, shard, r) : put_next(s, data, len, &taken) > 0;
    free(data);
    return ok;
}

static bool coroutine_fn answer_from_afar(struct session *s, const struct step *step)
{
    struct service_part *call;
    struct part *part = find_part(s, step->shard, &call);
    if (part && call->status < 0)
        return put_failure(s, step->shard, call->status);
    int r = part ? put_next(s, call->data, call->len, &part->taken) : 0;
    return r ? r > 0
             : ask_alone(s, step->shard, step->command->once, s->in + step->at, step->bytes);
}

/* ---- answering ---- */

/* "DEL a b": as "DEL a", "DEL b", and the sum of what they answer. */
static bool coroutine_fn answer_many(
    struct session *s, const struct command *command, const struct resp_command *c)
{
    size_t begin = s->out.len;
    struct resp_out text = {0};
    int64_t sum = 0;
    bool ok = true, failed = false;
    for (uint32_t i = 1; ok && !failed && i < c->n; i++) {
        struct step one = {.command = command, .key = key_of(&c->args[i]), .n = 2};
        uint32_t shard = service_shard_of_hash(s->call, one.key.hash);
        text.len = 0;
        if (shard == service_shard(s->call))
            ok = command->run(s->kv, &one, &s->out);
        else
            ok = resp_text(&text, "*2\r\n") && resp_bulk(&text, c->args[0].data, c->args[0].len) &&
                 resp_bulk(&text, one.key.data, one.key.len) &&
                 ask_alone(s, shard, command->once, text.data, text.len);
        failed = ok && s->out.data[begin] == '-'; /* then that is the answer to all of it */
        sum += ok && s->out.data[begin + 1] == '1';
        s->out.len = failed ? s->out.len : begin;
    }
    resp_out_deinit(&text);
    return ok && (failed || resp_integer(&s->out, sum));
}

/* Those about no key, as far as redis-cli and redis-benchmark ask for them. */
static bool answer_keyless(struct session *s, const struct resp_command *c)
{
    const struct resp_arg *word = &c->args[0];
    struct resp_out *out = &s->out;
    if (resp_is(word, "PING"))
        return c->n > 1 ? resp_bulk(out, c->args[1].data, c->args[1].len)
                        : resp_text(out, "+PONG\r\n");
    if (resp_is(word, "COMMAND"))
        return resp_text(out, "*0\r\n");
    if (resp_is(word, "CONFIG") && c->n == 3 && resp_is(&c->args[1], "GET"))
        return resp_text(out, "*2\r\n") && resp_bulk(out, c->args[2].data, c->args[2].len) &&
               resp_bulk(out, "", 0);
    if (resp_is(word, "HELLO") && (c->n == 1 || resp_is(&c->args[1], "2")))
        return resp_text(out, "*4\r\n$6\r\nserver\r\n$8\r\nsherd-kv\r\n$5\r\nproto\r\n:2\r\n");
    if (resp_is(word, "HELLO"))
        return resp_text(out, "-NOPROTO unsupported protocol version\r\n");
    if (resp_is(word, "INFO"))
        return resp_bulk(out, "# Server\r\nredis_mode:standalone\r\nserver_name:sherd-kv\r\n", 56);
    if (resp_is(word, "CLIENT") || resp_is(word, "SELECT"))
        return resp_text(out, "+OK\r\n");
    s->ends = resp_is(word, "QUIT");
    return resp_text(out, s->ends ? "+OK\r\n" : "-ERR unknown command\r\n");
}

/* One that is not simply about a key. */
static bool coroutine_fn answer_other(struct session *s, const struct step *step)
{
    struct resp_command c;
    resp_parse(s->in + step->at, step->bytes, &c);
    if (c.n == 0)
        return true;
    if (!step->command)
        return answer_keyless(s, &c);
    if (c.n < step->command->n_least || !step->command->many)
        return resp_text(&s->out, "-ERR wrong number of arguments\r\n");
    return answer_many(s, step->command, &c);
}

static bool coroutine_fn answer(struct session *s, const struct step *step)
{
    if (!step->command || step->n < step->command->n_least ||
        (step->n > 2 && step->command->n_least == 2))
        return answer_other(s, step);
    if (step->shard == service_shard(s->call))
        return step->command->run(s->kv, step, &s->out);
    return answer_from_afar(s, step);
}

/* ---- a connection ---- */

static int coroutine_fn flush(struct session *s)
{
    int r = s->out.len ? service_send(s->call, s->out.data, s->out.len) : 0;
    resp_out_reset(&s->out);
    return r;
}

/* Those that were looked at. */
static int coroutine_fn answer_batch(struct session *s)
{
    bool ok = service_n_shards(s->call) == 1 || ask_others(s);
    int r = 0;
    for (uint32_t i = 0; ok && r == 0 && i < s->n_steps && !s->ends; i++) {
        const struct step *step = &s->steps[i];
        ok = answer(s, step);
        s->at = step->at + step->bytes;
        if (s->out.len >= FLUSH_BYTES)
            r = flush(s);
    }
    kv_show(s->kv);
    return ok ? r : -ENOMEM;
}

/* Answers all that is whole. */
static int coroutine_fn answer_all(struct session *s)
{
    int r = 0;
    s->at = 0;
    do {
        look_ahead(s);
        r = answer_batch(s);
    } while (r == 0 && s->n_steps == BATCH && !s->ends);
    if (r == 0 && s->parsed < 0 && !s->ends) {
        resp_text(&s->out, "-ERR Protocol error\r\n");
        s->ends = true;
    }
    return r < 0 ? r : flush(s);
}

/* What is left goes to the front, with room behind it for the rest, and no more than that needs. */
static int make_room(struct session *s)
{
    size_t left = s->in_len - s->at;
    size_t capacity = s->wants > READ_BYTES ? s->wants : READ_BYTES;
    memmove(s->in, s->in + s->at, left);
    s->in_len = left;
    if (capacity == s->in_capacity)
        return 0;
    char *in = realloc(s->in, capacity);
    if (!in)
        return -ENOMEM;
    s->in = in;
    s->in_capacity = capacity;
    return 0;
}

static int coroutine_fn talk(struct session *s)
{
    int r = 0;
    while (r == 0 && !s->ends) {
        ssize_t n = service_recv(s->call, s->in + s->in_len, s->in_capacity - s->in_len);
        if (n <= 0)
            return (int)n; /* it has ended, or is to end */
        s->in_len += (size_t)n;
        r = answer_all(s);
        if (r == 0)
            r = make_room(s);
    }
    return r;
}

int coroutine_fn session_serve(struct service_call *call)
{
    struct session *s = calloc(1, sizeof *s);
    int r = -ENOMEM;
    if (!s)
        return r;
    s->call = call;
    s->kv = service_state(call);
    s->in_capacity = READ_BYTES;
    s->in = malloc(READ_BYTES);
    if (s->in)
        r = talk(s);
    forget_parts(s);
    for (uint32_t i = 0; i < PARTS_MAX; i++)
        resp_out_deinit(&s->parts[i].text);
    resp_out_deinit(&s->out);
    free(s->in);
    free(s);
    return r;
}
