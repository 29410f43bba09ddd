/* SPDX-License-Identifier: MIT */
/*
 * What a dead predecessor had called: its slots are all that is left of it. One whose message never
 * came into the ring is over. Of the others nobody waits for the answer any more, so they are
 * abandoned, and come back with it or with the callee's death; unless somebody adopts them, who
 * knows by the slot's origin whose they are (mesh_config.adopt). An adopted call is one like all
 * others.
 *
 * Orderings  first               then               ordered by              if broken
 *   GONE     word = abandoned,   started word       full fence here and in  a call both runs and is
 *            then withdrawals +  1                  serve.c (START there)   given back
 *   QUIET    kernel's last read  buffer used again  see flight.c            a disk gets another
 *                                                                           call's arguments
 */
#include <errno.h>

#include "shard/mesh_inside.h"

/* Else its message is not in the ring; to be asked before anything else is sent. */
static bool was_published(const struct link *link, uint32_t slot)
{
    return link->calls[slot].position < link->tx[segment_slot_lane(link->n_out, slot)].next;
}

/* That the callee has started it does not say that it has copied the arguments: until it tells, or
 * the slot comes back, they stay. */
static void recover_slot(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct link *link = &mesh->links[peer];
    const struct call_slot *shared = caller_slot(mesh, peer, slot);

    if (shared->args_off && heap_mark(&mesh->heap, peer, shared->args_off, shared->args_len)) {
        /* An incarnation of peer's before this one may have begun it, too. */
        link->out[slot].args = (struct args_buffer){.off = shared->args_off,
            .len = shared->args_len,
            .is_left = caller_args_in_place(mesh, peer, slot),
            .left_by =
                atomic_load_acquire(&segment_control(&mesh->seg, peer)->incarnation) - /* QUIET */
                1};
    }
}

/* The arguments are there as long as the slot names them, or has them. */
static struct mesh_asked what_was_asked(const struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    const struct link *link = &mesh->links[peer];
    const struct call_slot *shared = &link->calls[slot];
    const void *args = shared->args_len <= SEGMENT_INLINE_BYTES ? shared->inline_args : NULL;

    if (link->out[slot].args.off)
        args = mesh->seg.base + link->out[slot].args.off;
    return (struct mesh_asked){.target = peer,
        .method = shared->method,
        .args = args,
        .args_len = shared->args_len,
        .deadline_ns = (int64_t)shared->deadline_ns,
        .depth = shared->depth,
        .path = shared->path,
        .lane = segment_slot_lane(link->n_out, slot),
        .origin = shared->origin,
        .origin_at = shared->origin_at};
}

/* Written by a dead process that may have run wild. */
static bool is_call(const struct mesh *mesh, const struct mesh_asked *asked)
{
    return asked->depth < SEGMENT_MAX_DEPTH && asked->args_len <= SEGMENT_PAYLOAD_MAX &&
           mesh_method(mesh, asked->method, NULL);
}

/* From here on it is a call like all others: it may have been answered already, and its callee may
 * be dead, which is judged in the first turn. */
static bool adopt(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct mesh_asked asked = what_was_asked(mesh, peer, slot);
    struct mesh_call *call = is_call(mesh, &asked) ? mesh->adopt(&asked, mesh->adopt_opaque) : NULL;

    if (!call)
        return false;
    call->target = peer;
    call->method = asked.method;
    call->args_len = asked.args_len;
    call->deadline_ns = asked.deadline_ns;
    call->depth = asked.depth;
    call->path = asked.path;
    call->lane = asked.lane;
    call->origin = asked.origin;
    call->origin_at = asked.origin_at;
    call->slot = slot;
    call->mesh = mesh;
    call->callee = mesh_method(mesh, asked.method, NULL);
    call->where = CALL_OUT;
    mesh->links[peer].out[slot].call = call;
    mesh->n_under_way++;
    if (call->deadline_ns != INT64_MAX) {
        aio_timer_init(mesh->ctx, &call->timer, caller_on_deadline, call);
        timer_mod_ns(&call->timer, call->deadline_ns);
    }
    return true;
}

/* Whether somebody will take the call over, if its message is in the ring. */
static bool may_be_adopted(const struct mesh *mesh, const struct link *link, uint32_t slot)
{
    const struct call_slot *shared = &link->calls[slot];

    return mesh->adopt && shared->origin && word_state(shared->word) == CALL_WAITING &&
           was_published(link, slot);
}

/* The next call of a slot has a generation that the callee has not seen: a stray pointer may have
 * set the slot's back. */
static void catch_up(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct link *link = &mesh->links[peer];
    struct call_slot *shared = caller_slot(mesh, peer, slot);
    uint64_t seen = started_generation(atomic_load_relaxed(&link->served[slot].started)); /* GONE */

    if (!generation_reaches(word_generation(shared->word), seen))
        atomic_store_release(&shared->word, call_word(seen, word_state(shared->word))); /* GONE */
}

/* Nobody waits for it any more. A word that is none was written by a stray pointer: nobody can
 * answer what it stands for. */
static void leave_behind(struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    struct call_slot *shared = caller_slot(mesh, peer, slot);

    if (may_be_adopted(mesh, &mesh->links[peer], slot))
        return; /* asked for below, when all that it names is accounted for */
    if (word_state(shared->word) == CALL_WAITING)
        caller_abandon(mesh, peer, slot);
    else if (word_state(shared->word) > CALL_READING)
        atomic_store_release(
            &shared->word, call_word(word_generation(shared->word), CALL_FREE)); /* GONE */
    catch_up(mesh, peer, slot);
}

/* What still waits has a message in the ring. */
static void adopt_or_abandon(struct mesh *mesh, uint32_t peer)
{
    for (uint32_t slot = mesh->links[peer].n_out; slot-- > 0;)
        if (word_state(caller_slot(mesh, peer, slot)->word) == CALL_WAITING &&
            !adopt(mesh, peer, slot))
            caller_abandon(mesh, peer, slot);
}

void caller_recover(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];

    for (uint32_t slot = 0; slot < link->n_out; slot++)
        leave_behind(mesh, peer, slot);
    caller_note_withdrawal(mesh, peer); /* it may have died before it noted its own */
    atomic_full_fence();                /* GONE */
    for (uint32_t slot = link->n_out; slot-- > 0;)
        if (word_state(link->calls[slot].word) == CALL_FREE)
            caller_put_free(mesh, peer, slot);
        else if (word_state(link->calls[slot].word) == CALL_READING)
            continue; /* to give it back something must be sent */
        else if (!was_published(link, slot))
            caller_free_slot(mesh, peer, slot, CALL_END_CANCELLED);
        else
            recover_slot(mesh, peer, slot);
    adopt_or_abandon(mesh, peer);
    for (uint32_t slot = link->n_out; slot-- > 0;)
        if (word_state(link->calls[slot].word) == CALL_READING)
            caller_free_read_slot(mesh, peer, slot, CALL_END_NONE);
}

/* However often a predecessor was replaced before the peer looked: once is what there is room
 * for. */
void caller_tell_what_is_abandoned(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];
    struct message message;

    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        for (uint64_t n = 0; ring_tx_peek_at(&link->tx[lane], n, &message); n++)
            if (message.kind == MESSAGE_ABANDONED && message.slot < link->n_out &&
                message.generation == word_generation(link->calls[message.slot].word))
                link->out[message.slot].told = true;
    for (uint32_t slot = link->n_out; slot-- > 0;)
        if (word_state(link->calls[slot].word) == CALL_ABANDONED && !link->out[slot].told)
            caller_push_abandoned(mesh, peer, slot, -EOWNERDEAD);
}
