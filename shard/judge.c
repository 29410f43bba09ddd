/* SPDX-License-Identifier: MIT */
/*
 * When a peer has died, each living end that called it decides for each of its calls, alone and
 * from words that have one writer each, after it has drained the ring of answers:
 *
 *   this generation was started   waiting call                                abandoned call
 *   not yet                       left alone                                  left alone
 *   by the living incarnation     left alone                                  left alone
 *   by a dead one                 idempotent: run again, if it is no poison   given back
 *                                 (poison.c); else in doubt
 *   and the peer is given up      not begun: not started; idempotent: failed; given back
 *                                 else in doubt
 *
 * A call that was answered, and whose answer is still being read in the dead one's heap, is left
 * alone: the replacement keeps that buffer until its reader gives it back.
 *
 * A callee marks a call as started before it frees its message (serve.c), so the message of a call
 * that was not started is in the ring still, where the replacement finds it: nothing needs to be
 * published a second time. A call runs again under a new generation, as a new submission.
 *
 * Orderings    first                then             ordered by               if broken
 *   REDO     see caller.c: here the dead one's stores are finished in its place
 *   START    started word         its death        supervisor's reaping     a call that was started is
 *                                                  before DEATH (death.c)   left alone for ever
 *   WHO      supervisor's death   a look at pids   release there, acquire   one that lives is judged dead
 */
#include "shard/judge.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "shard/poison.h"
#include "shard/portable_inside.h"
#include "shard/process.h"

bool mesh_finish_redo(const struct segment *seg, uint32_t peer)
{
    struct redo_record *redo = &segment_part(seg, peer)->redo;
    struct redo_record note = *redo;
    struct call_slot *slot;
    struct pair_stats *stats;

    if (note.kind == REDO_NONE)
        return false;
    if (note.pair < seg->n_peers && note.slot < segment_call_slots(seg, peer, note.pair) &&
        note.end < N_CALL_ENDS) {
        slot = segment_call(seg, peer, note.pair, note.slot);
        stats = segment_pair(seg, peer, note.pair);
        if (note.kind == REDO_SUBMIT && slot->word == note.word)
            counter_set(&stats->calls_submitted, note.value);
        if (note.kind == REDO_END) {
            atomic_store_release(&slot->word, note.word); /* REDO */
            counter_set(&stats->ends[note.end], note.value);
        }
    }
    atomic_store_release(&redo->kind, REDO_NONE); /* REDO */
    return true;
}

/* ---- one call ---- */

struct verdict {
    uint32_t peer; /* the callee, or home of the coroutine that served it */
    uint32_t dead; /* where that coroutine was; as a rule the callee itself */
    uint32_t slot;
    uint64_t generation;
    bool abandoned;
    bool failed; /* the peer is given up */
};

static void give_back(struct mesh *mesh, const struct verdict *v, enum call_end end)
{
    caller_free_slot(mesh, v->peer, v->slot, end);
    /* A buffer that the dead one had filled for it, if it had got so far. */
    mesh_push(mesh, v->peer,
        &(struct message){.kind = MESSAGE_ANSWER_TAKEN,
            .slot = v->slot,
            .generation = v->generation,
            .incarnation = mesh->incarnation});
}

static void end_call(struct mesh *mesh, const struct verdict *v, enum call_end end, int status)
{
    struct mesh_call *call = mesh->links[v->peer].out[v->slot].call;

    give_back(mesh, v, end);
    caller_finish(
        mesh, call, &(struct mesh_answer){.end = end, .status = status, .shard = v->peer});
}

static void judge_not_started(struct mesh *mesh, const struct verdict *v)
{
    if (!v->failed)
        return;
    if (v->abandoned)
        give_back(mesh, v, CALL_END_NONE);
    else
        end_call(mesh, v, CALL_END_NOT_STARTED, -EHOSTDOWN);
}

static void judge_started(struct mesh *mesh, const struct verdict *v)
{
    const struct call_slot *shared = &mesh->links[v->peer].calls[v->slot];
    struct mesh_call *call = mesh->links[v->peer].out[v->slot].call;

    if (v->abandoned) {
        give_back(mesh, v, CALL_END_NONE);
    } else if (shared->flags & CALL_IDEMPOTENT &&
               poison_note(mesh, call, v->dead, v->peer, v->generation)) {
        give_back(mesh, v, CALL_END_FAILED);
        poison_park(mesh, call);
    } else if (shared->flags & CALL_IDEMPOTENT && v->failed) {
        end_call(mesh, v, CALL_END_FAILED, -EHOSTDOWN);
    } else if (shared->flags & CALL_IDEMPOTENT) {
        give_back(mesh, v, CALL_END_NONE);
        caller_run_again(mesh, call);
    } else {
        end_call(mesh, v, CALL_END_IN_DOUBT, -EOWNERDEAD);
    }
}

static void judge_call(
    struct mesh *mesh, uint32_t peer, uint32_t slot, uint32_t incarnation, bool failed)
{
    const struct call_slot *shared = &mesh->links[peer].calls[slot];
    const struct serve_slot *serve = &mesh->links[peer].served[slot];
    uint64_t started = atomic_load_acquire(&serve->started); /* START */
    struct verdict v = {.peer = peer,
        .dead = peer,
        .slot = slot,
        .generation = word_generation(shared->word),
        .abandoned = !mesh->links[peer].out[slot].call,
        .failed = failed};

    if (word_state(shared->word) == CALL_FREE || word_state(shared->word) == CALL_READING)
        return;
    if (started_generation(started) != v.generation)
        judge_not_started(mesh, &v);
    else if (failed || !started_since(started, incarnation))
        judge_started(mesh, &v);
}

void judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed)
{
    recorder_note(&mesh->instruments, RECORDER_JUDGE, peer, incarnation);
    for (uint32_t slot = 0; slot < mesh->links[peer].n_out; slot++)
        judge_call(mesh, peer, slot, incarnation, failed);
    lock_judge_peer(mesh, peer, incarnation, failed);
    if (failed)
        caller_end_line(mesh, peer, CALL_END_NOT_STARTED, -EHOSTDOWN);
    else
        caller_pump(mesh, peer);
    serve_reclaim(mesh, peer);
    portable_judge(mesh, peer, failed);
}

/* ---- without a supervisor ---- */

static bool peer_is_gone(const struct mesh *mesh, uint32_t peer)
{
    int32_t pid = atomic_load_acquire(&segment_control(&mesh->seg, peer)->pid); /* WHO */

    uint64_t ticks;

    return pid <= 0 || process_start_ticks(pid, &ticks) == -ESRCH; /* a zombie is gone, too */
}

void mesh_orphaned(struct mesh *mesh)
{
    mesh->orphaned = true;
    for (uint32_t peer = 0; peer < mesh->seg.geometry.n_shards; peer++) {
        if (peer == mesh->self)
            continue;
        caller_end_line(mesh, peer, CALL_END_NOT_STARTED, -EHOSTDOWN);
        if (peer_is_gone(mesh, peer))
            judge_peer(mesh, peer, segment_control(&mesh->seg, peer)->incarnation, true);
    }
}
