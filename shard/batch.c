/* SPDX-License-Identifier: MIT */
/*
 * Questions, and answers, lie one behind the other in a message, each with its length before it. A
 * shard answers as many as fit and leaves the rest, which it has not begun with; who asked keeps
 * the text of all questions, and passes each as its answer is taken, so that what has to be asked
 * next is what is left of that text.
 */
#include "shard/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What one shard is asked. */
struct share {
    struct bytes asked;
    size_t answered; /* of that */
    int status;      /* of the last call */
    char *data;      /* its answers, or the error's text */
    size_t len, taken;
};

struct batch {
    struct service_call *call;
    batch_answer_fn *answer;
    const char *method;
    struct bytes own; /* the last answer of this shard */
    uint32_t n_shards;
    struct service_part *parts; /* room for one of each shard */
    struct share shares[];
};

_Static_assert(BATCH_ASK_MAX + sizeof(uint32_t) <= SERVICE_REPLY_MAX, "one fits");

/* ---- who asks ---- */

int batch_open(struct service_call *call, batch_answer_fn *answer, struct batch **ret)
{
    uint32_t n_shards = service_n_shards(call);
    struct batch *b = calloc(1, sizeof(*b) + n_shards * sizeof(b->shares[0]));

    if (!b)
        return -ENOMEM;
    b->parts = calloc(n_shards, sizeof(b->parts[0]));
    if (!b->parts) {
        free(b);
        return -ENOMEM;
    }
    b->call = call;
    b->answer = answer;
    b->n_shards = n_shards;
    *ret = b;
    return 0;
}

void batch_clear(struct batch *b)
{
    for (uint32_t i = 0; i < b->n_shards; i++) {
        struct share *share = &b->shares[i];
        struct bytes asked = share->asked;
        bytes_clear(&asked);
        free(share->data);
        *share = (struct share){.asked = asked};
    }
}

void batch_close(struct batch *b)
{
    if (!b)
        return;
    batch_clear(b);
    for (uint32_t i = 0; i < b->n_shards; i++)
        bytes_deinit(&b->shares[i].asked);
    bytes_deinit(&b->own);
    free(b->parts);
    free(b);
}

static void put_framed(struct bytes *to, const void *data, size_t len)
{
    uint32_t frame = (uint32_t)len;

    bytes_put(to, &frame, sizeof(frame));
    bytes_put(to, data, len);
}

int batch_ask(struct batch *b, uint32_t shard, const void *args, size_t len)
{
    if (shard >= b->n_shards)
        return -ENODEV;
    if (len > BATCH_ASK_MAX)
        return -EMSGSIZE;
    put_framed(&b->shares[shard].asked, args, len);
    return b->shares[shard].asked.failed ? -ENOMEM : 0;
}

/* The length of what is framed there, frame included. */
static size_t framed_len(const char *at)
{
    uint32_t frame;

    memcpy(&frame, at, sizeof(frame));
    return sizeof(frame) + frame;
}

/* All questions that are left, or as many as fit. */
static struct service_part part_of(const struct batch *b, const struct share *share)
{
    const char *begin = share->asked.data + share->answered;
    size_t left = share->asked.len - share->answered, len = left;

    if (left > SERVICE_REPLY_MAX)
        for (len = 0; len + framed_len(begin + len) <= SERVICE_REPLY_MAX;)
            len += framed_len(begin + len);
    return (struct service_part){
        .shard = (uint32_t)(share - b->shares), .args = begin, .args_len = len};
}

static void take_answers(struct share *share, const struct service_part *part)
{
    free(share->data);
    share->status = part->status;
    share->data = part->data;
    share->len = part->len;
    share->taken = 0;
}

void coroutine_fn batch_run(struct batch *b, const char *method)
{
    uint32_t n = 0;

    b->method = method;
    for (uint32_t i = 0; i < b->n_shards; i++)
        if (b->shares[i].asked.len && i != service_shard(b->call))
            b->parts[n++] = part_of(b, &b->shares[i]);
    if (n)
        service_gather(b->call, method, b->parts, n, 0);
    for (uint32_t i = 0; i < n; i++)
        take_answers(&b->shares[b->parts[i].shard], &b->parts[i]);
}

static void coroutine_fn ask_for_the_rest(struct batch *b, struct share *share)
{
    struct service_part part = part_of(b, share);

    service_gather(b->call, b->method, &part, 1, 0);
    take_answers(share, &part);
}

/* Whether there is a whole one. */
static bool is_framed(const char *data, size_t len)
{
    return len >= sizeof(uint32_t) && framed_len(data) <= len;
}

/* A question of this shard's own. */
static int ask_self(struct batch *b, const char *ask, const void **ret_data, size_t *ret_len)
{
    bytes_clear(&b->own);
    int r = b->answer(b->call, ask + sizeof(uint32_t), framed_len(ask) - sizeof(uint32_t), &b->own);
    *ret_data = b->own.data;
    *ret_len = b->own.len;
    return r < 0 ? r : b->own.failed ? -ENOMEM : 0;
}

int coroutine_fn batch_answer(
    struct batch *b, uint32_t shard, const void **ret_data, size_t *ret_len)
{
    struct share *share = shard < b->n_shards ? &b->shares[shard] : NULL;

    if (!share || share->answered == share->asked.len)
        return -ENOENT;
    const char *ask = share->asked.data + share->answered;
    bool is_own = shard == service_shard(b->call);
    if (!is_own && share->status == 0 && share->taken == share->len)
        ask_for_the_rest(b, share);
    share->answered += framed_len(ask);
    if (is_own)
        return ask_self(b, ask, ret_data, ret_len);
    if (share->status == 0 && !is_framed(share->data + share->taken, share->len - share->taken))
        share->status = -EBADMSG;
    if (share->status < 0)
        return share->status;
    const char *at = share->data + share->taken;
    *ret_data = at + sizeof(uint32_t);
    *ret_len = framed_len(at) - sizeof(uint32_t);
    share->taken += framed_len(at);
    return 0;
}

/* ---- who is asked ---- */

/* Its length is written before it when it is known. */
static int answer_one(
    struct service_call *call, const char *ask, batch_answer_fn *answer, struct bytes *out)
{
    size_t begin = out->len;
    int r;

    put_framed(out, NULL, 0);
    r = answer(call, ask + sizeof(uint32_t), framed_len(ask) - sizeof(uint32_t), out);
    if (r < 0)
        return r;
    if (out->failed)
        return -ENOMEM;
    uint32_t len = (uint32_t)(out->len - begin - sizeof(len));
    if (len > BATCH_ANSWER_MAX)
        return -EMSGSIZE;
    memcpy(out->data + begin, &len, sizeof(len));
    return 0;
}

int coroutine_fn batch_serve(struct service_call *call, batch_answer_fn *answer)
{
    size_t len;
    const char *at = service_args(call, &len), *end = at + len;
    struct bytes out = {0};
    int r = len ? 0 : -EBADMSG;

    while (
        r == 0 && at < end && out.len + sizeof(uint32_t) + BATCH_ANSWER_MAX <= SERVICE_REPLY_MAX) {
        r = is_framed(at, (size_t)(end - at)) ? answer_one(call, at, answer, &out) : -EBADMSG;
        at += r == 0 ? framed_len(at) : 0;
    }
    if (r == 0)
        r = service_reply(call, out.data, out.len);
    bytes_deinit(&out);
    return r;
}
