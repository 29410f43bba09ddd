/* SPDX-License-Identifier: MIT */
/*
 * The buffers of arguments that are not small. One that the mesh has filled with a copy belongs to
 * the slot it is sent by, and comes back as soon as the callee has copied it. A room, which the
 * caller has filled in place, is the only copy there is: it belongs to the call, until that ends,
 * so that the call can be run again; the slot names it all the same, and inherits it where the
 * caller goes and the callee may read it still.
 *
 * A callee that reads arguments in place may have been writing them to a disk when it died. Then
 * the buffer is left to the flight table when it is given back, under the callee's last
 * incarnation.
 *
 * Orderings  first               then               ordered by               if broken
 *   TAKEN    callee's copy       buffer used again  the ring's push and pop  callee copies another
 *                                                                            call's arguments
 *            args_off = 0        buffer used again  one writer, of whose     none: an heir holds it
 *                                                   death who reads it has   until the slot is back
 *                                                   learnt
 *   QUIET    kernel's last read  buffer used again  see flight.c             a disk gets another
 *                                                                            call's arguments
 */
#include <assert.h>
#include <errno.h>

#include "shard/mesh_inside.h"

static struct out_slot *out_at(const struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    return &mesh->links[peer].out[slot];
}

/* Whether the callee leaves arguments that are not small where they lie. */
bool caller_args_in_place(const struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    const struct service_method *method =
        mesh_method(mesh, mesh->links[peer].calls[slot].method, NULL);

    return method && method->flags & SERVICE_IN_PLACE;
}

static void give_back(struct mesh *mesh, uint32_t peer, const struct args_buffer *args)
{
    if (args->is_left)
        flight_leave(&mesh->flights, args->off, args->len, peer, args->left_by);
    else
        heap_put(&mesh->heap, args->off, args->len);
}

static bool is_room(const struct out_slot *out)
{
    return out->call && out->call->room.off;
}

void caller_give_back_args(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct out_slot *out = out_at(mesh, peer, slot);
    struct args_buffer args = out->args;

    if (!args.off)
        return;
    out->args = (struct args_buffer){0};
    /* First: who recovers holds what a slot names. */
    atomic_store_relaxed(&mesh->links[peer].calls[slot].args_off, 0); /* TAKEN */
    if (!is_room(out))
        give_back(mesh, peer, &args);
}

/* The incarnations of the dead all came before the one that it has now. What is read in place is
 * read by the callee itself: such a call does not move. */
void caller_leave_args(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct out_slot *out = out_at(mesh, peer, slot);
    struct args_buffer *args = is_room(out) ? &out->call->room : &out->args;

    if (!out->args.off || !caller_args_in_place(mesh, peer, slot))
        return;
    args->is_left = true;
    args->left_by =
        atomic_load_acquire(&segment_control(&mesh->seg, peer)->incarnation) - 1; /* QUIET */
}

void caller_inherit_room(struct mesh *mesh, struct mesh_call *call)
{
    struct out_slot *out = out_at(mesh, call->target, call->slot);

    if (!call->room.off)
        return;
    if (out->args.off)
        out->args = call->room;
    else
        give_back(mesh, call->target, &call->room);
    call->room = (struct args_buffer){0};
}

void caller_drop_room(struct mesh *mesh, struct mesh_call *call)
{
    struct args_buffer room = call->room;

    call->room = (struct args_buffer){0};
    if (room.off)
        give_back(mesh, call->target, &room);
}

void caller_on_args_taken(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct link *link = &mesh->links[peer];
    uint64_t word = message->slot < link->n_out ? link->calls[message->slot].word : CALL_FREE;

    if (word_generation(word) != message->generation || word_state(word) == CALL_FREE) {
        counter_add(&link->stats->dropped, 1);
        return;
    }
    caller_give_back_args(mesh, peer, message->slot); /* TAKEN */
}

/* ---- filled in place ---- */

void mesh_call_send(struct mesh *mesh, struct mesh_call *call)
{
    bool failed = caller_is_given_up(mesh, call->target);

    assert(call->where == CALL_FILLING && call->args_len <= call->room.len);
    flight_end(&mesh->flights, call->room.off);
    if (failed || call->deadline_ns <= aio_clock_ns()) {
        caller_leave_slot(mesh, call);
        caller_end_later(mesh, call, failed ? CALL_END_NOT_STARTED : CALL_END_EXPIRED,
            failed ? -EHOSTDOWN : -ETIMEDOUT);
        return;
    }
    if (call->args_len) {
        heap_trim(&mesh->heap, call->room.off, call->room.len, call->args_len);
        call->room.len = (uint32_t)call->args_len;
    }
    call->args = mesh->seg.base + call->room.off;
    mesh_count_payload(mesh, false, call->args_len);
    if (call->deadline_ns != INT64_MAX)
        timer_mod_ns(&call->timer, call->deadline_ns);
    caller_with_slot(mesh, call);
}

void mesh_call_drop(struct mesh *mesh, struct mesh_call *call)
{
    assert(call->where == CALL_FILLING);
    flight_end(&mesh->flights, call->room.off);
    caller_drop_room(mesh, call);
    call->where = CALL_NOWHERE;
    mesh->n_under_way--;
    caller_leave_slot(mesh, call);
}
