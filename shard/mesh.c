/* SPDX-License-Identifier: MIT */
/*
 * Each turn of the loop the mesh takes its bitmap of senders, empties the urgent ring of each that
 * had its bit set, then takes at most NORMAL_A_TURN messages from the normal ring of each, and no
 * more once these have taken SLICE_NS, looking in between whether something urgent has come. A
 * sender whose ring was not emptied is noted in to_look, which counts as pending, so that nobody
 * sleeps on it. Once both rings of a sender were found empty and its incarnation has changed, what
 * its death means is judged (judge.c). What the turn pushes is rung once for each target by
 * flush().
 *
 * Of the last few senders the rings are looked into in every turn, and those need not set their
 * bits (hot.c); so between two ends that are awake a message costs one cache line.
 *
 * The bitmap is itself what a sleeper looks at between raising notify_me and its wait, so a ring is
 * a nudge of the doorbell: no notification is left behind, and the sender touches one line.
 *
 * Orderings    first               then           ordered by                  if broken
 *   PUB      message in slot     bit            fence in mesh_flush(); xchg  bit is cleared, ring looks
 *                                               and fence in take_senders()  empty: sleeps on a message
 *   BIT      bit set             notify_me      fence in ring_peer(), fence  both miss: the receiver
 *                                               of doorbell_prepare_sleep()  sleeps on a message
 *   DEAD     incarnation raised  bit set        supervisor's release, our    judged before the last of the
 *                                               acquire before the drain     dead one's answers was seen
 */
#include "shard/mesh.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/context.h"
#include "runtime/doorbell.h"
#include "shard/builtin.h"
#include "shard/client_end.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "shard/portable_inside.h"

#define NORMAL_A_TURN 64               /* messages of one sender */
#define SLICE_NS      INT64_C(1000000) /* that they may take, where there are more */

/* ---- sending ---- */

/* The lane of the slot that a message to or from peer speaks of: ours, or one of its. */
static enum mesh_lane lane_of(const struct link *link, const struct message *message, bool to_peer)
{
    bool of_caller = message->kind == MESSAGE_CALL || message->kind == MESSAGE_ANSWER_TAKEN ||
                     message->kind == MESSAGE_ABANDONED;

    return segment_slot_lane(of_caller == to_peer ? link->n_out : link->n_in, message->slot);
}

/* Field by field, as the caller has stored them a moment ago: a load of several of these at once
 * has to wait until they have left the core. */
static void write_message(struct message *to, const struct message *from, const AioContext *ctx)
{
    to->kind = from->kind;
    to->end = from->end;
    to->depth = from->depth;
    to->spare = 0;
    to->slot = from->slot;
    to->generation = from->generation;
    to->sent = (uint32_t)(context_coarse_ns(ctx) >> MESSAGE_SENT_SHIFT);
    to->withdrawals = from->withdrawals;
    to->status = from->status;
    to->method = from->method;
    to->len = from->len;
    to->path = from->path;
    to->off = from->off;
    to->deadline_ns = from->deadline_ns;
}

bool mesh_push(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct link *link = &mesh->links[peer];
    enum mesh_lane lane = lane_of(link, message, true);
    struct message *room = ring_room(&link->tx[lane]);

    /* There is room for all that can be under way (regions.c), so a full ring means that the peer's
     * head is not to be trusted. The message is lost to that peer alone, and counted. */
    if (!room) {
        counter_add(&link->stats->dropped, 1);
        return false;
    }
    write_message(room, message, mesh->ctx);
    ring_publish(&link->tx[lane]);
    counter_add(&link->stats->pushed[lane], 1);
    if (!link->dirty) {
        link->dirty = true;
        mesh->dirty[mesh->n_dirty++] = peer;
    }
    return true;
}

int64_t mesh_waits_ns(struct mesh *mesh, uint32_t peer, enum mesh_lane lane)
{
    struct message oldest;
    uint32_t now = (uint32_t)((uint64_t)aio_clock_ns() >> MESSAGE_SENT_SHIFT);
    int32_t waited;

    if (!ring_tx_peek_at(&mesh->links[peer].tx[lane], 0, &oldest))
        return 0;
    waited = (int32_t)(now - oldest.sent);
    return waited > 0 ? (int64_t)waited << MESSAGE_SENT_SHIFT : 0;
}

/*
 * A bit that is still set was set by an earlier flush, which rang too, or by the supervisor, which
 * may not have got as far: so notify_me is looked at either way.
 */
static void ring_peer(struct mesh *mesh, uint32_t peer)
{
    const struct link *link = &mesh->links[peer];
    struct doorbell bell = {&link->bell->words, mesh->bell_fds[peer]};
    struct pair_stats *stats = link->stats;
    uint64_t *senders = &link->bell->bitmap.senders[mesh->self / 64];
    uint64_t bit = UINT64_C(1) << (mesh->self % 64);

    if (!hot_heeds(link->hot, mesh->self) &&     /* HOT in hot.c */
        !(atomic_load_relaxed(senders) & bit)) { /* PUB */
        atomic_or_seq(senders, bit);             /* BIT */
        atomic_full_fence();                     /* BIT */
    }
    if (doorbell_nudge_home(&bell)) /* BIT */
        counter_add(&stats->rings_sent, 1);
    else
        counter_add(&stats->rings_saved, 1);
}

static void mesh_flush(void *opaque)
{
    struct mesh *mesh = opaque;

    if (!mesh->n_dirty)
        return;
    atomic_full_fence(); /* PUB, HOT: the messages, before a look whether their bit is needed */
    for (uint32_t i = 0; i < mesh->n_dirty; i++) {
        mesh->links[mesh->dirty[i]].dirty = false;
        ring_peer(mesh, mesh->dirty[i]);
    }
    mesh->n_dirty = 0;
}

/* ---- receiving ---- */

/* Reads one line of shared memory, one of our own, and one a ring of the few peers that are hot. */
static bool mesh_pending(void *opaque)
{
    const struct mesh *mesh = opaque;
    const uint64_t *senders = mesh->bell->bitmap.senders, *to_look = mesh->to_look;

    static_assert(SEGMENT_BITMAP_WORDS == 4, "all of them are looked at");
    uint64_t any = atomic_load_relaxed(&senders[0]) | atomic_load_relaxed(&senders[1]) | /* BIT */
                   atomic_load_relaxed(&senders[2]) | atomic_load_relaxed(&senders[3]) | /* BIT */
                   to_look[0] | to_look[1] | to_look[2] | to_look[3];
    return any != 0 || hot_has_work(&mesh->hot) || (mesh->n_watched && client_end_is_told(mesh));
}

static void on_message(
    struct mesh *mesh, uint32_t peer, struct ring_rx *rx, const struct message *message)
{
    if (message->kind == MESSAGE_ANSWER) {
        caller_on_answer(mesh, peer, rx, message);
        return;
    }
    ring_advance(rx);
    if (message->kind == MESSAGE_ARGS_TAKEN)
        caller_on_args_taken(mesh, peer, message);
    else if (message->kind == MESSAGE_ANSWER_TAKEN)
        serve_on_answer_taken(mesh, peer, message);
    else if (message->kind == MESSAGE_ABANDONED)
        serve_on_abandoned(mesh, peer, message);
    else
        counter_add(&mesh->links[peer].stats->dropped, 1);
}

/* The slot that a message speaks of, on its way to this core while those before it are handled. */
static void prefetch_slot(const struct link *link, const struct message *message)
{
    if (message->kind == MESSAGE_CALL && message->slot < link->n_in && message->len &&
        !message->off)
        __builtin_prefetch(link->peer_calls[message->slot].inline_args);
    else if (message->kind == MESSAGE_ANSWER && message->slot < link->n_out)
        atomic_prefetch_write(&link->calls[message->slot].word);
}

/* Copies what is at the head of a ring: at most n, at least one where there is one. */
static uint32_t look_ahead(
    const struct link *link, const struct ring_rx *rx, struct message *messages, uint64_t most)
{
    uint32_t n = 0;

    while (n < SERVE_BATCH && n < most && ring_peek_at(rx, n, &messages[n])) {
        prefetch_slot(link, &messages[n]);
        n++;
    }
    return n;
}

/* Of the n at the head of rx, handles the first, or as many calls as come first. Returns how many
 * it took. */
static uint32_t take_first(struct mesh *mesh, uint32_t peer, struct ring_rx *rx,
    const struct message *messages, uint32_t n)
{
    uint32_t n_calls = 0;

    while (n_calls < n && messages[n_calls].kind == MESSAGE_CALL)
        n_calls++;
    if (n_calls > 0)
        return serve_on_calls(mesh, peer, rx, messages, n_calls);
    on_message(mesh, peer, rx, &messages[0]);
    return 1;
}

/* The most that were found in a ring: what was taken, and what is left in it. */
static void note_high_water(
    struct mesh *mesh, uint32_t peer, enum mesh_lane lane, uint64_t n_taken, bool more)
{
    uint64_t *high_water = &mesh->links[peer].stats->high_water[lane];
    uint64_t left = more ? ring_depth(segment_tail(&mesh->seg, peer, mesh->self, lane),
                               segment_head(&mesh->seg, peer, mesh->self, lane),
                               segment_ring_slots(&mesh->seg, peer, mesh->self, lane))
                         : 0;

    if (n_taken + left > *high_water)
        counter_set(high_water, n_taken + left);
}

/* Takes what was looked at ahead: at most n. An answer's done() may turn the loop, and so empty the
 * ring further than we know: it holds as long as the ring stands where we left it. */
static uint32_t take_ahead(struct mesh *mesh, uint32_t peer, enum mesh_lane lane,
    const struct message *messages, uint32_t n)
{
    struct link *link = &mesh->links[peer];
    struct ring_rx *rx = &link->rx[lane];
    uint64_t begin = rx->next;
    uint32_t i = 0;

    while (i < n && rx->next == begin + i) {
        uint32_t n_first = take_first(mesh, peer, rx, &messages[i], n - i);
        counter_add(&link->stats->popped[lane], n_first);
        i += n_first;
    }
    return i;
}

/* All there is. */
static void drain_lane(struct mesh *mesh, uint32_t peer, enum mesh_lane lane)
{
    struct link *link = &mesh->links[peer];
    struct message messages[SERVE_BATCH];
    uint64_t n_taken = 0;
    uint32_t n;

    while ((n = look_ahead(link, &link->rx[lane], messages, UINT64_MAX)) > 0)
        n_taken += take_ahead(mesh, peer, lane, messages, n);
    if (n_taken > 0)
        note_high_water(mesh, peer, lane, n_taken, false);
}

/*
 * A turn of its normal ring: false where there may be more. The clock is read only where more than
 * one message was found, and once a batch. After a turn in which a batch would have taken a slice
 * (is_slow) each message is a batch of its own.
 */
static bool drain_a_turn(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];
    const struct ring_rx *rx = &link->rx[LANE_NORMAL];
    struct message messages[SERVE_BATCH];
    uint64_t n_taken = 0, n_timed = 0;
    int64_t begin_ns = 0, spent_ns = 0;
    bool more;
    uint32_t n;

    while (n_taken < NORMAL_A_TURN && spent_ns < SLICE_NS &&
           (n = look_ahead(link, rx, messages, link->is_slow ? 1 : NORMAL_A_TURN - n_taken)) > 0) {
        if (!begin_ns && (n > 1 || n_taken > 0 || link->is_slow))
            begin_ns = aio_clock_ns();
        n = take_ahead(mesh, peer, LANE_NORMAL, messages, n);
        n_taken += n;
        if (begin_ns) {
            n_timed += n;
            spent_ns = aio_clock_ns() - begin_ns;
        }
    }
    more = n_taken >= NORMAL_A_TURN || spent_ns >= SLICE_NS;
    if (n_timed > 0)
        link->is_slow = spent_ns >= SLICE_NS / SERVE_BATCH * (int64_t)n_timed;
    if (n_taken > 0)
        note_high_water(mesh, peer, LANE_NORMAL, n_taken, more);
    return !more;
}

static void drain_urgent(struct mesh *mesh, uint32_t peer)
{
    drain_lane(mesh, peer, LANE_URGENT);
}

void mesh_drain(struct mesh *mesh, uint32_t peer)
{
    drain_urgent(mesh, peer);
    drain_lane(mesh, peer, LANE_NORMAL);
}

/* What a predecessor may have left to be done, once what it had not read is read. */
static void meet(struct mesh *mesh, uint32_t peer)
{
    mesh->links[peer].met = true;
    if (mesh->incarnation > 1)
        serve_what_was_lost(mesh, peer);
    caller_tell_what_is_abandoned(mesh, peer);
}

/* False where its normal ring may hold more. */
static bool drain(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];
    struct peer_control *control = segment_control(&mesh->seg, peer);

    /* DEAD: what the dead incarnation published is in the rings by now, so both are drained to
     * their ends before it is judged. */
    uint32_t incarnation = atomic_load_acquire(&control->incarnation); /* DEAD, in death.c too */
    bool failed = atomic_load_acquire(&control->state) == PEER_FAILED; /* DEAD */

    drain_urgent(mesh, peer);
    if (!drain_a_turn(mesh, peer))
        return false;
    if (!link->met)
        meet(mesh, peer);
    bool news = incarnation != link->known_incarnation || (failed && !link->failed);

    link->known_incarnation = incarnation;
    link->failed = failed; /* an operator may have had it restarted since */
    if (news)
        judge_peer(mesh, peer, incarnation, failed);
    return true;
}

typedef void visit_fn(struct mesh *mesh, uint32_t peer);

static void for_each_bit(struct mesh *mesh, const uint64_t *bits, visit_fn *visit)
{
    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        for (uint64_t left = bits[word]; left; left &= left - 1)
            visit(mesh, word * 64 + (uint32_t)__builtin_ctzll(left));
}

/* The bits of a word that are other peers': all else in the commons is stray. */
static uint64_t peers_mask(const struct mesh *mesh, uint32_t word)
{
    uint32_t n = mesh->seg.n_peers, first = word * 64;
    uint64_t mask = n <= first        ? 0
                    : n - first >= 64 ? UINT64_MAX
                                      : (UINT64_C(1) << (n - first)) - 1;

    return mesh->self / 64 == word ? mask & ~(UINT64_C(1) << (mesh->self % 64)) : mask;
}

static void note_hot(struct mesh *mesh, uint32_t peer)
{
    const struct ring_rx *rx = mesh->links[peer].rx;

    if (ring_has(&rx[LANE_NORMAL]) || ring_has(&rx[LANE_URGENT]))
        hot_add(&mesh->hot, peer, rx);
}

/* Moves the senders' bits, and those of the hot ones that have something, to to_look, and takes
 * what is urgent of those senders. */
static void take_senders(struct mesh *mesh)
{
    uint64_t *shared = mesh->bell->bitmap.senders;
    uint64_t taken[SEGMENT_BITMAP_WORDS] = {0}, any = 0;

    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++) {
        if (!atomic_load_relaxed(&shared[word])) /* BIT */
            continue;
        taken[word] = atomic_xchg_seq(&shared[word], 0); /* PUB */
        taken[word] &= peers_mask(mesh, word);
        any |= taken[word];
    }
    if (any) {
        atomic_full_fence(); /* PUB */
        for_each_bit(mesh, taken, note_hot);
    }
    hot_collect(&mesh->hot, taken);
    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        mesh->to_look[word] |= taken[word];
    for_each_bit(mesh, taken, drain_urgent);
}

static void take_turn(struct mesh *mesh, uint32_t peer)
{
    uint64_t *word = &mesh->to_look[peer / 64], bit = UINT64_C(1) << (peer % 64);

    *word &= ~bit;
    if (!drain(mesh, peer))
        *word |= bit;
    take_senders(mesh);
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

/* Apart from mesh_dispatch(), which so saves no registers in a turn without work. */
__attribute__((noinline)) static bool do_turn(struct mesh *mesh)
{
    bool progress = false;
    uint64_t turn[SEGMENT_BITMAP_WORDS];

    if (mesh_pending(mesh)) {
        take_senders(mesh);
        /* Each has one turn: whoever has more, or comes meanwhile, has another when the loop comes
         * round. Methods and done() may turn the loop in a turn of theirs; then these bits are
         * stale, and the rings empty. */
        memcpy(turn, mesh->to_look, sizeof(turn));
        for_each_bit(mesh, turn, take_turn);
        progress = true;
    }
    /* After the bits, one of which the supervisor sets once something is quiet. */
    if (mesh->flights.n_quarantined && flights_look(&mesh->flights))
        progress = true;
    if (progress)
        show_heap(mesh);
    return progress;
}

static bool mesh_dispatch(void *opaque)
{
    struct mesh *mesh = opaque;

    if (mesh->n_watched && client_end_is_told(mesh))
        client_end_look(mesh);
    hot_tidy(&mesh->hot, mesh->to_look);
    return (mesh_pending(mesh) || mesh->flights.n_quarantined) && do_turn(mesh);
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
    link->hot = segment_hot(seg, peer);
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++) {
        ring_tx_init(&link->tx[lane], segment_ring(seg, mesh->self, peer, lane),
            segment_tail(seg, mesh->self, peer, lane), segment_head(seg, mesh->self, peer, lane),
            segment_ring_slots(seg, mesh->self, peer, lane));
        ring_rx_init(&link->rx[lane], segment_ring(seg, peer, mesh->self, lane),
            segment_head(seg, peer, mesh->self, lane),
            segment_ring_slots(seg, peer, mesh->self, lane));
    }
    int r = caller_init(mesh, peer);

    return r < 0 ? r : serve_init(mesh, peer);
}

/* Every ring is looked into, and every peer judged, in the first turn. */
static void raise_all_bits(struct mesh *mesh)
{
    struct commons_bitmap *bitmap = segment_bitmap(&mesh->seg, mesh->self);

    for (uint32_t peer = 0; peer < mesh->seg.n_peers; peer++)
        if (peer != mesh->self)
            atomic_or_seq(&bitmap->senders[peer / 64], UINT64_C(1) << (peer % 64)); /* BIT */
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
    mesh->letters_dir = config->letters_dir;
    mesh->adopt = config->adopt;
    mesh->adopt_opaque = config->adopt_opaque;
    mesh->part = segment_part(&mesh->seg, mesh->self);
    mesh->bell = segment_bell(&mesh->seg, mesh->self);
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
    r = heap_init(&mesh->heap, mesh->ctx, segment_heap_off(&mesh->seg, mesh->self),
        mesh->seg.geometry.heap_bytes, mesh->seg.n_peers);
    if (r == 0)
        r = pace_init(&mesh->pace, mesh->registry ? registry_n_methods(mesh->registry) : 0);
    if (r == 0)
        r = code_ranges_init(&mesh->code, mesh->registry);
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
    if (r == 0 && mesh->self != segment_gateway(&mesh->seg))
        r = portable_end_new(mesh, &mesh->portables);
    if (r == 0 && config->scan.mode != SCAN_OFF)
        r = private_scan_new(&config->scan, &mesh->seg, &mesh->scan);
    if (r < 0) {
        mesh_free(mesh);
        return r;
    }
    mesh->stays = config->no_rebalance;
    hot_init(&mesh->hot, segment_hot(&mesh->seg, mesh->self));
    raise_all_bits(mesh); /* HOT: in the first turn */
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
    portable_end_free(mesh->portables);
    private_scan_free(mesh->scan);
    lock_end_free(mesh->locks);
    heap_deinit(&mesh->heap);
    pace_deinit(&mesh->pace);
    code_ranges_deinit(&mesh->code);
    client_end_forget(mesh);
    free(mesh->dirty);
    free(mesh);
}

void mesh_set_homes(struct mesh *mesh, struct service_home *homes)
{
    mesh->homes = homes;
}

bool mesh_is_idle(const struct mesh *mesh)
{
    return mesh->n_under_way == 0 && mesh->n_served == 0 && mesh->n_held == 0 &&
           portable_n_here(mesh) == 0;
}
