/* SPDX-License-Identifier: MIT */
/*
 * Each turn of the loop the mesh takes its bitmap of senders, empties the ring of each that had its
 * bit set, and then, if that sender's incarnation has changed, judges what its death means
 * (judge.c). What the turn pushes is rung once for each target by flush().
 *
 * Orderings    first               then           ordered by                  if broken
 *   PUB      message in slot     bit, notified  fence in mesh_flush(); xchg  bit is cleared, ring looks
 *                                               and fence in dispatch        empty: sleeps on a message
 *   BIT      bit set             notified       or_seq before the doorbell   notification is accepted, no
 *                                                                            bit seen: sleeps on a message
 *   DEAD     incarnation raised  bit set        supervisor's release, our    judged before the last of the
 *                                               acquire before the drain     dead one's answers was seen
 */
#include "shard/mesh.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/doorbell.h"
#include "shard/builtin.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"

/* ---- sending ---- */

bool mesh_push(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct link *link = &mesh->links[peer];

    /* There is room for all that can be under way (segment.c), so a full ring means that the peer's
     * head is not to be trusted. The message is lost to that peer alone, and counted. */
    if (!ring_push(&link->tx, message)) {
        counter_add(&link->stats->dropped, 1);
        return false;
    }
    counter_add(&link->stats->pushed, 1);
    if (!link->dirty) {
        link->dirty = true;
        mesh->dirty[mesh->n_dirty++] = peer;
    }
    return true;
}

static void ring_peer(struct mesh *mesh, uint32_t peer)
{
    const struct link *link = &mesh->links[peer];
    struct doorbell bell = {&link->bell->words, mesh->bell_fds[peer]};
    struct pair_stats *stats = link->stats;
    uint64_t bit = UINT64_C(1) << (mesh->self % 64);

    if (!(atomic_load_relaxed(link->bit_word) & bit)) /* PUB */
        atomic_or_seq(link->bit_word, bit);           /* BIT */
    if (doorbell_ring(&bell))                         /* BIT */
        counter_add(&stats->rings_sent, 1);
    else
        counter_add(&stats->rings_saved, 1);
}

static void mesh_flush(void *opaque)
{
    struct mesh *mesh = opaque;

    if (!mesh->n_dirty)
        return;
    atomic_full_fence(); /* PUB: the messages, before a look whether the bit is still set */
    for (uint32_t i = 0; i < mesh->n_dirty; i++) {
        mesh->links[mesh->dirty[i]].dirty = false;
        ring_peer(mesh, mesh->dirty[i]);
    }
    mesh->n_dirty = 0;
}

/* ---- receiving ---- */

static bool mesh_pending(void *opaque)
{
    struct mesh *mesh = opaque;
    const struct commons_bitmap *bitmap = segment_bitmap(&mesh->seg, mesh->self);
    uint64_t any = 0;

    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        any |= atomic_load_relaxed(&bitmap->senders[word]); /* BIT */
    return any != 0;
}

static void on_message(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct link *link = &mesh->links[peer];

    counter_add(&link->stats->popped, 1);
    switch (message->kind) {
    case MESSAGE_ANSWER:
        caller_on_answer(mesh, peer, message);
        return;
    case MESSAGE_CALL:
        serve_on_call(mesh, peer, message);
        return;
    }
    ring_advance(&link->rx);
    if (message->kind == MESSAGE_ARGS_TAKEN)
        caller_on_args_taken(mesh, peer, message);
    else if (message->kind == MESSAGE_ANSWER_TAKEN)
        serve_on_answer_taken(mesh, peer, message);
    else if (message->kind == MESSAGE_ABANDONED)
        serve_on_abandoned(mesh, peer, message);
    else
        counter_add(&link->stats->dropped, 1);
}

static void drain(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];
    struct peer_control *control = segment_control(&mesh->seg, peer);
    struct message message;
    uint64_t n = 0;

    /* DEAD: what the dead incarnation published is in the ring by now, so it is drained before it
     * is judged. */
    uint32_t incarnation = atomic_load_acquire(&control->incarnation); /* DEAD, in death.c too */
    bool failed = atomic_load_acquire(&control->state) == PEER_FAILED; /* DEAD */

    while (ring_peek(&link->rx, &message)) {
        n++;
        on_message(mesh, peer, &message);
    }
    if (n > link->stats->high_water)
        counter_set(&link->stats->high_water, n);
    bool news = incarnation != link->known_incarnation || (failed && !link->failed);

    link->known_incarnation = incarnation;
    link->failed = failed; /* an operator may have had it restarted since */
    if (news)
        judge_peer(mesh, peer, incarnation, failed);
}

static void show_heap(struct mesh *mesh)
{
    struct part_head *part = mesh->part;

    counter_set(&part->heap_used_bytes, (uint64_t)mesh->heap.n_used * SEGMENT_PAGE);
    counter_set(&part->heap_high_bytes, (uint64_t)mesh->heap.n_high * SEGMENT_PAGE);
    counter_set(&part->heap_waits, mesh->heap.n_waits);
    counter_set(
        &part->heap_quarantined_bytes, (uint64_t)mesh->flights.n_quarantined * SEGMENT_PAGE);
}

static bool mesh_dispatch(void *opaque)
{
    struct mesh *mesh = opaque;
    struct commons_bitmap *bitmap = segment_bitmap(&mesh->seg, mesh->self);
    bool progress = mesh->flights.n_quarantined && flights_look(&mesh->flights);

    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++) {
        if (!atomic_load_relaxed(&bitmap->senders[word])) /* BIT */
            continue;
        uint64_t senders = atomic_xchg_seq(&bitmap->senders[word], 0);
        atomic_full_fence(); /* PUB */
        for (; senders; senders &= senders - 1) {
            uint32_t peer = word * 64 + (uint32_t)__builtin_ctzll(senders);
            if (peer >= mesh->seg.n_peers || peer == mesh->self)
                continue; /* a stray bit in the commons */
            drain(mesh, peer);
            progress = true;
        }
    }
    if (progress)
        show_heap(mesh);
    return progress;
}

/* ---- methods ---- */

const struct service_method *mesh_method(
    const struct mesh *mesh, uint32_t method, uint32_t *ret_service)
{
    return builtin_is(method) ? builtin_method(method)
                              : registry_method(mesh->registry, method, ret_service);
}

/* ---- life ---- */

static int link_init(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];
    const struct segment *seg = &mesh->seg;

    link->stats = segment_pair(seg, mesh->self, peer);
    if (peer == mesh->self)
        return 0;
    link->bell = segment_bell(seg, peer);
    link->bit_word = &segment_bitmap(seg, peer)->senders[mesh->self / 64];
    ring_tx_init(&link->tx, segment_ring(seg, mesh->self, peer),
        segment_tail(seg, mesh->self, peer), segment_head(seg, mesh->self, peer),
        segment_ring_slots(seg, mesh->self, peer));
    ring_rx_init(&link->rx, segment_ring(seg, peer, mesh->self),
        segment_head(seg, peer, mesh->self), segment_ring_slots(seg, peer, mesh->self));
    int r = caller_init(mesh, peer);

    return r < 0 ? r : serve_init(mesh, peer);
}

/* Every ring is looked into, and every peer judged, in the first turn. */
static void raise_all_bits(struct mesh *mesh)
{
    struct commons_bitmap *bitmap = segment_bitmap(&mesh->seg, mesh->self);

    for (uint32_t peer = 0; peer < mesh->seg.n_peers; peer++)
        if (peer != mesh->self)
            atomic_or_seq(&bitmap->senders[peer / 64], UINT64_C(1) << (peer % 64));
}

static struct mesh *mesh_alloc(const struct mesh_config *config)
{
    uint32_t n_peers = config->segment->n_peers;
    struct mesh *mesh = calloc(1, sizeof(*mesh) + n_peers * sizeof(mesh->links[0]));

    if (!mesh)
        return NULL;
    mesh->seg = *config->segment;
    mesh->self = config->peer;
    mesh->incarnation = config->incarnation;
    mesh->ctx = config->ctx;
    mesh->bell_fds = config->bell_fds;
    mesh->registry = config->registry;
    mesh->states = config->states;
    mesh->part = segment_part(&mesh->seg, mesh->self);
    segment_instruments(&mesh->seg, mesh->self, &mesh->instruments);
    mesh->dirty = calloc(n_peers, sizeof(mesh->dirty[0]));
    if (!mesh->dirty) {
        free(mesh);
        return NULL;
    }
    return mesh;
}

static void run_over(void *opaque)
{
    struct mesh *mesh = opaque;

    while (mesh->over.first) {
        struct mesh_call *call = mesh->over.first;
        struct mesh_answer answer = {
            .end = call->end, .status = call->status, .shard = call->target};
        mesh->over.first = call->next;
        if (!call->next)
            mesh->over.last = NULL;
        caller_finish(mesh, call, &answer);
    }
}

int mesh_new(const struct mesh_config *config, struct mesh **ret_mesh)
{
    struct mesh *mesh = mesh_alloc(config);
    int r;

    if (!mesh)
        return -ENOMEM;
    r = heap_init(
        &mesh->heap, segment_heap_off(&mesh->seg, mesh->self), mesh->seg.geometry.heap_bytes);
    for (uint32_t peer = 0; r == 0 && peer < mesh->seg.n_peers; peer++)
        r = link_init(mesh, peer);
    mesh->over_bh = r == 0 ? aio_bh_new(mesh->ctx, run_over, mesh) : NULL;
    if (!mesh->over_bh) {
        mesh_free(mesh);
        return -ENOMEM;
    }
    flights_init(&mesh->flights, &mesh->seg, &mesh->heap, mesh->self, mesh->incarnation);
    show_heap(mesh);
    for (uint32_t peer = 0; peer < mesh->seg.n_peers; peer++) {
        if (peer == mesh->self)
            continue;
        caller_recover(mesh, peer);
        serve_recover(mesh, peer);
    }
    r = mesh->self == segment_gateway(&mesh->seg) ? 0 : lock_end_new(mesh, &mesh->locks);
    if (r < 0) {
        mesh_free(mesh);
        return r;
    }
    raise_all_bits(mesh);
    mesh->source = (struct aio_source){
        .pending = mesh_pending, .dispatch = mesh_dispatch, .flush = mesh_flush, .opaque = mesh};
    aio_add_source(mesh->ctx, &mesh->source);
    *ret_mesh = mesh;
    return 0;
}

void mesh_free(struct mesh *mesh)
{
    if (!mesh)
        return;
    if (mesh->source.dispatch)
        aio_remove_source(mesh->ctx, &mesh->source);
    bh_delete(mesh->over_bh);
    for (uint32_t peer = 0; peer < mesh->seg.n_peers; peer++) {
        caller_deinit(mesh, peer);
        serve_deinit(mesh, peer);
    }
    lock_end_free(mesh->locks);
    heap_deinit(&mesh->heap);
    free(mesh->dirty);
    free(mesh);
}

bool mesh_is_idle(const struct mesh *mesh)
{
    return mesh->n_under_way == 0 && mesh->n_served == 0 && mesh->n_held == 0;
}
