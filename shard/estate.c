/* SPDX-License-Identifier: MIT */
/*
 * Orderings      first                     then           ordered by              if broken
 *   DEATH  counters and slots made whole   incarnation    store release, peers'   a peer judges a slot
 *                                                         acquire (mesh.c)        that is half-written
 *   TOLD   incarnation, state              a look at them full barriers of the    a peer sleeps on, with
 *                                                         bitmap and the knock    calls to the dead
 *   FAILED its state                       incarnation    store release, peers'   a peer waits for one
 *                                                         acquire (mesh.c)        that never comes
 *   FORK   the bell's words                the child's    fork()                  it sleeps on what was
 *                                          loop                                   rung before
 *   DRAIN: see member.c
 */
#include "shard/estate.h"

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "shard/arena.h"
#include "shard/judge.h"

bool estate_mend(const struct segment *seg, uint32_t dead)
{
    bool was_under_way = mesh_finish_redo(seg, dead);

    mesh_mend_started(seg, dead);
    atomic_store_release(&segment_part(seg, dead)->drained, 0); /* DRAIN: not yet, again */
    atomic_store_relaxed(&segment_part(seg, dead)->served_ns, UINT64_C(0)); /* DEATH */
    return was_under_way;
}

void estate_pass_on(const struct segment *seg, uint32_t dead, enum peer_state state)
{
    struct peer_control *control = segment_control(seg, dead);

    arena_bury(seg, dead, state == PEER_FAILED);
    atomic_store_release(&control->state, (uint32_t)state);                /* FAILED */
    atomic_store_release(&control->incarnation, control->incarnation + 1); /* DEATH */
}

void estate_give_up(const struct segment *seg, uint32_t dead)
{
    atomic_store_release(&segment_control(seg, dead)->state, (uint32_t)PEER_FAILED); /* FAILED */
    arena_bury(seg, dead, true);
}

void estate_tell(const struct segment *seg, uint32_t dead, uint32_t peer, int bell_fd)
{
    struct doorbell bell = {.words = &segment_bell(seg, peer)->words, .fd = bell_fd};

    atomic_or_seq(
        &segment_bitmap(seg, peer)->senders[dead / 64], UINT64_C(1) << dead % 64); /* TOLD */
    doorbell_knock(&bell);                                                         /* TOLD */
}

void estate_prepare(const struct segment *seg, uint32_t peer)
{
    struct doorbell_words *words = &segment_bell(seg, peer)->words;
    struct commons_bitmap *bitmap = segment_bitmap(seg, peer);

    atomic_store_relaxed(&words->notify_me, 0); /* FORK */
    atomic_store_relaxed(&words->notified, 1);  /* FORK */
    for (uint32_t from = 0; from < seg->n_peers; from++)
        atomic_or_seq(&bitmap->senders[from / 64], UINT64_C(1) << from % 64); /* FORK */
}
