/* SPDX-License-Identifier: MIT */
/*
 * An entry is copied once, into the slot of the ledger that it will have, and what is checked and
 * used from then on is the copy: the client may go on writing to its own as it likes. The barrier
 * behind the copy keeps the compiler from reading any of it a second time.
 *
 * What does not fit into a quota stays in the client's ring, and the ring waits (enum lane_wait);
 * where the client has asked for it (PLANE_REFUSE), it ends at once instead. Cancels do not wait
 * behind it: what comes to a ring that waits is looked at once, and a cancel is heeded then, and
 * again when its turn comes, which is as if it had been said twice. What it names stands in the
 * ledger, or in the ring before it: then its place is marked, and it ends when it is taken, at once
 * where it is the one for which the ring waits. The marks are not needed after a death: the cancel
 * is still in the ring. A lane may have twice as many slots of the ledger as are free: so one
 * client alone has most of them, and however many there are, the next one finds some. It is the
 * same with the bytes of arguments that a shard has copies of.
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

/* ---- what makes no sense ---- */

static bool is_within(uint64_t off, uint64_t len, uint64_t bytes)
{
    return off <= bytes && len <= bytes - off;
}

static enum cut_reason check(
    const struct lane *lane, enum mesh_lane which, const struct plane_submission *entry)
{
    if (entry->flags & ~PLANE_FLAGS_ALL || entry->route_kind >= N_PLANE_ROUTES)
        return CUT_FLAGS;
    if (which == LANE_URGENT && !(entry->flags & (PLANE_URGENT | PLANE_CANCEL)))
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

static bool may_copy(const struct lane *lane, const struct plane_submission *entry)
{
    const struct plane *plane = lane->plane;
    uint64_t len = run_copies(plane, entry);
    /* There may be more than that where a dead one's are run again. */
    uint64_t left = plane->copied_bytes < COPIES_MAX ? COPIES_MAX - plane->copied_bytes : 0;

    return len == 0 || (len <= left && lane->copied_bytes < 2 * left);
}

static enum lane_wait find_wait(struct lane *lane, const struct plane_submission *entry)
{
    const struct plane *plane = lane->plane;
    uint64_t bytes = entry_bytes(entry);

    if (lane->barred_ns && charge_bars(lane))
        return WAIT_USER;
    if (lane->n_in_flight >= lane->grant.max_in_flight)
        return WAIT_OWN;
    if (lane->n_in_flight && lane->bytes_in_flight + bytes > lane->grant.max_bytes)
        return WAIT_OWN;
    if (plane->n_free <= 1 || lane->n_in_flight >= 2 * plane->n_free || !may_copy(lane, entry))
        return WAIT_SLOT;
    if (lane->grant.max_rate && !has_token(lane))
        return WAIT_RATE;
    return WAIT_NONE;
}

static int64_t until_token_ns(const struct lane *lane)
{
    return (int64_t)((1 - lane->tokens) * SECOND_NS / (double)lane->grant.max_rate) + 1;
}

static void begin_wait(struct lane *lane, struct intake *in, enum lane_wait wait)
{
    in->wait = (uint8_t)wait;
    lane_heat(lane); /* there it is found when the wait is over */
    if (wait == WAIT_SLOT)
        lane->plane->n_slot_waits++;
    if (wait == WAIT_RATE)
        timer_mod_ns(&lane->wait_timer, aio_clock_ns() + until_token_ns(lane));
    if (wait == WAIT_USER)
        timer_mod_ns(&lane->wait_timer, lane->barred_ns);
}

static void end_wait(struct lane *lane, struct intake *in)
{
    lane->plane->n_slot_waits -= in->wait == WAIT_SLOT;
    in->wait = WAIT_NONE;
    lane->plane->unblocked = true;
}

void intake_halt(struct lane *lane, enum lane_wait wait)
{
    for (enum mesh_lane which = 0; which < N_LANES; which++) {
        lane->plane->n_slot_waits -= lane->intakes[which].wait == WAIT_SLOT;
        lane->intakes[which].wait = (uint8_t)wait;
    }
}

void intake_go_on(struct lane *lane, enum lane_wait wait)
{
    for (enum mesh_lane which = 0; which < N_LANES; which++)
        if (lane->intakes[which].wait == wait)
            end_wait(lane, &lane->intakes[which]);
}

/* ---- how long they wait ---- */

/* How many entries stand behind the next one, within a factor of two; not more than n_entries. */
static uint64_t depth_behind(const struct intake *in)
{
    uint64_t depth = 0;

    for (uint64_t n = 1; n < in->n_entries; n *= 2) {
        uint64_t position = in->head + n;
        const struct plane_submission *entry = intake_at(in, position);
        if (atomic_load_relaxed(&entry->turn) != (uint32_t)(position + 1)) /* ENTRY */
            break;
        depth = n;
    }
    return depth;
}

/* ns that the last of those in the ring will have waited. */
static int64_t delay_ns(const struct intake *in)
{
    if (in->ns_an_entry * in->n_entries < (uint64_t)PACE_WAIT_NS)
        return 0;
    return (int64_t)(in->ns_an_entry * depth_behind(in));
}

static void learn_pace(struct intake *in, int64_t ns, uint64_t n)
{
    uint64_t each = ns > 0 && n > 0 ? (uint64_t)ns / n : 0;

    if (each)
        in->ns_an_entry = in->ns_an_entry ? (3 * in->ns_an_entry + each) / 4 : each;
}

/* ---- cancels ---- */

static bool has_mark(const struct intake *in, uint64_t position)
{
    uint64_t at = position & (in->n_entries - 1);

    return in->n_cancelled && in->cancelled[at / 64] >> at % 64 & 1;
}

static void flip_mark(struct intake *in, uint64_t position, int n)
{
    uint64_t at = position & (in->n_entries - 1);

    in->cancelled[at / 64] ^= UINT64_C(1) << at % 64;
    in->n_cancelled += (uint32_t)n;
}

void intake_pass(struct intake *in)
{
    if (has_mark(in, in->head))
        flip_mark(in, in->head, -1);
    in->head++;
    atomic_store_release(in->row_head, in->head); /* HEAD */
}

static bool is_meant(const struct ledger_slot *slot, const struct lane *lane,
    const struct intake *in, const struct plane_submission *cancel)
{
    return slot->position == cancel->route && entry_of(slot)->id == cancel->id &&
           &lane->intakes[intake_of(slot)] == in;
}

/* Of one that was taken. Its id may be another's by now, its position in the ring is nobody
 * else's. */
static void cancel(struct lane *lane, const struct intake *in, const struct plane_submission *entry)
{
    struct plane *plane = lane->plane;
    uint32_t n = lane->first;

    while (n != NO_REQUEST && !is_meant(&plane->ledger[n], lane, in, entry))
        n = plane->requests[n].next;
    if (n != NO_REQUEST)
        ledger_cancel(plane, &plane->requests[n]);
}

/* A cancel that stands at `position` of a ring that waits. */
static void cancel_ahead(
    struct lane *lane, struct intake *in, uint64_t position, const struct plane_submission *entry)
{
    if (entry->route < in->head || entry->route >= position) {
        cancel(lane, in, entry);
    } else if (atomic_load_relaxed(&intake_at(in, entry->route)->id) == entry->id) {
        if (!has_mark(in, entry->route))
            flip_mark(in, entry->route, 1);
        if (entry->route == in->head && in->wait != WAIT_END)
            end_wait(lane, in);
    }
}

/* At most BUDGET of those behind the one that waits. */
static void look_ahead(struct lane *lane, struct intake *in)
{
    struct plane_submission entry;

    if (in->looked <= in->head)
        in->looked = in->head + 1;
    for (uint32_t n = 0; n < BUDGET && in->wait && intake_has_ahead(in); n++) {
        memcpy(&entry, intake_at(in, in->looked), sizeof(entry));
        atomic_signal_barrier();
        if (entry.flags & PLANE_CANCEL)
            cancel_ahead(lane, in, in->looked, &entry);
        in->looked++;
    }
}

/* ---- one entry ---- */

static void refuse_barred(struct lane *lane, struct request *request)
{
    uint64_t us = (uint64_t)(lane->barred_ns - aio_clock_ns()) / 1000 + 1; /* an hour at most */

    counter_add(&lane->row->refused, 1);
    ledger_refuse(lane->plane, request, CALL_END_NOT_STARTED, -EAGAIN,
        "wait: its user crashed shards", us < UINT32_MAX ? (uint32_t)us : UINT32_MAX);
}

/* Runs it, or ends it without. */
static void decide(
    struct lane *lane, const struct intake *in, struct request *request, enum lane_wait wait)
{
    struct plane *plane = lane->plane;
    const struct plane_submission *entry = entry_of(slot_of(plane, request));
    int64_t delay;

    if (wait == WAIT_USER)
        refuse_barred(lane, request);
    else if (wait)
        ledger_refuse_behind(
            plane, request, wait == WAIT_RATE ? until_token_ns(lane) : delay_ns(in));
    else if (plane->is_draining)
        ledger_turn_away(plane, request);
    else if (request->bytes > lane->grant.max_bytes || entry->args_len > PLANE_PAYLOAD_MAX ||
             entry->room_len > PLANE_PAYLOAD_MAX)
        ledger_refuse(
            plane, request, CALL_END_NOT_STARTED, -EMSGSIZE, "more bytes than its quota", 0);
    else if (pace_is_late(serve_pace(plane->mesh), entry->method, deadline_of(entry)))
        ledger_refuse(plane, request, CALL_END_EXPIRED, -ETIMEDOUT, NULL, 0);
    else if (entry->flags & PLANE_REFUSE && (delay = delay_ns(in)) > PACE_WAIT_NS)
        ledger_refuse_behind(plane, request, delay);
    else
        run_begin(plane, request);
}

/* They have a way to go, and are on it while all else is seen to. */
static void fetch_args(const struct lane *lane, const struct plane_submission *entry)
{
    if (!(entry->flags & PLANE_ARGS_INLINE) && entry->args_len > 0)
        __builtin_prefetch(lane->data + entry->args_off);
}

/* False: nothing more is taken now. */
static bool take(struct lane *lane, enum mesh_lane which)
{
    struct intake *in = &lane->intakes[which];
    const struct plane_submission *from = intake_at(in, in->head), *entry;
    struct ledger_slot *slot;
    enum cut_reason reason;
    enum lane_wait wait;

    if (lane->plane->n_free == 0) { /* as a dead one may have left it */
        begin_wait(lane, in, WAIT_SLOT);
        return false;
    }
    slot = ledger_next(lane->plane);
    entry = entry_of(slot);
    if (atomic_load_acquire(&from->turn) != (uint32_t)(in->head + 1)) { /* ENTRY */
        lane_cut(lane, CUT_TURN);
        return false;
    }
    memcpy(slot->entry, from, sizeof(slot->entry));
    atomic_signal_barrier();
    if (entry->method == PLANE_METHOD_TABLE)
        ((struct plane_submission *)slot->entry)->method = (uint16_t)lane->plane->table_method;
    __builtin_prefetch(intake_at(in, in->head + AHEAD));
    reason = check(lane, which, entry);
    if (!reason && !(entry->flags & PLANE_CANCEL) && lane->n_in_flight >= lane->n_entries)
        reason = CUT_OVERRUN;
    if (reason) {
        lane_cut(lane, reason);
        return false;
    }
    fetch_args(lane, entry);
    if (entry->flags & PLANE_CANCEL) {
        cancel(lane, in, entry);
        intake_pass(
            in); /* who dies before it leaves the cancel in the ring, to be taken once more */
        return lane->state == CLIENT_LANE_OPEN;
    }
    if (has_mark(in, in->head)) {
        ledger_refuse(lane->plane, ledger_commit(lane, which, entry_bytes(entry)),
            CALL_END_CANCELLED, -ECANCELED, NULL, 0);
    } else {
        wait = find_wait(lane, entry);
        if (wait && !(entry->flags & PLANE_REFUSE)) {
            begin_wait(lane, in, wait);
            return false;
        }
        if (!wait && lane->grant.max_rate)
            lane->tokens -= 1;
        decide(lane, in, ledger_commit(lane, which, entry_bytes(entry)), wait);
    }
    if (lane->plane->n_free == 0)
        ledger_write(lane); /* what was refused in the slot that is kept for that */
    return lane->state == CLIENT_LANE_OPEN;
}

/* Whether the clock is worth a look after the n-th of a visit: seldom where they take no time. */
static bool is_time_to_look(const struct intake *in, uint32_t n)
{
    return n == 1 || n % WRITE_BATCH == 0 || in->ns_an_entry * WRITE_BATCH > VISIT_NS;
}

/* At the end of a visit that took n entries, n_seen of them since it first looked at the clock:
 * what an entry takes is told from visit to visit where some wait, as other lanes have their turns
 * in between, else from within the visit. */
static void note_visit(const struct lane *lane, struct intake *in, int64_t begin_ns, int64_t now_ns,
    uint32_t n, uint32_t n_seen)
{
    bool more = lane->state == CLIENT_LANE_OPEN && intake_has_entry(in);

    if (!more)
        in->ns_an_entry = 0;
    else if (in->left_ns)
        learn_pace(in, now_ns - in->left_ns, n);
    else
        learn_pace(in, now_ns - begin_ns, n_seen);
    in->left_ns = more ? now_ns : 0;
}

/* The first entry of a lane's turn is free, for it has been waited for long enough. */
static void run(struct lane *lane, enum mesh_lane which)
{
    struct intake *in = &lane->intakes[which];
    int64_t begin_ns = lane->n_taken ? aio_clock_ns() : 0, now_ns = begin_ns;
    uint32_t n = 0, n_begin = 0;

    if (lane->blame_seen != lane->plane->blame_seen)
        charge_bars(lane);
    for (uint64_t ahead = 1; ahead < AHEAD; ahead++)
        __builtin_prefetch(intake_at(in, in->head + ahead));
    while (lane->n_taken + n < BUDGET && lane->spent_ns + now_ns - begin_ns <= VISIT_NS &&
           take(lane, which)) {
        n++;
        if (!intake_has_entry(in))
            break;
        if (!is_time_to_look(in, n))
            continue;
        now_ns = aio_clock_ns();
        if (!begin_ns) {
            begin_ns = now_ns;
            n_begin = n;
        }
    }
    ledger_write(lane);
    note_visit(lane, in, begin_ns, now_ns, n, n - n_begin);
    lane->n_taken += n;
    lane->spent_ns += now_ns - begin_ns;
}

bool intake_visit(struct lane *lane, enum mesh_lane which)
{
    struct intake *in = &lane->intakes[which];
    uint64_t head = in->head, looked = in->looked;

    if (lane->state != CLIENT_LANE_OPEN)
        return false;
    if (in->wait) {
        look_ahead(lane, in);
        return in->looked != looked;
    }
    if (!intake_has_entry(in)) {
        in->left_ns = 0;
        return false;
    }
    run(lane, which);
    return in->head != head;
}
