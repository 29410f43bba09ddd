/* SPDX-License-Identifier: MIT */
/*
 * The backstop of the wake-up protocol. Once a second the supervisor looks whether somebody sleeps
 * though messages wait for it and nobody has rung: its bitmap is not empty, its notify_me is
 * raised, its eventfd is not readable, and it has not taken a turn since the last look. Found so
 * twice, its wake-up was lost; it is knocked at, and counted. The protocol (runtime/doorbell.h)
 * does not lose any, so the count is 0 unless something else has written to the commons.
 *
 * A stopped or starved process that was rung has a readable eventfd, and is left alone.
 *
 * Orderings    first     then     ordered by                 if broken
 *   GLANCE     nothing   nothing  nothing: two looks, a      a knock too many, which is harmless
 *                                 second apart, must agree
 */
#include "shard/supervisor_inside.h"

#include <poll.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"

#define LOOK_EVERY_NS (UINT64_C(1000) * 1000 * 1000)

static bool has_senders(const struct commons_bitmap *bitmap)
{
    uint64_t any = 0;

    for (uint32_t word = 0; word < SEGMENT_BITMAP_WORDS; word++)
        any |= atomic_load_relaxed(&bitmap->senders[word]); /* GLANCE */
    return any != 0;
}

static bool is_rung(int bell_fd)
{
    struct pollfd fd = {.fd = bell_fd, .events = POLLIN};

    return poll(&fd, 1, 0) != 0;
}

static bool oversleeps(const struct child *child)
{
    const struct supervisor *s = child->supervisor;
    const struct doorbell_words *words = &segment_bell(&s->segment, child->peer)->words;

    return child->up && has_senders(segment_bitmap(&s->segment, child->peer)) &&
           atomic_load_relaxed(&words->notify_me) && /* GLANCE */
           !is_rung(s->bell_fds[child->peer]);
}

static void look_at(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct supervisor_head *head = segment_supervisor(&s->segment);
    uint64_t heartbeat =
        atomic_load_relaxed(&segment_part(&s->segment, child->peer)->heartbeat); /* GLANCE */
    bool again = child->overslept && heartbeat == child->heartbeat;

    child->overslept = oversleeps(child);
    child->heartbeat = heartbeat;
    if (!again || !child->overslept)
        return;
    child->overslept = false;
    show(&head->knocks, head->knocks + 1);
    log_line(s->config.log, LOG_LEVEL_ERROR,
        "%s slept for a second with messages waiting, and was knocked at: the shared memory was "
        "damaged, or this is a bug",
        child->process);
    doorbell_knock(&(struct doorbell){
        .words = &segment_bell(&s->segment, child->peer)->words, .fd = s->bell_fds[child->peer]});
}

void watch_turn(struct supervisor *s, uint64_t now_ns)
{
    if (now_ns < s->watch_ns)
        return;
    s->watch_ns = now_ns + LOOK_EVERY_NS;
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        look_at(&s->children[peer]);
}
