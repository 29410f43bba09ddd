/* SPDX-License-Identifier: MIT */
/*
 * Orders of an operator come as a signal with a value (shard/order.h), one is carried out at a
 * time, and what becomes of each stands in the supervisor's head, where the tool looks.
 *
 * A restart goes from one process to the next, each of which has the limit for itself:
 *
 *   SETTLE → RETURN → CUT → KILL → COME → the next, or the end
 *
 * SETTLE waits until the process is up, or given up, in which case it is forked again with its
 * crashes forgotten. RETURN has told it to leave when it has finished; its callers keep new calls
 * in line (caller.c), so that it does. Whoever has not finished by the limit leaves all the same
 * (CUT), or is killed (KILL): what it served then is judged as of a death. COME waits for the
 * replacement. A process that dies by itself meanwhile is replaced like any other, and counts as
 * restarted.
 *
 * A client of the gateway's may have asked for a drain (member_ask()); whether it may is the
 * gateway's to know. It has no other order, and no more than ten a second, whatever it writes.
 *
 * A gateway refuses what is new while it finishes; it has clients of its own, who may come again.
 *
 * Orderings  first               then        ordered by                 if broken
 *   NOTED    the rest of a note  its state   store release, acquire in  the tool reads another
 *                                            tools/order.c              order's figures
 *   ASK      what made it ask    part.asked  store release, this        an order is given
 *                                            acquire                    that nobody may
 *   FOLLOW: see member.c; FAILED: see death.c
 */
#include "shard/supervisor_inside.h"

#include <string.h>

#include "runtime/atomic.h"
#include "shard/notify.h"

#define LOOK_NS (UINT64_C(2) * 1000 * 1000)
#define CUT_NS  (UINT64_C(1) * 1000 * 1000 * 1000) /* to leave at once in */
#define ASK_NS  (UINT64_C(100) * 1000 * 1000)
#define COME_NS (UINT64_C(30) * 1000 * 1000 * 1000)

/* ---- notes ---- */

static struct order_note *write_note(struct supervisor *s, uint64_t word, enum order_state state)
{
    uint64_t n = s->operation.n_orders++;
    struct order_note *note = &segment_supervisor(&s->segment)->orders[n % SEGMENT_ORDER_NOTES];

    atomic_store_relaxed(
        &note->state, ORDER_STATE_NONE);     /* NOTED: nobody takes it for its predecessor */
    atomic_store_release(&note->word, word); /* NOTED */
    show(&note->peer, s->segment.n_peers);
    show(&note->n_cut, 0);
    show(&note->n_orders, n + 1);
    atomic_store_release(&note->state, (uint32_t)state); /* NOTED */
    return note;
}

static void end(struct supervisor *s, enum order_state state)
{
    struct operation *o = &s->operation;

    log_line(s->config.log, state == ORDER_DONE ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING,
        "%s by order: %s", order_kind_text(o->order.kind), order_state_text(state));
    if (o->renews)
        log_line(s->config.log, state <= ORDER_CUT ? LOG_LEVEL_NOTICE : LOG_LEVEL_ERROR,
            state <= ORDER_CUT ? "all shards have the new settings"
                               : "not all shards have the new settings");
    show(&o->note->n_cut, o->n_cut);
    atomic_store_release(&o->note->state, (uint32_t)state); /* NOTED */
    o->order.kind = ORDER_KIND_NONE;
    o->renews = false;
}

static uint64_t limit_ns(const struct supervisor *s)
{
    uint32_t ms = s->operation.order.limit_ms;

    return ms ? (uint64_t)ms * 1000000 : s->config.limits->drain_ns;
}

/* ---- restart ---- */

/* Calls to and from it that have not ended. */
static uint64_t calls_around(const struct supervisor *s, uint32_t peer)
{
    uint64_t n = 0;

    for (uint32_t other = 0; other < s->segment.n_peers; other++)
        n += leave_calls_under_way(s, other, peer) + leave_calls_under_way(s, peer, other);
    return n;
}

static void begin_process(struct supervisor *s, uint32_t peer)
{
    struct operation *o = &s->operation;

    o->at = peer;
    o->step = STEP_SETTLE;
    o->step_ends_ns = supervisor_now_ns() + COME_NS;
    show(&o->note->peer, peer);
}

/* One that was given up lives again: its peers must no longer take it for gone. */
static void revive(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct operation *o = &s->operation;

    log_line(s->config.log, LOG_LEVEL_NOTICE, "%s was given up, and is started again by order",
        child->process);
    registry_set_listening(s->config.registry, child->peer, true);
    child->restart = (struct restart){0};
    child->due_ns = supervisor_now_ns();
    o->step = STEP_COME;
    o->step_ends_ns = supervisor_now_ns() + COME_NS;
}

static void ask_to_return(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct operation *o = &s->operation;
    bool is_gateway = child->peer == segment_gateway(&s->segment);

    o->incarnation = segment_control(&s->segment, child->peer)->incarnation;
    o->step = STEP_RETURN;
    o->step_ends_ns = supervisor_now_ns() + limit_ns(s);
    child->returns = true;
    atomic_store_release(&segment_control(&s->segment, child->peer)->state,
        (uint32_t)(is_gateway ? PEER_DRAINING : PEER_RESTARTING)); /* FAILED */
    child_order(child, is_gateway ? ORDER_DRAIN : ORDER_RETURN);
}

static void settle(struct child *child)
{
    struct supervisor *s = child->supervisor;

    if (child_is_failed(child))
        revive(child);
    else if (child->up)
        ask_to_return(child);
    else if (supervisor_now_ns() >= s->operation.step_ends_ns)
        end(s, ORDER_FAILED);
}

/* The limit has come: whatever it still serves is cut off. */
static void cut(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct operation *o = &s->operation;
    uint64_t n = calls_around(s, child->peer);

    o->n_cut += n;
    o->was_cut = true;
    o->step = STEP_CUT;
    o->step_ends_ns = supervisor_now_ns() + CUT_NS;
    log_line(s->config.log, LOG_LEVEL_WARNING,
        "%s did not finish within %.1f s: restarted with %llu calls in flight", child->process,
        (double)limit_ns(s) / 1e9, (unsigned long long)n);
    child_order(child, ORDER_LEAVE);
}

/* It was told to go, and is there still. */
static void press(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct operation *o = &s->operation;
    bool is_gateway = child->peer == segment_gateway(&s->segment);

    if (o->step == STEP_RETURN && is_gateway &&
        atomic_load_acquire(&segment_part(&s->segment, child->peer)->drained)) /* DRAIN */
        child_order(child, ORDER_LEAVE);
    if (supervisor_now_ns() < o->step_ends_ns)
        return;
    if (o->step == STEP_RETURN) {
        cut(child);
    } else if (o->step == STEP_CUT) {
        o->step = STEP_KILL;
        o->step_ends_ns = NEVER;
        child_kill(child);
    }
}

static bool has_gone(const struct child *child)
{
    const struct supervisor *s = child->supervisor;

    return segment_control(&s->segment, child->peer)->incarnation != s->operation.incarnation;
}

static void next_process(struct supervisor *s)
{
    struct operation *o = &s->operation;

    if (o->order.target == ORDER_ALL_SHARDS && o->at + 1 < s->segment.geometry.n_shards)
        begin_process(s, o->at + 1);
    else
        end(s, o->was_cut ? ORDER_CUT : ORDER_DONE);
}

static void turn_restart(struct supervisor *s)
{
    struct operation *o = &s->operation;
    struct child *child = &s->children[o->at];

    if (s->stage != STAGE_RUNNING) {
        end(s, ORDER_LEAVING);
    } else if (o->step == STEP_SETTLE) {
        settle(child);
    } else if (o->step != STEP_COME && !has_gone(child)) {
        press(child);
    } else if (o->step != STEP_COME) {
        o->step = STEP_COME;
        o->step_ends_ns = supervisor_now_ns() + COME_NS;
    } else if (child->up) {
        next_process(s);
    } else if ((child_is_failed(child) && child->due_ns == NEVER) ||
               supervisor_now_ns() >= o->step_ends_ns) {
        end(s, ORDER_FAILED);
    }
}

/* ---- drain, and back ---- */

/* Clients come to the gateway, connections to services' listeners in the shards. */
static void tell_all(struct supervisor *s, enum peer_state state, enum peer_order order)
{
    struct child *gateway = &s->children[segment_gateway(&s->segment)];

    if (gateway->up)
        atomic_store_release(
            &segment_control(&s->segment, gateway->peer)->state, (uint32_t)state); /* FAILED */
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        child_order(&s->children[peer], order);
}

static void begin_drain(struct supervisor *s)
{
    s->drained = true;
    s->submitted = NEVER;
    supervisor_show_state(s);
    s->operation.step_ends_ns = supervisor_now_ns() + limit_ns(s);
    log_line(s->config.log, LOG_LEVEL_NOTICE, "draining by order: nothing new is taken");
    tell_all(s, PEER_DRAINING, ORDER_DRAIN);
}

static void turn_drain(struct supervisor *s)
{
    struct operation *o = &s->operation;
    uint64_t in_flight;

    if (s->stage != STAGE_RUNNING) {
        end(s, ORDER_LEAVING);
    } else if (leave_is_quiet(s, &in_flight)) {
        end(s, ORDER_DONE);
    } else if (supervisor_now_ns() >= o->step_ends_ns) {
        o->n_cut = in_flight;
        end(s, ORDER_LIMIT);
    }
}

static void begin_resume(struct supervisor *s)
{
    s->drained = false;
    supervisor_show_state(s);
    s->operation.step_ends_ns = supervisor_now_ns() + COME_NS;
    tell_all(s, PEER_UP, ORDER_RUN);
}

/* Done when the gateway takes what comes; a client that was told so is not refused. */
static void turn_resume(struct supervisor *s)
{
    const struct child *gateway = &s->children[segment_gateway(&s->segment)];
    const struct part_head *part = segment_part(&s->segment, gateway->peer);

    if (s->stage != STAGE_RUNNING)
        end(s, ORDER_LEAVING);
    else if (gateway->up && atomic_load_acquire(&part->order) == ORDER_RUN) /* FOLLOW */
        end(s, ORDER_DONE);
    else if (supervisor_now_ns() >= s->operation.step_ends_ns)
        end(s, ORDER_FAILED);
}

/* ---- orders ---- */

static void begin(struct supervisor *s, uint64_t word, const struct order *order)
{
    struct operation *o = &s->operation;

    o->order = *order;
    o->note = write_note(s, word, ORDER_TAKEN);
    o->n_cut = 0;
    o->was_cut = false;
    if (order->kind == ORDER_KIND_RESTART)
        begin_process(s, order->target == ORDER_ALL_SHARDS ? 0 : order->target);
    else if (order->kind == ORDER_KIND_DRAIN)
        begin_drain(s);
    else
        begin_resume(s);
}

void operate_take(struct supervisor *s, uint64_t word)
{
    struct order order;

    if (!order_parse(word, s->segment.n_peers, &order))
        write_note(s, word, ORDER_WRONG);
    else if (s->stage != STAGE_RUNNING)
        write_note(s, word, ORDER_LEAVING);
    else if (s->operation.order.kind != ORDER_KIND_NONE)
        write_note(s, word, ORDER_BUSY);
    else
        begin(s, word, &order);
}

static bool may_be_asked(const struct supervisor *s, uint64_t word)
{
    struct order order;

    return order_parse(word, s->segment.n_peers, &order) && order.target == ORDER_ALL_SHARDS &&
           (order.kind == ORDER_KIND_DRAIN || order.kind == ORDER_KIND_RESUME);
}

static uint64_t asked_word(const struct supervisor *s)
{
    const struct segment *seg = &s->segment;

    return atomic_load_acquire(&segment_part(seg, segment_gateway(seg))->asked); /* ASK */
}

static void take_asked(struct supervisor *s)
{
    struct operation *o = &s->operation;
    uint64_t word = asked_word(s);

    if (word == o->asked || supervisor_now_ns() < o->next_asked_ns)
        return;
    o->asked = word;
    o->next_asked_ns = supervisor_now_ns() + ASK_NS;
    if (may_be_asked(s, word))
        operate_take(s, word);
    else
        write_note(s, word, ORDER_WRONG);
}

void operate_renew(struct supervisor *s)
{
    s->operation.renewal_due = true;
}

static void begin_renewal(struct supervisor *s)
{
    const struct order order = {.kind = ORDER_KIND_RESTART, .target = ORDER_ALL_SHARDS};

    s->operation.renewal_due = false;
    s->operation.renews = true;
    log_line(s->config.log, LOG_LEVEL_NOTICE,
        "settings have changed that shards are forked with: all are replaced, one after the other");
    begin(s, order_word(&order), &order);
}

void operate_turn(struct supervisor *s)
{
    take_asked(s);
    if (s->operation.renewal_due && s->operation.order.kind == ORDER_KIND_NONE &&
        s->stage == STAGE_RUNNING)
        begin_renewal(s);
    switch (s->operation.order.kind) {
    case ORDER_KIND_RESTART:
        turn_restart(s);
        break;
    case ORDER_KIND_DRAIN:
        turn_drain(s);
        break;
    case ORDER_KIND_RESUME:
        turn_resume(s);
        break;
    case ORDER_KIND_NONE:
    case N_ORDER_KINDS:
        break;
    }
}

uint64_t operate_next_look_ns(const struct supervisor *s)
{
    const struct operation *o = &s->operation;

    if (o->order.kind != ORDER_KIND_NONE || o->renewal_due)
        return supervisor_now_ns() + LOOK_NS;
    return asked_word(s) != o->asked ? o->next_asked_ns : NEVER;
}
