/* SPDX-License-Identifier: MIT */
/*
 * A call that is served by a portable coroutine away from the shard that it came to, its home.
 * There it is told of by number while it is there, and counted; away, what its caller has done to
 * it is read from the caller's slot, which every process can.
 *
 * Orderings    SLOT: see serve.c
 */
#include "shard/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/co_sleep.h"
#include "shard/mesh_inside.h"
#include "shard/portable_inside.h"

#define NO_MEMORY_NS 1000000 /* until the next try */

/* Its caller's slot for it, in any process. */
static uint64_t asked_word(const struct service_call *call)
{
    const struct segment *seg = &call->mesh->seg;

    return atomic_load_acquire(
        &segment_call(seg, call->from, call->home, call->slot)->word); /* SLOT */
}

static bool is_dropped(const struct service_call *call)
{
    uint64_t word = asked_word(call);

    return word_generation(word) != call->generation || word_state(word) != CALL_WAITING;
}

bool serve_is_abandoned(const struct service_call *call)
{
    if (call->local || call->mesh->self == call->home)
        return call->abandoned;
    return is_dropped(call);
}

void serve_note_home(struct service_call *call, bool is_here)
{
    struct mesh *mesh = call->mesh;

    if (mesh->self != call->home)
        return;
    mesh->links[call->from].in[call->slot] = is_here ? call : NULL;
    mesh->n_served += is_here ? 1 : UINT64_MAX;
}

static int coroutine_fn move_to(struct service_call *call, uint32_t shard, bool at_end)
{
    uint32_t service;
    int r;

    serve_note_home(call, false);
    r = portable_move(&call->mesh, shard,
        (at_end ? PORTABLE_AT_END : 0) | (path_has(call->path, shard) ? PORTABLE_AWAITED : 0));
    serve_note_home(call, true);
    if (is_dropped(call))
        call->abandoned = true; /* it was told so while it was away */
    mesh_method(call->mesh, call->method_number, &service);
    call->state = call->mesh->states ? call->mesh->states[service] : NULL;
    return r;
}

int coroutine_fn serve_move(struct service_call *call, uint32_t shard)
{
    return move_to(call, shard, false);
}

/* An error's text is memory of the process that it failed in, and travels on the stack. Not
 * inlined: who is at home needs no such frame. */
static __attribute__((noinline)) bool coroutine_fn go_home(struct service_call *call)
{
    char text[1024] = "";
    int r;

    if (call->error_text)
        strncpy(text, call->error_text, sizeof(text) - 1);
    free(call->error_text);
    call->error_text = NULL;
    while ((r = move_to(call, call->home, true)) == -ENOMEM)
        co_sleep_ns(NO_MEMORY_NS);
    if (r == -EBUSY)
        bug("method %s returns away from home, and %s", call->method->name, shard_co_holds());
    if (r == 0 && text[0])
        call->error_text = strdup(text);
    return r == 0;
}

bool coroutine_fn serve_come_home(struct service_call *call)
{
    return call->mesh->self == call->home || go_home(call);
}
