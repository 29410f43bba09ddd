/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * serve_local - what is served for nobody across the rings: calls of this shard's own coroutines,
 *               requests of clients that have a ring with it, connections
 *
 * Why:         a method is the same to whoever asked; these three come by no call slot.
 * Use:         serve_local() by call.c; ipc/plane/ has serve_outside_init(), _run(), _deinit() for
 *              each request; connection.c puts its coroutine between serve_connection_begin() and
 *              _end()
 * Concurrency: owner loop and its coroutines. Such a call stays in its shard.
 * Lifetime:    the call is its caller's memory, until serve_outside_deinit() or
 *              serve_connection_end()
 */
#include "shard/call.h"
#include "shard/serve.h"

/* Runs a method of this shard in the calling coroutine. *ret_data, malloc: the answer of
 * ret_answer->len bytes, or the text of the error; NULL: it has none. */
void coroutine_fn serve_local(struct mesh *mesh, const struct call_request *request,
    int64_t deadline_ns, struct mesh_answer *ret_answer, void **ret_data);

/*
 * Who asked, where that is neither a peer nor a coroutine of this shard: where its answers go. Each
 * gets what the method said, of which serve has checked that it comes in turn; the errors are those
 * of the function in service.h.
 */
struct serve_outside {
    size_t reply_max;
    int (*reply)(struct service_call *call, const void *data, size_t len);
    int (*take_room)(struct service_call *call, size_t len, void **ret_room);
    int (*put_room)(struct service_call *call, size_t len); /* the first len bytes are the answer */
};

/* A call of method for somebody outside, who sets deadline, origin and arguments, and for the
 * records its own slot and generation. False: there is no such method. */
bool serve_outside_init(struct service_call *call, const struct serve_outside *outside,
    struct mesh *mesh, uint32_t method, uint32_t slot, uint64_t generation);

/* Runs it in the calling coroutine and returns what the method did. error_text is there until
 * serve_outside_deinit(). */
int coroutine_fn serve_outside_run(struct service_call *call);
void serve_outside_deinit(struct service_call *call);

/* A connection, in which a service may do what it may in a call: nobody has called, so what it asks
 * of others is asked as if from outside. Counts as a call that is served. */
void serve_connection_begin(
    struct service_call *call, struct mesh *mesh, uint32_t service, struct connection *connection);
void coroutine_fn serve_connection_end(struct service_call *call);
