/* SPDX-License-Identifier: MIT */
#ifndef SHERD_PIPELINE_H
#define SHERD_PIPELINE_H
/*
 * pipeline - a connection whose requests are answered by the shards that they are about, in order
 *
 * Why:         what a client sends at a time is asked for at a time: one call to each other shard,
 *              whatever number of requests have come, and one piece of answers back.
 * Use:         static const struct pipeline_rules rules = {.request_max = LONGEST, .take = take,
 *                  .answer = answer, .method = "kv.run", .method_once = "kv.once", .fail = fail};
 *              static int coroutine_fn serve(struct service_call *call)   of the listener
 *              {
 *                  return pipeline_serve(call, &rules);
 *              }
 *              static int coroutine_fn run(struct service_call *call)     both methods
 *              {
 *                  return pipeline_answer(call, &rules);
 *              }
 * Concurrency: a connection's own coroutine; nothing of rules waits
 * Lifetime:    rules live as long as the process; a pipeline as its connection
 * Not here:    what a request is, and what becomes of it: the rules'
 *
 * A shard gets a client's request as it came. Where not all of a shard's fit into one message, or
 * not all of its answers, the rest follows when it is its turn.
 */
#include "shard/bytes.h"
#include "shard/service.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pipeline;

#define PIPELINE_REQUEST_MAX ((size_t)1020 * 1024)
#define PIPELINE_ANSWER_MAX  ((size_t)768 * 1024)
#define PIPELINE_NOBODY      UINT32_MAX

struct pipeline_rules {
    size_t request_max; /* of those that are taken: at most PIPELINE_REQUEST_MAX */
    /* A request begins at data: pipeline_ask() names each shard that has something to say to it;
     * where none is named it is this one. How many bytes it has; 0: it has not come whole; -errno:
     * it is none, and the connection ends with what fail() says to that. */
    ssize_t (*take)(struct pipeline *pipeline, const char *data, size_t len);
    /* In a shard that was named: puts what it has to say, PIPELINE_ANSWER_MAX bytes at most.
     * request may come from anybody who can call the methods. -errno: neither this one nor others
     * that go with it are answered. */
    int (*answer)(struct service_call *call, const void *request, size_t len, struct bytes *answer);
    /* "service.method" by which other shards are asked; the second where pipeline_once() was called
     * for one of the requests that go together, and then it is not SERVICE_IDEMPOTENT. */
    const char *method, *method_once;
    /* What several shards said to one request stands in out, from begin on: makes it one answer.
     * NULL: it stays so. */
    void (*join)(struct bytes *out, size_t begin);
    /* Says that a shard did not answer, with what service_call_shard() returns; or, of
     * PIPELINE_NOBODY, that there was no request: what take() returned, or -EMSGSIZE; or -ENOMEM:
     * nothing of what came with it was asked either. */
    void (*fail)(struct bytes *out, uint32_t shard, int error);
};

/* Serves a connection to its end. 0; -errno as service_recv() and service_send(), -ENOMEM, or what
 * ended it. coroutine_fn. */
int coroutine_fn pipeline_serve(struct service_call *call, const struct pipeline_rules *rules);

/* The methods. As service_reply(); -EBADMSG: the arguments are not a pipeline's; -EMSGSIZE: an
 * answer was longer than it may be; -ENOMEM; or what answer() returned. coroutine_fn. */
int coroutine_fn pipeline_answer(struct service_call *call, const struct pipeline_rules *rules);

/* ---- in take() ---- */

/* The connection's. */
struct service_call *pipeline_call(const struct pipeline *pipeline);

/* That shard, which may be this one, has something to say to the request; it says so once, however
 * often it is named here. */
void pipeline_ask(struct pipeline *pipeline, uint32_t shard);

/* Where a shard dies with the request it is in doubt, and not run again. */
void pipeline_once(struct pipeline *pipeline);

/* It is the connection's last. */
void pipeline_end(struct pipeline *pipeline);

#ifdef __cplusplus
}
#endif
#endif
