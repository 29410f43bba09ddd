/* SPDX-License-Identifier: MIT */
/*
 * What they have in common: no slot of the segment stands for them, so there is nothing that a
 * caller could take back from afar, and nothing that this shard's death leaves to be judged. Who
 * asked has that itself: a coroutine that waits here, a client's ledger (ipc/plane/), a socket.
 */
#include "shard/serve_local.h"

#include <stdlib.h>
#include <string.h>

#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"

/* ---- a call from this shard itself ---- */

void coroutine_fn serve_local(struct mesh *mesh, const struct call_request *request,
    int64_t deadline_ns, struct mesh_answer *ret_answer, void **ret_data)
{
    struct service_call call;
    uint32_t service;
    const struct service_method *callee = mesh_method(mesh, request->method, &service);

    serve_call_init(&call, mesh, request->method, callee, service);
    call.local = true;
    call.from = mesh->self;
    call.deadline_ns = deadline_ns;
    call.depth = request->depth;
    call.path = request->path;
    call.origin = request->origin;
    call.args = request->args; /* the caller waits, and they with it */
    call.args_len = request->args_len;

    int status = serve_call_run(&call);
    *ret_answer = (struct mesh_answer){
        .end = serve_end_of(&call, status), .status = status < 0 ? status : 0, .shard = mesh->self};
    if (status < 0) {
        free(call.local_reply);
        *ret_data = call.error_text;
        ret_answer->len = call.error_text ? strlen(call.error_text) : 0;
    } else {
        free(call.error_text);
        *ret_data = call.local_reply;
        ret_answer->len = call.reply_len;
    }
}

/* ---- a call from outside ---- */

bool serve_outside_init(struct service_call *call, const struct serve_outside *outside,
    struct mesh *mesh, uint32_t method, uint32_t slot, uint64_t generation)
{
    uint32_t service;
    const struct service_method *callee = registry_method(mesh->registry, method, &service);

    if (!callee)
        return false;
    serve_call_init(call, mesh, method, callee, service);
    call->local = true;
    call->outside = outside;
    call->from = mesh->self;
    call->slot = slot;
    call->generation = generation;
    return true;
}

int coroutine_fn serve_outside_run(struct service_call *call)
{
    struct mesh *mesh = call->mesh;

    mesh->n_served++;
    coroutine_set_work(running_word(mesh->self, mesh->self, call->slot, call->generation));
    int status = serve_call_run(call);
    lock_drop_all(mesh, coroutine_self());
    mesh->n_served--;
    return status;
}

void serve_outside_deinit(struct service_call *call)
{
    free(call->error_text);
}

/* ---- a connection ---- */

void serve_connection_begin(
    struct service_call *call, struct mesh *mesh, uint32_t service, struct connection *connection)
{
    *call = (struct service_call){.mesh = mesh,
        .home = mesh->self,
        .from = mesh->self,
        .local = true,
        .replied = true, /* there is nobody to answer */
        .deadline_ns = INT64_MAX,
        .depth = UINT32_MAX, /* what it calls is called from outside: depth 0 */
        .service = service,
        .connection = connection,
        .state = mesh->states ? mesh->states[service] : NULL};
    mesh->n_served++;
}

void coroutine_fn serve_connection_end(struct service_call *call)
{
    call_room_free(&call->calling);
    if (call->nests)
        co_cancel_deinit(&call->unwanted);
    if (in_coroutine())
        lock_drop_all(call->mesh, coroutine_self());
    free(call->error_text);
    call->mesh->n_served--;
}
