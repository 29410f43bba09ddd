/* SPDX-License-Identifier: MIT */
/*
 * A pipeline is parsed a batch at a time, and other shards are asked for what is theirs of it. Then
 * it is answered in order: what is this shard's runs now, of the rest the answers are there.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define FLUSH_BYTES ((size_t)64 * 1024) /* of answers, before the rest of a pipeline */
#define READ_BYTES  ((size_t)16 * 1024)

/* Parses what is not answered yet. */
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
            store_prefetch(s->kv->store, step->key.data, step->key.len);
    }
    s->wants = c.bytes;
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
        struct step one = {.command = command, .key = key_of(&c->args[i])};
        uint32_t shard = service_shard_of_key(s->call, one.key.data, one.key.len);
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

static const char info[] = "# Server\r\nredis_mode:standalone\r\nserver_name:sherd-kv\r\n";

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
        return resp_bulk(out, info, strlen(info));
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
    if (c.n < step->command->n_words || !step->command->many)
        return resp_text(
            &s->out, "-ERR wrong number of arguments, and no options are taken here\r\n");
    return answer_many(s, step->command, &c);
}

static bool coroutine_fn answer(struct session *s, const struct step *step)
{
    if (!step->key.data)
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
    size_t capacity = READ_BYTES;
    while (capacity < s->wants) /* less than twice what a command may have */
        capacity *= 2;
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
    afar_deinit(s);
    resp_out_deinit(&s->out);
    free(s->in);
    free(s);
    return r;
}
