/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CLIENT_CO_H
#define SHERD_CLIENT_CO_H
/*
 * client_co - calls of a Sherd instance by coroutines
 *
 * Why:         straight-line code in an event loop: a call suspends its coroutine, not the loop.
 * Use:         struct sherd_client_co co;
 *              r = sherd_client_co_attach(&co, client, ctx);
 *              in a coroutine of ctx: r = sherd_client_co_call(&co, &request, &result);
 *              sherd_result_deinit(&result);
 *              sherd_client_co_detach(&co);      once no call is under way
 * Concurrency: ctx's thread alone, to which the client belongs from then on; any number of
 *              coroutines
 * Not here:    shards, which call each other by sherd/service.h
 *
 * In a header alone, as the client library knows nothing of coroutines: a program that uses it
 * links sherd-client and sherd-runtime.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/client.h"
#include "runtime/aio.h"
#include "runtime/coroutine.h"

struct sherd_client_co {
    struct sherd_client *client;
    AioContext *ctx;
};

/* One call, on its coroutine's stack. */
struct sherd_client_co_one {
    Coroutine *co;
    const void *room;
    struct sherd_result *result;
    int error;
    bool ended;
    bool waits;
};

static inline void sherd_client_co_on_readable(void *opaque)
{
    struct sherd_client_co *co = (struct sherd_client_co *)opaque;

    /* Where the instance is gone, each request's end says so. */
    (void)sherd_client_process(co->client, 0);
}

/* 0 or -errno as aio_set_fd_handler(). */
static inline int sherd_client_co_attach(
    struct sherd_client_co *co, struct sherd_client *client, AioContext *ctx)
{
    co->client = client;
    co->ctx = ctx;
    return aio_set_fd_handler(
        ctx, sherd_client_fd(client), sherd_client_co_on_readable, NULL, NULL, NULL, co);
}

static inline void sherd_client_co_detach(struct sherd_client_co *co)
{
    aio_set_fd_handler(co->ctx, sherd_client_fd(co->client), NULL, NULL, NULL, NULL, NULL);
}

static inline void sherd_client_co_on_done(const struct sherd_result *result, void *opaque)
{
    struct sherd_client_co_one *one = (struct sherd_client_co_one *)opaque;

    *one->result = *result;
    one->result->opaque = NULL;
    if (result->len > 0 && result->data != one->room) {
        one->result->owned = malloc(result->len);
        one->result->data = (uint8_t *)one->result->owned;
        if (one->result->owned)
            memcpy(one->result->owned, result->data, result->len);
        else
            one->error = -ENOMEM;
    }
    one->ended = true;
    if (one->waits)
        aio_co_wake(one->co);
}

/* As sherd_client_call(). coroutine_fn. */
static inline int coroutine_fn sherd_client_co_call(struct sherd_client_co *co,
    const struct sherd_request *request, struct sherd_result *ret_result)
{
    struct sherd_result result;
    struct sherd_client_co_one one;

    memset(&result, 0, sizeof(result));
    memset(&one, 0, sizeof(one));
    one.co = coroutine_self();
    one.room = request->room;
    one.result = &result;
    int r = sherd_client_submit(co->client, request, sherd_client_co_on_done, &one, NULL);
    if (r < 0)
        return r;
    sherd_client_flush(co->client);
    while (!one.ended) {
        one.waits = true;
        coroutine_yield();
        one.waits = false;
    }
    if (one.error < 0)
        return one.error;
    *ret_result = result;
    return 0;
}

#endif
