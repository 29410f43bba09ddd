/* SPDX-License-Identifier: MIT */
/*
 * How an instance ends. No process leaves on its own: entry is stopped first (the gateway drains),
 * the others are told to leave only when nothing is in flight anywhere, or the drain has lasted too
 * long; who does not leave then is killed. The dead are replaced as long as there is something to
 * finish.
 *
 *   STARTING → RUNNING → DRAINING → LEAVING → KILLING → GONE
 *
 * Any stage may go on to a later one: a second signal leads to KILLING from wherever it is.
 *
 * What is in flight is read from the segment: calls submitted less calls ended, over all pairs. The
 * words of different pairs are read one after the other, so that a call that ends here while
 * another begins there may be missed; two looks in a row, with nothing submitted in between, are
 * needed.
 *
 * Orderings     first              then             ordered by                  if broken
 *   ENDED  a pair's ends     its calls submitted  acquire here, redo's store   a call that ended between
 *                                                 release (caller.c)           is counted as ended twice
 *   ORDER, DRAIN: see member.c; GLANCE: see hang.c; FAILED: see death.c
 */
#include "shard/supervisor_inside.h"

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "shard/notify.h"

/* How long the gateway may be silent about its clients once no call is in flight: longer than it
 * waits for them to fetch their answers. */
#define SILENCE_LIMIT_NS (UINT64_C(4) * 1000000000)
#define LEAVE_LIMIT_NS   (UINT64_C(5) * 1000000000)
#define DRAIN_LOOK_NS    (UINT64_C(2) * 1000000)

void child_order(const struct child *child, enum peer_order order)
{
    const struct supervisor *s = child->supervisor;
    struct doorbell bell = {
        .words = &segment_bell(&s->segment, child->peer)->words, .fd = s->bell_fds[child->peer]};

    atomic_store_release(
        &segment_control(&s->segment, child->peer)->order, (uint32_t)order); /* ORDER */
    doorbell_knock(&bell);
}

static void enter_draining(struct supervisor *s)
{
    struct child *gateway = &s->children[segment_gateway(&s->segment)];

    supervisor_enter(s, STAGE_DRAINING);
    s->stage_ends_ns = supervisor_now_ns() + s->config.limits->drain_ns;
    s->submitted = NEVER;
    s->busy_ns = supervisor_now_ns();
    supervisor_show_state(s);
    log_line(s->config.log, LOG_LEVEL_NOTICE, "draining: nothing new is taken");
    notify_stopping();
    if (gateway->up)
        atomic_store_release(&segment_control(&s->segment, gateway->peer)->state,
            (uint32_t)PEER_DRAINING); /* FAILED */
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        child_order(&s->children[peer], ORDER_DRAIN);
}

static void enter_leaving(struct supervisor *s)
{
    supervisor_enter(s, STAGE_LEAVING);
    s->stage_ends_ns = supervisor_now_ns() + LEAVE_LIMIT_NS;
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        s->children[peer].due_ns = NEVER;
        child_order(&s->children[peer], ORDER_LEAVE);
    }
}

static void enter_killing(struct supervisor *s)
{
    supervisor_enter(s, STAGE_KILLING);
    s->stage_ends_ns = NEVER;
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        s->children[peer].due_ns = NEVER;
        if (s->children[peer].pid > 0)
            child_kill(&s->children[peer]);
    }
}

void leave_at_start(struct supervisor *s)
{
    s->exit_status = 1;
    if (s->stage < STAGE_LEAVING)
        enter_leaving(s);
}

/* ---- what is in flight ---- */

static uint64_t ended(const struct pair_stats *pair)
{
    uint64_t sum = 0;

    for (unsigned end = 0; end < N_CALL_ENDS; end++)
        sum += atomic_load_acquire(&pair->ends[end]); /* ENDED */
    return sum;
}

static uint64_t pair_under_way(
    const struct supervisor *s, uint32_t from, uint32_t to, uint64_t *ret_submitted)
{
    const struct pair_stats *pair = segment_pair(&s->segment, from, to);
    uint64_t n_ended = ended(pair);

    *ret_submitted = atomic_load_acquire(&pair->calls_submitted); /* ENDED */
    return *ret_submitted - n_ended;
}

uint64_t leave_calls_under_way(const struct supervisor *s, uint32_t from, uint32_t to)
{
    uint64_t submitted;

    return pair_under_way(s, from, to, &submitted);
}

/* Calls, and local clients' requests, that have not ended; what a caller that is given up had open
 * nobody will end. */
static uint64_t calls_in_flight(const struct supervisor *s, uint64_t *ret_submitted)
{
    uint64_t in_flight = 0;

    *ret_submitted = 0;
    for (uint32_t shard = 0; shard < s->segment.geometry.n_shards; shard++) {
        const struct part_head *part = segment_part(&s->segment, shard);
        if (!child_is_failed(&s->children[shard]))
            in_flight += atomic_load_relaxed(&part->requests_in_flight); /* GLANCE */
        *ret_submitted += atomic_load_relaxed(&part->requests_accepted); /* GLANCE */
    }
    for (uint32_t from = 0; from < s->segment.n_peers; from++) {
        for (uint32_t to = 0; to < s->segment.n_peers; to++) {
            uint64_t submitted, under_way = pair_under_way(s, from, to, &submitted);
            *ret_submitted += submitted;
            if (!child_is_failed(&s->children[from]))
                in_flight += under_way;
        }
    }
    return in_flight;
}

static bool gateway_has_drained(const struct supervisor *s)
{
    uint32_t gateway = segment_gateway(&s->segment);

    return child_is_failed(&s->children[gateway]) ||
           atomic_load_acquire(&segment_part(&s->segment, gateway)->drained) != 0; /* DRAIN */
}

static bool calls_are_quiet(struct supervisor *s, uint64_t *ret_in_flight)
{
    uint64_t submitted;
    bool quiet;

    *ret_in_flight = calls_in_flight(s, &submitted);
    quiet = *ret_in_flight == 0 && submitted == s->submitted;
    s->submitted = submitted;
    return quiet;
}

bool leave_is_quiet(struct supervisor *s, uint64_t *ret_in_flight)
{
    return calls_are_quiet(s, ret_in_flight) && gateway_has_drained(s);
}

static void look_at_drain(struct supervisor *s)
{
    uint64_t now_ns = supervisor_now_ns(), in_flight;
    bool quiet = calls_are_quiet(s, &in_flight);

    if (!quiet)
        s->busy_ns = now_ns;
    if (quiet && gateway_has_drained(s)) {
        enter_leaving(s);
    } else if (now_ns - s->busy_ns >= SILENCE_LIMIT_NS) {
        log_line(s->config.log, LOG_LEVEL_WARNING,
            "no call is in flight, but the gateway does not say that it has drained; leaving");
        enter_leaving(s);
    } else if (now_ns >= s->stage_ends_ns) {
        log_line(s->config.log, LOG_LEVEL_WARNING,
            "drain limit of %.1f s reached with %llu calls in flight; leaving all the same",
            (double)s->config.limits->drain_ns / 1e9, (unsigned long long)in_flight);
        enter_leaving(s);
    }
}

/* ---- each turn ---- */

static bool anybody_lives(const struct supervisor *s)
{
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        if (s->children[peer].pid > 0)
            return true;
    return false;
}

static void act_on_signals(struct supervisor *s)
{
    if (s->n_stop_signals >= 2 && s->stage < STAGE_KILLING) {
        log_line(s->config.log, LOG_LEVEL_WARNING, "told to stop again: leaving at once");
        s->exit_status = 1;
        enter_killing(s);
    } else if (s->n_stop_signals == 1 && s->stage < STAGE_DRAINING) {
        enter_draining(s);
    }
}

void leave_turn(struct supervisor *s)
{
    act_on_signals(s);
    if (s->stage == STAGE_DRAINING)
        look_at_drain(s);
    if (s->stage >= STAGE_LEAVING && !anybody_lives(s)) {
        supervisor_enter(s, STAGE_GONE);
    } else if (s->stage == STAGE_LEAVING && supervisor_now_ns() >= s->stage_ends_ns) {
        log_line(s->config.log, LOG_LEVEL_WARNING, "some did not leave within %u s: killed",
            (unsigned)(LEAVE_LIMIT_NS / 1000000000));
        enter_killing(s);
    }
}

uint64_t leave_next_look_ns(const struct supervisor *s)
{
    return s->stage == STAGE_DRAINING ? supervisor_now_ns() + DRAIN_LOOK_NS : s->stage_ends_ns;
}
