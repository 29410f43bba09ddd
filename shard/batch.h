/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * batch - many small questions, each to a shard, in one call to each other shard
 *
 * Why:         a pipeline of 64 requests about keys of 8 shards is 64 calls, each of which wakes
 *              somebody. So it is 8, all under way at a time.
 * Use:         who asks:
 *              batch_open(call, answer_one, &batch);
 *              for each question:  batch_ask(batch, shard, args, len);
 *              batch_run(batch, "kv.run");
 *              for each, in the order of asking:  r = batch_answer(batch, shard, &data, &len);
 *              batch_clear(batch), for the next ones, or batch_close(batch);
 *              who is asked, as the method kv.run:
 *              return batch_serve(call, answer_one);
 * Concurrency: one coroutine, that of the call
 * Lifetime:    batch_open() to batch_close(), within the method or connection
 * Not here:    an order among shards: each answers its own questions in the order of asking
 *
 * Where not all questions fit into one message, or not all answers, the rest is asked as the
 * answers are taken. What was answered is never asked again.
 */
#include "shard/bytes.h"
#include "shard/service.h"

#define BATCH_ASK_MAX    ((size_t)1020 * 1024) /* of one question */
#define BATCH_ANSWER_MAX ((size_t)768 * 1024)  /* of one answer */

struct batch;

/* Answers one question, by putting into answer what there is to say. 0; -errno: see batch_answer().
 * Asked by this shard, call is that of batch_open(), by another one that of the method. */
typedef int batch_answer_fn(
    struct service_call *call, const void *args, size_t len, struct bytes *answer);

/* answer: what this shard is asked it is asked so, when it is its turn, and without a call. 0;
 * -ENOMEM. */
int batch_open(struct service_call *call, batch_answer_fn *answer, struct batch **ret);

/* Which may be NULL. */
void batch_close(struct batch *batch);

/* Notes a question, which is copied. 0; -ENODEV: no such shard; -EMSGSIZE; -ENOMEM. */
int batch_ask(struct batch *batch, uint32_t shard, const void *args, size_t len);

/* Asks all that were noted, and waits for the answers of other shards. What has become of each
 * batch_answer() says. method is "service.method", and stays where it is until batch_clear().
 * coroutine_fn. */
void coroutine_fn batch_run(struct batch *batch, const char *method);

/*
 * That shard's next answer, which lies in the batch until its next one is taken, or batch_clear().
 * 0; -ENOENT: it was not asked so often; -errno of another shard, as service_call_shard(), or its
 * function's: each question of that call gets it, and each behind them; of this shard: its
 * function's, for this question alone. May wait. coroutine_fn.
 */
int coroutine_fn batch_answer(
    struct batch *batch, uint32_t shard, const void **ret_data, size_t *ret_len);

void batch_clear(struct batch *batch);

/* The method that other shards are asked by. What it returns, the method does. -EBADMSG: the
 * arguments are not those of a batch; -EMSGSIZE: an answer was longer than it may be; -ENOMEM;
 * others are the function's, or service_reply()'s. coroutine_fn. */
int coroutine_fn batch_serve(struct service_call *call, batch_answer_fn *answer);
