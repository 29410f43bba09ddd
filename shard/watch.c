/* SPDX-License-Identifier: MIT */
/*
 * The backstop of the wake-up protocol. Twice a second the supervisor looks whether somebody sleeps
 * though something waits for it and nobody has rung: a bit is set in its bitmap, or a ring to it is
 * not empty; its part says that it is asleep; its eventfd is not readable; and it has not taken a
 * turn since the last look. Found so twice, its wake-up was lost, within the last second; its bits
 * are set, it is knocked at, and counted. The protocol (runtime/doorbell.h) does not lose any, so
 * the count is 0 unless something else has written to the commons, of which none but the bitmap is
 * believed here.
 *
 * A stopped or starved process that was rung has a readable eventfd, and is left alone. A sender
 * rings at the end of its turn: what it has pushed in a turn that lasts does not count, for it may
 * be in a method that takes its time, starved, or stopped. It has ended that turn where it sleeps,
 * or has begun the second one since the last look (a heartbeat is counted between the turns, and
 * what was pushed there is rung for in the turn that follows).
 *
 * Who sends on n rings, in two lanes, costs n looks; so its rings are looked at only where it has
 * run since they were all found empty. An idle instance costs a few loads a process.
 *
 * Orderings    first     then     ordered by                 if broken
 *   GLANCE     nothing   nothing  nothing: two looks, half   a knock too many, which is harmless
 *                                 a second apart, must agree
 *   FOUND      bit      eventfd  the bit's full barrier,    it wakes, sees no bit and sleeps on
 *                                write() and wait
 */
#include "shard/supervisor_inside.h"

#include <poll.h>
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "shard/bits.h"

#define WATCH_NS (UINT64_C(500) * 1000 * 1000)

struct waiting {
    uint64_t senders[SEGMENT_MAX_PEERS][SEGMENT_BITMAP_WORDS]; /* whose rings are not empty */
    uint64_t in_turn[SEGMENT_BITMAP_WORDS]; /* senders that may not have come to ring yet */
};

static bool ring_is_empty(const struct segment *seg, uint32_t from, uint32_t to)
{
    for (unsigned lane = 0; lane < N_LANES; lane++)
        if (atomic_load_relaxed(segment_tail(seg, from, to, lane)) != /* GLANCE */
            atomic_load_relaxed(segment_head(seg, from, to, lane)))   /* GLANCE */
            return false;
    return true;
}

static void look_into_rings(struct child *from, struct waiting *waiting)
{
    const struct supervisor *s = from->supervisor;
    uint64_t progress = hang_progress(s, from->peer); /* before its tails */

    if (from->rings_empty && from->rings_progress == progress)
        return;
    from->rings_empty = true;
    from->rings_progress = progress;
    for (uint32_t to = 0; to < s->segment.n_peers; to++) {
        if (to == from->peer || ring_is_empty(&s->segment, from->peer, to))
            continue;
        bits_set(waiting->senders[to], from->peer);
        from->rings_empty = false;
    }
}

/* After its tails: what a process that sleeps by now has pushed before, it has rung for. */
static bool is_in_turn(const struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;
    uint64_t heartbeat =
        atomic_load_relaxed(&segment_part(seg, child->peer)->heartbeat); /* GLANCE */

    return child->up && heartbeat - child->heartbeat < 2 &&
           !atomic_load_relaxed(&segment_counters(seg, child->peer)->asleep); /* GLANCE */
}

static bool has_senders(const struct supervisor *s, uint32_t peer, const struct waiting *waiting)
{
    const struct commons_bitmap *bitmap = segment_bitmap(&s->segment, peer);
    uint64_t any = 0;

    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        any |= (atomic_load_relaxed(&bitmap->senders[word]) | /* GLANCE */
                   waiting->senders[peer][word]) &
               ~waiting->in_turn[word];
    return any != 0;
}

bool watch_is_rung(const struct child *child)
{
    struct pollfd fd = {.fd = child->supervisor->bell_fds[child->peer], .events = POLLIN};

    return poll(&fd, 1, 0) != 0;
}

static bool oversleeps(const struct child *child, const struct waiting *waiting)
{
    const struct supervisor *s = child->supervisor;
    const struct aio_counters *counters = segment_counters(&s->segment, child->peer);

    return child->up && atomic_load_relaxed(&counters->asleep) && /* GLANCE */
           has_senders(s, child->peer, waiting) && !watch_is_rung(child);
}

static void knock(struct child *child, const struct waiting *waiting)
{
    struct supervisor *s = child->supervisor;
    struct supervisor_head *head = segment_supervisor(&s->segment);
    struct commons_bitmap *bitmap = segment_bitmap(&s->segment, child->peer);

    show(&head->knocks, head->knocks + 1);
    log_line(s->config.log, LOG_LEVEL_ERROR,
        "%s slept for half a second with messages waiting, and was knocked at: the shared memory "
        "was damaged, or this is a bug",
        child->process);
    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        if (waiting->senders[child->peer][word])
            atomic_or_seq(&bitmap->senders[word], waiting->senders[child->peer][word]); /* FOUND */
    doorbell_knock(&(struct doorbell){
        .words = &segment_bell(&s->segment, child->peer)->words, .fd = s->bell_fds[child->peer]});
}

static void look_at(struct child *child, const struct waiting *waiting)
{
    const struct segment *seg = &child->supervisor->segment;
    uint64_t heartbeat =
        atomic_load_relaxed(&segment_part(seg, child->peer)->heartbeat); /* GLANCE */
    bool again = child->overslept && heartbeat == child->heartbeat;

    child->overslept = oversleeps(child, waiting);
    child->heartbeat = heartbeat;
    if (!again || !child->overslept)
        return;
    child->overslept = false;
    knock(child, waiting);
}

void watch_turn(struct supervisor *s, uint64_t now_ns)
{
    struct waiting waiting;

    if (now_ns < s->watch_ns)
        return;
    s->watch_ns = (now_ns / WATCH_NS + 1) * WATCH_NS; /* at whole seconds, with others' looks */
    memset(&waiting, 0, sizeof waiting);
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        look_into_rings(&s->children[peer], &waiting);
        waiting.in_turn[peer / 64] |= (uint64_t)is_in_turn(&s->children[peer]) << peer % 64;
    }
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        look_at(&s->children[peer], &waiting);
}
