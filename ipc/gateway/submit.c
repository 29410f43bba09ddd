/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/core.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/gateway/reply.h"
#include "proto/sherd.pb-c.h"
#include "shard/keymap.h"

/*
 * A batch is taken as far as it goes: each submission is accepted or refused by itself, and what is
 * refused is told with a reason. Refusals and their texts live in the message's arena.
 */
struct batch {
    struct gateway *gateway;
    struct session *session;
    int64_t now_ns;
    const char *last_name; /* clients send the same method many times over */
    uint32_t last_method;
    uint32_t n_accepted;
    Sherd__Wire__Refused *refusals; /* room for all; the one after the last is being made */
    Sherd__Wire__Refused **refused;
    size_t n_refused;
};

/* Returns error; the text is for the submission being looked at. */
__attribute__((format(printf, 3, 4))) static int refuse(
    struct batch *batch, int error, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    if (len < 0)
        return error;
    char *copy = arena_alloc(&batch->gateway->arena, (size_t)len + 1);
    if (copy)
        batch->refusals[batch->n_refused].text = memcpy(copy, text, (size_t)len + 1);
    free(text);
    return error;
}

/* "sys.ping, sys.echo, …", malloc'ed. */
static char *list_methods(const struct registry *registry)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return NULL;
    for (uint32_t i = 0, listed = 0; i < registry_n_methods(registry); i++) {
        uint32_t service;
        const struct service_method *method = registry_method(registry, i, &service);
        if (method)
            fprintf(out, "%s%s.%s", listed++ ? ", " : "", registry_service(registry, service)->name,
                method->name);
    }
    return fclose(out) == 0 ? text : (free(text), NULL);
}

static int refuse_method(struct batch *batch, const char *name, int error)
{
    char *methods = list_methods(batch->gateway->env->registry);
    int name_len = (int)strnlen(name, 2 * REGISTRY_NAME_MAX);

    if (error == -EACCES)
        refuse(batch, error, "%.*s is a test method: start the instance with --enable-test-methods",
            name_len, name);
    else
        refuse(batch, error, "no such method: %.*s; there are %s", name_len, name,
            methods ? methods : "others");
    free(methods);
    return error;
}

static int find_method(struct batch *batch, const char *name, uint32_t *ret_method)
{
    if (!batch->last_name || strcmp(batch->last_name, name) != 0) {
        int r =
            registry_find(batch->gateway->env->registry, name, strlen(name), &batch->last_method);
        if (r < 0)
            return refuse_method(batch, name, r);
        batch->last_name = name;
    }
    *ret_method = batch->last_method;
    return 0;
}

/* For what may run anywhere: the next shard that is not given up. */
static uint32_t any_shard(struct gateway *gateway)
{
    const struct segment *segment = gateway->env->segment;
    uint32_t n_shards = segment->geometry.n_shards;

    for (uint32_t i = 0; i < n_shards; i++) {
        uint32_t shard = gateway->round_robin++ % n_shards;
        if (__builtin_expect(
                atomic_load_relaxed(&segment_control(segment, shard)->state) != PEER_FAILED, 1))
            return shard;
    }
    return gateway->round_robin++ % n_shards;
}

static int choose_shard(struct batch *batch, const Sherd__Wire__Submission *submission,
    uint32_t method, uint32_t *ret_shard)
{
    struct gateway *gateway = batch->gateway;
    uint32_t n_shards = gateway->env->segment->geometry.n_shards;
    uint64_t hash;

    if (submission->placement_case == SHERD__WIRE__SUBMISSION__PLACEMENT_SHARD) {
        if (submission->shard >= n_shards)
            return refuse(batch, -ENODEV, "no shard %u: there %s %u, counted from 0",
                submission->shard, n_shards == 1 ? "is" : "are", n_shards);
        *ret_shard = submission->shard;
        return 0;
    }
    if (submission->key.len > 0)
        hash = keymap_hash(submission->key.data, submission->key.len);
    else if (registry_hash(gateway->env->registry, method, submission->args.data,
                 submission->args.len, &hash) < 0) {
        *ret_shard = any_shard(gateway);
        return 0;
    }
    *ret_shard = keymap_shard(keymap_slot(hash), n_shards);
    return 0;
}

static int check_sizes(struct batch *batch, const Sherd__Wire__Submission *submission)
{
    if (submission->id == 0)
        return refuse(batch, -EINVAL, "0 is no request id");
    if (submission->args.len > PROTOCOL_PAYLOAD_MAX)
        return refuse(batch, -EMSGSIZE, "%zu bytes of arguments: the limit is %zu",
            submission->args.len, PROTOCOL_PAYLOAD_MAX);
    if (submission->key.len > PROTOCOL_KEY_MAX)
        return refuse(batch, -EMSGSIZE, "a key of %zu bytes: the limit is %zu", submission->key.len,
            PROTOCOL_KEY_MAX);
    return 0;
}

static int64_t deadline_of(const struct batch *batch, const Sherd__Wire__Submission *submission)
{
    if (submission->timeout_ns == 0 ||
        submission->timeout_ns >= (uint64_t)(INT64_MAX - batch->now_ns))
        return INT64_MAX;
    return batch->now_ns + (int64_t)submission->timeout_ns;
}

static int take(
    struct batch *batch, const Sherd__Wire__Submission *submission, uint32_t *ret_retry_us)
{
    struct request_spec spec = {
        .id = submission->id,
        .args = submission->args.data,
        .args_len = submission->args.len,
        .arena = &batch->gateway->arena,
        .deadline_ns = deadline_of(batch, submission),
        .lane = submission->urgent ? LANE_URGENT : LANE_NORMAL,
        .refuse = submission->refuse,
    };
    int r = check_sizes(batch, submission);

    if (batch->session->condemned_ns)
        return refuse(batch, -EPERM, PENALTY_TEXT, batch->session->number);
    if (r == 0)
        r = find_method(batch, submission->method, &spec.method);
    if (r == 0)
        r = choose_shard(batch, submission, spec.method, &spec.shard);
    if (r == 0)
        r = requests_submit(&batch->gateway->requests, batch->session, &spec, ret_retry_us);
    if (r == -ESTALE)
        return refuse(batch, r,
            "request %llu is too old: what became of it is forgotten, and it is not run again",
            (unsigned long long)submission->id);
    return r == -EALREADY ? 0 : r;
}

static void take_or_refuse(struct batch *batch, const Sherd__Wire__Submission *submission)
{
    Sherd__Wire__Refused *refusal = &batch->refusals[batch->n_refused];

    sherd__wire__refused__init(refusal);
    uint32_t retry_us = 0;
    int r = take(batch, submission, &retry_us);
    if (r == 0) {
        batch->n_accepted++;
        return;
    }
    refusal->id = submission->id;
    refusal->number = (uint32_t)-r;
    if (r == -EAGAIN)
        refusal->retry_us = retry_us;
    batch->refused[batch->n_refused++] = refusal;
}

static void answer_batch(const struct batch *batch, struct exchange *exchange)
{
    Sherd__Wire__SubmitReply body = SHERD__WIRE__SUBMIT_REPLY__INIT;
    body.accepted = batch->n_accepted;
    body.n_refused = batch->n_refused;
    body.refused = batch->refused;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_SUBMIT;
    reply.submit = &body;
    reply_send(exchange, &reply);
}

void dispatch_submissions(struct gateway *gateway, struct session *session,
    struct exchange *exchange, Sherd__Wire__Submission *const *submissions, size_t n)
{
    if (gateway->draining) {
        reply_error(exchange, -ESHUTDOWN, "the instance is draining and takes nothing new");
        return;
    }
    if (n > PROTOCOL_BATCH_MAX) {
        reply_error(exchange, -EMSGSIZE, "%zu submissions in a message: the limit is %u", n,
            PROTOCOL_BATCH_MAX);
        return;
    }
    struct batch batch = {
        .gateway = gateway,
        .session = session,
        .now_ns = aio_clock_ns(),
        .refusals = arena_alloc(&gateway->arena, (n + 1) * sizeof(Sherd__Wire__Refused)),
        .refused = arena_alloc(&gateway->arena, (n + 1) * sizeof(Sherd__Wire__Refused *)),
    };
    if (!batch.refusals || !batch.refused) {
        reply_error(exchange, -ENOMEM, "no memory for a message of %zu submissions", n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        take_or_refuse(&batch, submissions[i]);
    gateway_count(gateway);
    answer_batch(&batch, exchange);
}
