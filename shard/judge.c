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
 *   by a coroutine that moved and left alone, until the death of the shard     left alone
 *   lives                         it is in; that is judged as its own
 *
 * Which shard that is does not matter: at each death, every call of whose coroutine nothing is left
 * is judged, wherever it was at home. Where the home is given up it can't be answered any more, and
 * is judged like the others.
 *
 * A callee marks a call as started before it frees its message (serve.c), so the message of a call
 * that was not started is in the ring still, where the replacement finds it: nothing needs to be
 * published a second time. A call runs again under a new generation, as a new submission.
 *
 * Orderings    first                then             ordered by               if broken
 *   REDO     see caller.c: here the dead one's stores are finished in its place
 *   START    started word         its death        supervisor's reaping     a call that was started is
 *                                                  before DEATH (death.c)   left alone for ever
 *   ANSWERED answer in the ring   coroutine ended   push release, its word's  a call that was answered
 *                                                  change; acquire here      is run again
 *   JUDGED   verdicts, counters   n_verdicts,      store release, acquire   a report of the death lacks
 *                                 judged_incarn.   in death_report.c        some of it
 *   WHO      supervisor's death   a look at pids   release there, acquire   one that lives is judged dead
 *   HERE     a child's own pid    supervisor's     see member.c             the same
 *                                 death
 */
#include "shard/judge.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "shard/arena.h"
#include "shard/bits.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "shard/poison.h"
#include "shard/portable_inside.h"
#include "shard/process.h"

/* A wild write of the dead one's may have hit its own record. */
static bool note_is_sane(const struct segment *seg, uint32_t peer, const struct redo_record *note)
{
    enum call_state after = note->kind == REDO_SUBMIT ? CALL_WAITING : CALL_FREE;

    return note->pair < seg->n_peers && note->slot < segment_call_slots(seg, peer, note->pair) &&
           note->end < N_CALL_ENDS && word_state(note->word) == after;
}

bool mesh_finish_redo(const struct segment *seg, uint32_t peer)
{
    struct redo_record *redo = &segment_part(seg, peer)->redo;
    struct redo_record note = *redo;
    struct call_slot *slot;
    struct pair_stats *stats;

    if (note.kind == REDO_NONE)
        return false;
    if (note_is_sane(seg, peer, &note)) {
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

/*
 * A wild write of the dead one's may have hit its started words as well. What is said of a call
 * that was not made yet, or by an incarnation to come, would leave one alone for ever, or have its
 * message taken for one that was seen: it is said of the latest that was made instead, as begun by
 * the dead.
 */
void mesh_mend_started(const struct segment *seg, uint32_t dead)
{
    uint32_t incarnation = segment_control(seg, dead)->incarnation;

    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        for (uint32_t slot = 0; slot < segment_call_slots(seg, peer, dead); slot++) {
            struct serve_slot *serve = segment_serve(seg, dead, peer, slot);
            uint64_t word =
                atomic_load_acquire(&segment_call(seg, peer, dead, slot)->word); /* START */
            uint64_t made = word_generation(word);

            if (!generation_reaches(made, started_generation(serve->started)) ||
                started_since(serve->started, incarnation + 1))
                atomic_store_release(&serve->started, started_word(made, incarnation)); /* START */
        }
}

/* ---- one call ---- */

struct verdict {
    uint32_t peer;        /* the callee, or home of the coroutine that served it */
    uint32_t dead;        /* where that coroutine was; as a rule the callee itself */
    uint32_t incarnation; /* of what takes its place */
    uint32_t slot;
    uint64_t generation;
    bool abandoned;
    bool started;
    bool failed; /* the peer is given up */
};

static void give_back(struct mesh *mesh, const struct verdict *v, enum call_end end)
{
    if (v->started)
        caller_leave_args(mesh, v->peer, v->slot);
    caller_free_slot(mesh, v->peer, v->slot, end);
    caller_note_withdrawal(mesh, v->peer); /* its message may still be in the ring */
    /* A buffer that the dead one had filled for it, if it had got so far. */
    mesh_push(mesh, v->peer,
        &(struct message){
            .kind = MESSAGE_ANSWER_TAKEN, .slot = v->slot, .generation = v->generation});
}

/* For the report of the death, before the slot is let go. */
static void note(struct mesh *mesh, const struct verdict *v, enum verdict_kind kind)
{
    const struct call_slot *call = &mesh->links[v->peer].calls[v->slot];
    uint64_t n = mesh->part->n_verdicts;

    *segment_verdict(&mesh->seg, mesh->self, n) = (struct verdict_record){.kind = kind,
        .dead = v->dead,
        .incarnation = v->incarnation,
        .callee = v->peer,
        .slot = v->slot,
        .method = call->method,
        .generation = v->generation,
        .origin = call->origin,
        .at_ns = (uint64_t)aio_clock_ns()};
    atomic_store_release(&mesh->part->n_verdicts, n + 1); /* JUDGED */
}

static void end_call(struct mesh *mesh, const struct verdict *v, enum call_end end, int status)
{
    struct mesh_call *call = mesh->links[v->peer].out[v->slot].call;
    struct mesh_answer answer = {.end = end, .status = status, .shard = v->peer};

    caller_note_end(call, &answer);
    give_back(mesh, v, end);
    caller_finish(mesh, call, &answer);
}

static void judge_not_started(struct mesh *mesh, const struct verdict *v)
{
    if (!v->failed)
        return;
    note(mesh, v, v->abandoned ? VERDICT_GIVEN_BACK : VERDICT_NOT_STARTED);
    if (v->abandoned)
        give_back(mesh, v, CALL_END_NONE);
    else
        end_call(mesh, v, CALL_END_NOT_STARTED, -EHOSTDOWN);
}

/* One that was adopted may have lost its arguments. */
static bool can_be_repeated(const struct call_slot *shared, const struct mesh_call *call)
{
    return shared->flags & CALL_IDEMPOTENT && (call->args || !call->args_len);
}

static void judge_started(struct mesh *mesh, const struct verdict *v)
{
    const struct call_slot *shared = &mesh->links[v->peer].calls[v->slot];
    struct mesh_call *call = mesh->links[v->peer].out[v->slot].call;
    bool repeatable = call && can_be_repeated(shared, call);

    if (v->abandoned) {
        note(mesh, v, VERDICT_GIVEN_BACK);
        give_back(mesh, v, CALL_END_NONE);
    } else if (repeatable && poison_note(mesh, call, v->dead, v->peer, v->generation)) {
        note(mesh, v, VERDICT_POISONED);
        caller_note_end(
            call, &(struct mesh_answer){
                      .end = CALL_END_FAILED, .status = -ENOTRECOVERABLE, .shard = v->peer});
        give_back(mesh, v, CALL_END_FAILED);
        poison_park(mesh, call);
    } else if (repeatable && v->failed) {
        note(mesh, v, VERDICT_FAILED);
        end_call(mesh, v, CALL_END_FAILED, -EHOSTDOWN);
    } else if (repeatable) {
        note(mesh, v, VERDICT_RUN_AGAIN);
        give_back(mesh, v, CALL_END_NONE);
        counter_add(&mesh->links[v->peer].stats->run_again, 1);
        caller_run_again(mesh, call);
    } else {
        note(mesh, v, VERDICT_IN_DOUBT);
        end_call(mesh, v, CALL_END_IN_DOUBT, -EOWNERDEAD);
    }
}

/* Whether a portable coroutine serves the call, and has outlived the shard it was started in. */
static bool lives_elsewhere(const struct mesh *mesh, const struct serve_slot *serve)
{
    uint64_t co = atomic_load_relaxed(&serve->co); /* START: written before the started word */
    uint32_t shard;

    return co != 0 && arena_co_lives(&mesh->seg, co, &shard);
}

static void judge_call(
    struct mesh *mesh, uint32_t peer, uint32_t slot, uint32_t incarnation, bool failed)
{
    const struct call_slot *shared = &mesh->links[peer].calls[slot];
    const struct serve_slot *serve = &mesh->links[peer].served[slot];
    uint64_t started = atomic_load_acquire(&serve->started); /* START */
    struct verdict v = {.peer = peer,
        .dead = peer,
        .incarnation = incarnation,
        .slot = slot,
        .generation = word_generation(shared->word),
        .abandoned = !mesh->links[peer].out[slot].call,
        .started = started_generation(started) == word_generation(shared->word),
        .failed = failed};

    if (word_state(shared->word) == CALL_FREE || word_state(shared->word) == CALL_READING)
        return;
    if (started_generation(started) != v.generation)
        judge_not_started(mesh, &v);
    else if (failed || (!started_since(started, incarnation) && !lives_elsewhere(mesh, serve)))
        judge_started(mesh, &v);
}

/* ---- coroutines that were not at home ---- */

/* Whether the call in slot is served by a coroutine that has ended without our having its answer;
 * as far as is known before home's rings are looked into. */
static bool has_lost_coroutine(const struct mesh *mesh, uint32_t home, uint32_t slot)
{
    uint64_t word = mesh->links[home].calls[slot].word;
    const struct serve_slot *serve = &mesh->links[home].served[slot];
    uint64_t started = atomic_load_acquire(&serve->started); /* START */

    if (word_state(word) != CALL_WAITING && word_state(word) != CALL_ABANDONED)
        return false;
    return started_generation(started) == word_generation(word) &&
           atomic_load_relaxed(&serve->co) != 0 && !lives_elsewhere(mesh, serve); /* START */
}

/* The answer is published before the coroutine's end can be seen, so that who finds it ended, and
 * then no answer in the ring, will never get one. */
static void judge_lost(
    struct mesh *mesh, uint32_t home, uint32_t slot, uint32_t dead, uint32_t incarnation)
{
    struct link *link = &mesh->links[home];
    struct verdict v = {.peer = home,
        .dead = dead,
        .incarnation = incarnation,
        .slot = slot,
        .generation = word_generation(link->calls[slot].word),
        .failed = mesh->orphaned}; /* nobody will run it again */

    if (!has_lost_coroutine(mesh, home, slot))
        return;
    mesh_drain(mesh, home); /* ANSWERED */
    uint64_t word = link->calls[slot].word;
    if (word_generation(word) != v.generation || !has_lost_coroutine(mesh, home, slot))
        return;
    v.abandoned = !link->out[slot].call;
    judge_started(mesh, &v);
}

/* Those whose homes are others than the dead: that may have been where they were. */
static void judge_away(struct mesh *mesh, uint32_t dead, uint32_t incarnation)
{
    for (uint32_t home = 0; home < mesh->seg.geometry.n_shards; home++) {
        if (home == dead)
            continue;
        for (uint32_t slot = 0; slot < mesh->links[home].n_out; slot++)
            judge_lost(mesh, home, slot, dead, incarnation);
        caller_pump(mesh, home);
    }
}

void judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed)
{
    recorder_note(&mesh->instruments, RECORDER_JUDGE, peer, incarnation);
    for (uint32_t slot = 0; slot < mesh->links[peer].n_out; slot++)
        judge_call(mesh, peer, slot, incarnation, failed);
    judge_away(mesh, peer, incarnation);
    lock_judge_peer(mesh, peer, incarnation, failed);
    if (failed)
        caller_end_line(mesh, peer, CALL_END_NOT_STARTED, -EHOSTDOWN);
    else
        caller_pump(mesh, peer);
    serve_reclaim(mesh, peer);
    portable_judge(mesh, peer, failed);
    counter_set(&mesh->links[peer].stats->judged_ns, aio_clock_ns());
    atomic_store_release(
        &mesh->links[peer].stats->judged_incarnation, (uint64_t)incarnation); /* JUDGED */
}

/* ---- without a supervisor ---- */

static bool process_is_gone(int32_t pid)
{
    uint64_t ticks;

    return pid <= 0 || process_start_ticks(pid, &ticks) == -ESRCH; /* a zombie is gone, too */
}

/* The supervisor may have died between the fork and its note of it: who serves has noted itself. */
static bool peer_is_gone(const struct mesh *mesh, uint32_t peer)
{
    const struct peer_control *control = segment_control(&mesh->seg, peer);
    const struct part_head *part = segment_part(&mesh->seg, peer);

    return process_is_gone(atomic_load_acquire(&control->pid)) && /* WHO */
           process_is_gone(atomic_load_acquire(&part->pid));      /* HERE */
}

/* All of them, before any is judged: of two that are gone, neither will enter what one has sent to
 * the other. */
static void bury_the_gone(const struct mesh *mesh, uint64_t gone[SEGMENT_BITMAP_WORDS])
{
    for (uint32_t peer = 0; peer < mesh->seg.geometry.n_shards; peer++)
        if (peer != mesh->self && peer_is_gone(mesh, peer))
            bits_set(gone, peer);
    arena_bury_gone(&mesh->seg, gone);
}

void mesh_orphaned(struct mesh *mesh)
{
    uint64_t gone[SEGMENT_BITMAP_WORDS] = {0};

    mesh->orphaned = true;
    lock_orphaned(mesh);
    bury_the_gone(mesh, gone);
    for (uint32_t peer = 0; peer < mesh->seg.geometry.n_shards; peer++) {
        if (peer == mesh->self)
            continue;
        caller_end_line(mesh, peer, CALL_END_NOT_STARTED, -EHOSTDOWN);
        if (bits_has(gone, peer))
            judge_peer(mesh, peer, segment_control(&mesh->seg, peer)->incarnation, true);
    }
    /* And those that were away from home when it came to this, and can't go back to answer. */
    judge_away(mesh, mesh->self, mesh->incarnation);
}
