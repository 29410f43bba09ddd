/* SPDX-License-Identifier: MIT */
/*
 * An answer's bytes lie inline in the serve slot where they are small, else in this shard's heap,
 * recorded beside the started word until the caller says that it has copied them. The room for one
 * that is filled in place is recorded as in flight meanwhile (flight.h).
 *
 * Orderings    first                 then                   ordered by               if broken
 *   ANSWER   bytes of the answer   its message            the ring's push and pop  an older answer is read
 *   KEPT     answer_off, _len      answer_generation      release store            the replacement marks a
 *                                                                                  buffer that is
 *                                                                                  none
 *   SLOT     see serve.c
 */
#include "shard/serve.h"

#include <errno.h>
#include <string.h>

#include "shard/heap_co.h"
#include "shard/mesh_inside.h"

static struct serve_slot *serve_slot_of(const struct service_call *call)
{
    return &call->mesh->links[call->from].serves[call->slot];
}

/* ---- answering ---- */

void serve_push_answer(struct mesh *mesh, uint32_t peer, const struct message *answer)
{
    struct message message = *answer;

    message.kind = MESSAGE_ANSWER;
    mesh_push(mesh, peer, &message);
}

void serve_release_answer(struct mesh *mesh, struct serve_slot *serve)
{
    uint64_t off = serve->answer_off;

    if (!serve->answer_generation)
        return;
    atomic_store_release(&serve->answer_generation, 0); /* KEPT */
    heap_put(&mesh->heap, off, serve->answer_len);
}

/* ---- room for an answer, filled in place ---- */

void *coroutine_fn serve_take_room(struct service_call *call, size_t len)
{
    call->room_off = heap_get_co(&call->mesh->heap, call->from, len);
    call->room_len = len;
    flight_begin(&call->mesh->flights, call->room_off, len);
    return call->mesh->seg.base + call->room_off;
}

static void drop_room(struct service_call *call)
{
    uint64_t off = call->room_off;

    if (!off)
        return;
    call->room_off = 0;
    flight_end(&call->mesh->flights, off);
    heap_put(&call->mesh->heap, off, call->room_len);
}

static void note_answer(struct service_call *call, uint64_t off, size_t len)
{
    struct serve_slot *serve = serve_slot_of(call);

    call->reply_off = off;
    call->reply_len = len;
    atomic_store_relaxed(&serve->answer_off, off);                     /* KEPT */
    atomic_store_relaxed(&serve->answer_len, (uint32_t)len);           /* KEPT */
    atomic_store_release(&serve->answer_generation, call->generation); /* KEPT */
}

void serve_put_room(struct service_call *call, size_t len)
{
    uint64_t off = call->room_off;

    if (len == 0) {
        drop_room(call);
        return;
    }
    call->room_off = 0;
    flight_end(&call->mesh->flights, off);
    note_answer(call, off, len);
    heap_trim(&call->mesh->heap, off, call->room_len, len);
    mesh_count_payload(call->mesh, false, len);
}

/* ---- a copied answer ---- */

void coroutine_fn serve_put_reply(struct service_call *call, const void *data, size_t len)
{
    struct serve_slot *serve = serve_slot_of(call);

    call->reply_len = len;
    if (len <= SEGMENT_INLINE_BYTES) {
        if (len)
            memcpy(serve->inline_answer, data, len);
        return;
    }
    uint64_t off = heap_get_co(&call->mesh->heap, call->from, len);

    memcpy(call->mesh->seg.base + off, data, len);
    note_answer(call, off, len);
    mesh_count_payload(call->mesh, true, len);
}

static void coroutine_fn drop_reply(struct service_call *call)
{
    if (!call->local && call->reply_off)
        serve_release_answer(call->mesh, serve_slot_of(call));
    call->reply_off = 0;
    call->reply_len = 0;
}

enum call_end serve_end_of(const struct service_call *call, int status)
{
    if (status >= 0)
        return CALL_END_DONE;
    if (status == -ETIMEDOUT && aio_clock_ns() >= call->deadline_ns)
        return CALL_END_EXPIRED;
    return CALL_END_FAILED;
}

void coroutine_fn serve_answer(struct service_call *call, int status)
{
    drop_room(call);
    if (status < 0) {
        drop_reply(call);
        if (call->error_text)
            serve_put_reply(call, call->error_text, strlen(call->error_text));
    }
    /* ANSWER: the bytes are there. */
    serve_push_answer(call->mesh, call->from,
        &(struct message){.slot = call->slot,
            .generation = call->generation,
            .status = status < 0 ? status : 0,
            .end = serve_end_of(call, status),
            .len = (uint32_t)call->reply_len,
            .off = call->reply_off});
}

/* ---- buffers of answers ---- */

void serve_on_answer_taken(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct serve_slot *serve;

    if (message->slot >= mesh->links[peer].n_in) {
        counter_add(&mesh->links[peer].stats->dropped, 1);
        return;
    }
    serve = &mesh->links[peer].serves[message->slot];
    if (serve->answer_generation == message->generation)
        serve_release_answer(mesh, serve);
}

static bool answer_is_wanted(const struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    const struct serve_slot *serve = &mesh->links[peer].serves[slot];
    const struct call_slot *shared = &mesh->links[peer].peer_calls[slot];
    uint64_t word = atomic_load_acquire(&shared->word); /* SLOT */

    return word_generation(word) == serve->answer_generation && word_state(word) != CALL_FREE;
}

void serve_reclaim(struct mesh *mesh, uint32_t peer)
{
    for (uint32_t slot = 0; slot < mesh->links[peer].n_in; slot++)
        if (!answer_is_wanted(mesh, peer, slot))
            serve_release_answer(mesh, &mesh->links[peer].serves[slot]);
}

void serve_recover(struct mesh *mesh, uint32_t peer)
{
    for (uint32_t slot = 0; slot < mesh->links[peer].n_in; slot++) {
        struct serve_slot *serve = &mesh->links[peer].serves[slot];
        if (serve->answer_generation &&
            (!answer_is_wanted(mesh, peer, slot) ||
                !heap_mark(&mesh->heap, peer, serve->answer_off, serve->answer_len)))
            atomic_store_release(&serve->answer_generation, 0); /* KEPT */
    }
}
