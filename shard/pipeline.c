/* SPDX-License-Identifier: MIT */
/*
 * What has come whole is taken request by request: each is a step for each shard that is named.
 * Then all shards are asked, and the steps' answers put into the stream in their order.
 */
#include "shard/pipeline.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "shard/batch.h"
#include "shard/stream.h"

#define STEPS       256u                /* asked together, if one request has not more of its own */
#define FLUSH_BYTES ((size_t)64 * 1024) /* of answers, which are put off no longer */

_Static_assert(PIPELINE_REQUEST_MAX <= BATCH_ASK_MAX, "each is one question");
_Static_assert(PIPELINE_ANSWER_MAX <= BATCH_ANSWER_MAX, "and one answer");

struct step {
    uint32_t shard;
    bool more; /* the next one is of the same request */
};

struct pipeline {
    struct service_call *call;
    const struct pipeline_rules *rules;
    struct stream *stream;
    struct batch *batch;
    uint64_t n_requests;
    uint64_t *asked_by; /* of each shard: number of the last request that named it, from 1 */
    uint32_t n_shards, n_steps;
    bool once, ends;
    struct step steps[];
};

/* ---- in take() ---- */

struct service_call *pipeline_call(const struct pipeline *p)
{
    return p->call;
}

void pipeline_ask(struct pipeline *p, uint32_t shard)
{
    assert(shard < p->n_shards);
    if (p->asked_by[shard] == p->n_requests)
        return;
    p->asked_by[shard] = p->n_requests;
    p->steps[p->n_steps++] = (struct step){.shard = shard, .more = true};
}

void pipeline_once(struct pipeline *p)
{
    p->once = true;
}

void pipeline_end(struct pipeline *p)
{
    p->ends = true;
}

/* ---- what has come ---- */

/* One request. Its length; 0: there is no whole one; -errno. */
static ssize_t take(struct pipeline *p, const char *data, size_t len)
{
    uint32_t first = p->n_steps;

    p->n_requests++;
    ssize_t n = p->rules->take(p, data, len);
    if (n <= 0)
        p->n_steps = first;
    else if (p->n_steps == first)
        pipeline_ask(p, service_shard(p->call));
    for (uint32_t i = first; i < p->n_steps; i++) {
        int r = batch_ask(p->batch, p->steps[i].shard, data, (size_t)n);
        if (r < 0) {
            p->n_steps = first;
            return r;
        }
    }
    if (p->n_steps > first)
        p->steps[p->n_steps - 1].more = false;
    return n;
}

/* All, or as many as there is room for. */
static int take_all(struct pipeline *p, size_t *ret_taken)
{
    size_t len, taken = 0;
    const char *in = stream_in(p->stream, &len);
    ssize_t n = 1;

    p->n_steps = 0;
    p->once = false;
    while (n > 0 && taken < len && !p->ends && p->n_steps < STEPS) {
        n = take(p, in + taken, len - taken);
        taken += n > 0 ? (size_t)n : 0;
    }
    *ret_taken = taken;
    return n < 0 ? (int)n : 0;
}

static void coroutine_fn put_answer(struct pipeline *p, uint32_t shard)
{
    const void *data;
    size_t len;
    int r = batch_answer(p->batch, shard, &data, &len);

    if (r < 0)
        p->rules->fail(stream_out(p->stream), shard, r);
    else
        bytes_put(stream_out(p->stream), data, len);
}

/* One request's; returns the step behind its last. */
static uint32_t coroutine_fn put_answers(struct pipeline *p, uint32_t step)
{
    struct bytes *out = stream_out(p->stream);
    size_t begin = out->len;
    bool several = p->steps[step].more;

    put_answer(p, p->steps[step].shard);
    while (p->steps[step].more)
        put_answer(p, p->steps[++step].shard);
    if (several && p->rules->join && !out->failed)
        p->rules->join(out, begin);
    return step + 1;
}

/* How many steps that was; -errno: it ends, with what was taken before answered. */
static int coroutine_fn answer_all(struct pipeline *p)
{
    size_t taken;
    int r = 0, wrong = take_all(p, &taken);

    if (wrong == -ENOMEM) { /* some shards' questions may be there in part */
        batch_clear(p->batch);
        p->n_steps = 0;
    }
    batch_run(p->batch, p->once ? p->rules->method_once : p->rules->method);
    for (uint32_t step = 0; r == 0 && step < p->n_steps;) {
        step = put_answers(p, step);
        if (stream_out(p->stream)->len >= FLUSH_BYTES)
            r = stream_flush(p->stream);
    }
    batch_clear(p->batch);
    stream_take(p->stream, taken);
    if (r < 0 || wrong == 0)
        return r < 0 ? r : (int)p->n_steps;
    p->rules->fail(stream_out(p->stream), PIPELINE_NOBODY, wrong);
    p->ends = true;
    return wrong;
}

/* ---- a connection ---- */

static void pipeline_free(struct pipeline *p)
{
    batch_close(p->batch);
    stream_close(p->stream);
    free(p->asked_by);
    free(p);
}

static int pipeline_new(
    struct service_call *call, const struct pipeline_rules *rules, struct pipeline **ret)
{
    uint32_t n_shards = service_n_shards(call);
    assert(rules->request_max <= PIPELINE_REQUEST_MAX);
    struct pipeline *p = calloc(1, sizeof(*p) + (STEPS + n_shards) * sizeof(p->steps[0]));

    if (!p)
        return -ENOMEM;
    *p = (struct pipeline){.call = call, .rules = rules, .n_shards = n_shards};
    p->asked_by = calloc(n_shards, sizeof(p->asked_by[0]));
    int r = p->asked_by ? stream_open(call, rules->request_max, &p->stream) : -ENOMEM;
    if (r == 0)
        r = batch_open(call, rules->answer, &p->batch);
    if (r < 0)
        pipeline_free(p);
    else
        *ret = p;
    return r;
}

int coroutine_fn pipeline_serve(struct service_call *call, const struct pipeline_rules *rules)
{
    struct pipeline *p;
    size_t left = 0;
    int r = pipeline_new(call, rules, &p);

    if (r < 0)
        return r;
    while (r >= 0 && !p->ends && (r = stream_fill(p->stream, left + 1)) > 0) {
        do
            r = answer_all(p);
        while (r > 0 && !p->ends);
        stream_in(p->stream, &left);
    }
    if (r == -EMSGSIZE && !p->ends)
        rules->fail(stream_out(p->stream), PIPELINE_NOBODY, r);
    int flushed = stream_flush(p->stream); /* nothing is left where that was why it ends */
    pipeline_free(p);
    return r < 0 ? r : flushed;
}

int coroutine_fn pipeline_answer(struct service_call *call, const struct pipeline_rules *rules)
{
    return batch_serve(call, rules->answer);
}
