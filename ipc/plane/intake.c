/* SPDX-License-Identifier: MIT */
/*
 * An entry is copied once, into the slot of the ledger that it will have, and what is checked and
 * used from then on is the copy: the client may go on writing to its own as it likes. The barrier
 * behind the copy keeps the compiler from reading any of it a second time.
 *
 * What does not fit into a quota stays in the client's ring, and the lane waits (enum lane_wait);
 * where the client has asked for it (PLANE_REFUSE), it ends at once instead. A lane may have twice
 * as many slots of the ledger as are free: so one client alone has most of them, and however many
 * there are, the next one finds some.
 *
 * Nobody has written into an entry when it came, so how long the next one has waited is told from
 * outside: so many stand in the ring (looked for in doubling steps), and each takes so long.
 */
#include <errno.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/context.h"

#define VISIT_NS     INT64_C(1000000) /* of one lane at most, where there is a choice */
#define BURST_A_RATE 0.02             /* s */
#define BURST_MIN    16.0
#define SECOND_NS    1e9
#define AHEAD        4u /* entries on their way to this core */

static const struct plane_submission *entry_at(const struct lane *lane, uint64_t position)
{
    return &lane->submissions[position & (lane->n_entries - 1)];
}

/* ---- what makes no sense ---- */

static bool is_within(uint64_t off, uint64_t len, uint64_t bytes)
{
    return off <= bytes && len <= bytes - off;
}

static enum cut_reason check(const struct lane *lane, const struct plane_submission *entry)
{
    if (entry->flags & ~PLANE_FLAGS_ALL || entry->route_kind >= N_PLANE_ROUTES)
        return CUT_FLAGS;
    if (entry->flags & PLANE_ARGS_INLINE
            ? entry->args_len > PLANE_INLINE_ARGS
            : entry->args_len &&
                  !is_within(entry->args_off, entry->args_len, lane->grant.data_bytes))
        return CUT_ARGS;
    if (entry->room_len && !is_within(entry->room_off, entry->room_len, lane->grant.data_bytes))
        return CUT_ROOM;
    return CUT_NONE;
}

static uint64_t bytes_of(const struct plane_submission *entry)
{
    return (entry->flags & PLANE_ARGS_INLINE ? 0 : (uint64_t)entry->args_len) + entry->room_len;
}

/* ---- what has to wait ---- */

static bool has_token(struct lane *lane)
{
    double rate = (double)lane->grant.max_rate, burst = rate * BURST_A_RATE;
    int64_t now_ns = aio_clock_ns();

    if (burst < BURST_MIN)
        burst = BURST_MIN;
    lane->tokens += (double)(now_ns - lane->tokens_ns) * rate / SECOND_NS;
    lane->tokens_ns = now_ns;
    if (lane->tokens > burst)
        lane->tokens = burst;
    return lane->tokens >= 1;
}

static enum lane_wait find_wait(struct lane *lane, uint64_t bytes)
{
    const struct plane *plane = lane->plane;

    if (lane->barred_ns && charge_bars(lane))
        return WAIT_USER;
    if (lane->n_in_flight >= lane->grant.max_in_flight)
        return WAIT_OWN;
    if (lane->n_in_flight && lane->bytes_in_flight + bytes > lane->grant.max_bytes)
        return WAIT_OWN;
    if (plane->n_free <= 1 || lane->n_in_flight >= 2 * plane->n_free)
        return WAIT_SLOT;
    if (lane->grant.max_rate && !has_token(lane))
        return WAIT_RATE;
    return WAIT_NONE;
}

static int64_t until_token_ns(const struct lane *lane)
{
    return (int64_t)((1 - lane->tokens) * SECOND_NS / (double)lane->grant.max_rate) + 1;
}

static void begin_wait(struct lane *lane, enum lane_wait wait)
{
    lane->wait = (uint8_t)wait;
    lane_heat(lane); /* there it is found when the wait is over */
    if (wait == WAIT_SLOT)
        lane->plane->n_slot_waits++;
    if (wait == WAIT_RATE)
        timer_mod_ns(&lane->wait_timer, aio_clock_ns() + until_token_ns(lane));
    if (wait == WAIT_USER)
        timer_mod_ns(&lane->wait_timer, lane->barred_ns);
}

void intake_go_on(struct lane *lane)
{
    if (!lane->wait)
        return;
    if (lane->wait == WAIT_SLOT)
        lane->plane->n_slot_waits--;
    lane->wait = WAIT_NONE;
    lane->plane->unblocked = true;
}

/* ---- how long they wait ---- */

/* How many entries stand behind the next one, within a factor of two; not more than n_entries. */
static uint64_t depth_behind(const struct lane *lane)
{
    uint64_t depth = 0;

    for (uint64_t n = 1; n < lane->n_entries; n *= 2) {
        uint64_t position = lane->head + n;
        const struct plane_submission *entry = entry_at(lane, position);
        if (atomic_load_relaxed(&entry->turn) != (uint32_t)(position + 1)) /* ENTRY */
            break;
        depth = n;
    }
    return depth;
}

/* ns that the last of those in the ring will have waited. */
static int64_t delay_ns(const struct lane *lane)
{
    if (lane->ns_an_entry * lane->n_entries < (uint64_t)PACE_WAIT_NS)
        return 0;
    return (int64_t)(lane->ns_an_entry * depth_behind(lane));
}

static void learn_pace(struct lane *lane, int64_t ns, uint64_t n)
{
    uint64_t each = ns > 0 && n > 0 ? (uint64_t)ns / n : 0;

    if (each)
        lane->ns_an_entry = lane->ns_an_entry ? (3 * lane->ns_an_entry + each) / 4 : each;
}

/* ---- one entry ---- */

/* Marked before the head moves: who dies in between leaves the cancel in the ring, to be taken once
 * more. */
static void cancel(struct lane *lane, uint64_t id)
{
    struct plane *plane = lane->plane;
    uint32_t n = lane->first;

    while (n != NO_REQUEST && entry_of(&plane->ledger[n])->id != id)
        n = plane->requests[n].next;
    if (n != NO_REQUEST)
        ledger_cancel(plane, &plane->requests[n]);
    lane->head++;
    atomic_store_release(&lane->row->head, lane->head); /* HEAD */
}

static void refuse_barred(struct lane *lane, struct request *request)
{
    uint64_t us = (uint64_t)(lane->barred_ns - aio_clock_ns()) / 1000 + 1; /* an hour at most */

    counter_add(&lane->row->refused, 1);
    ledger_refuse(lane->plane, request, CALL_END_NOT_STARTED, -EAGAIN,
        "wait: its user crashed shards", us < UINT32_MAX ? (uint32_t)us : UINT32_MAX);
}

/* Runs it, or ends it without. */
static void decide(struct lane *lane, struct request *request, enum lane_wait wait)
{
    struct plane *plane = lane->plane;
    const struct plane_submission *entry = entry_of(slot_of(plane, request));
    int64_t delay;

    if (wait == WAIT_USER)
        refuse_barred(lane, request);
    else if (wait)
        ledger_refuse_behind(
            plane, request, wait == WAIT_RATE ? until_token_ns(lane) : delay_ns(lane));
    else if (plane->is_draining)
        ledger_refuse(
            plane, request, CALL_END_NOT_STARTED, -ESHUTDOWN, "the instance is draining", 0);
    else if (request->bytes > lane->grant.max_bytes || entry->args_len > PLANE_PAYLOAD_MAX ||
             entry->room_len > PLANE_PAYLOAD_MAX)
        ledger_refuse(
            plane, request, CALL_END_NOT_STARTED, -EMSGSIZE, "more bytes than its quota", 0);
    else if (pace_is_late(serve_pace(plane->mesh), entry->method, deadline_of(entry)))
        ledger_refuse(plane, request, CALL_END_EXPIRED, -ETIMEDOUT, NULL, 0);
    else if (entry->flags & PLANE_REFUSE && (delay = delay_ns(lane)) > PACE_WAIT_NS)
        ledger_refuse_behind(plane, request, delay);
    else
        run_begin(plane, request);
}

/* False: nothing more is taken now. */
static bool take(struct lane *lane)
{
    const struct plane_submission *from = entry_at(lane, lane->head), *entry;
    struct ledger_slot *slot;
    enum cut_reason reason;
    enum lane_wait wait;

    if (lane->plane->n_free == 0) { /* as a dead one may have left it */
        begin_wait(lane, WAIT_SLOT);
        return false;
    }
    slot = ledger_next(lane->plane);
    entry = entry_of(slot);
    if (atomic_load_acquire(&from->turn) != (uint32_t)(lane->head + 1)) { /* ENTRY */
        lane_cut(lane, CUT_TURN);
        return false;
    }
    memcpy(slot->entry, from, sizeof(slot->entry));
    atomic_signal_barrier();
    if (entry->method == PLANE_METHOD_TABLE)
        ((struct plane_submission *)slot->entry)->method = (uint16_t)lane->plane->table_method;
    __builtin_prefetch(entry_at(lane, lane->head + AHEAD));
    reason = check(lane, entry);
    if (!reason && !(entry->flags & PLANE_CANCEL) && lane->n_in_flight >= lane->n_entries)
        reason = CUT_OVERRUN;
    if (reason) {
        lane_cut(lane, reason);
        return false;
    }
    if (entry->flags & PLANE_CANCEL) {
        cancel(lane, entry->id);
        return lane->state == CLIENT_LANE_OPEN;
    }
    wait = find_wait(lane, bytes_of(entry));
    if (wait && !(entry->flags & PLANE_REFUSE)) {
        begin_wait(lane, wait);
        return false;
    }
    if (!wait && lane->grant.max_rate)
        lane->tokens -= 1;
    decide(lane, ledger_commit(lane, bytes_of(entry)), wait);
    if (lane->plane->n_free == 0)
        ledger_write(lane); /* what was refused in the slot that is kept for that */
    return lane->state == CLIENT_LANE_OPEN;
}

/* Whether the clock is worth a look after the n-th of a visit: seldom where they take no time. */
static bool is_time_to_look(const struct lane *lane, uint32_t n)
{
    return n == 1 || n % WRITE_BATCH == 0 || lane->ns_an_entry * WRITE_BATCH > VISIT_NS;
}

/* At the end of a visit that took n entries, n_seen of them since it first looked at the clock: what
 * an entry takes is told from visit to visit where some wait, as other lanes have their turns in
 * between, else from within the visit. */
static void note_visit(
    struct lane *lane, int64_t begin_ns, int64_t now_ns, uint32_t n, uint32_t n_seen)
{
    bool more = lane->state == CLIENT_LANE_OPEN && lane_has_entry(lane);

    if (!more)
        lane->ns_an_entry = 0;
    else if (lane->left_ns)
        learn_pace(lane, now_ns - lane->left_ns, n);
    else
        learn_pace(lane, now_ns - begin_ns, n_seen);
    lane->left_ns = more ? now_ns : 0;
}

void intake_run(struct lane *lane, uint32_t budget)
{
    int64_t begin_ns = 0, now_ns = 0;
    uint32_t n = 0, n_begin = 0;

    if (lane->blame_seen != lane->plane->blame_seen)
        charge_bars(lane);
    for (uint64_t ahead = 1; ahead < AHEAD; ahead++)
        __builtin_prefetch(entry_at(lane, lane->head + ahead));
    while (n < budget && now_ns - begin_ns <= VISIT_NS && take(lane)) {
        n++;
        if (!lane_has_entry(lane))
            break;
        if (!is_time_to_look(lane, n))
            continue;
        now_ns = aio_clock_ns();
        if (!begin_ns) {
            begin_ns = now_ns;
            n_begin = n;
        }
    }
    ledger_write(lane);
    note_visit(lane, begin_ns, now_ns, n, n - n_begin);
}
