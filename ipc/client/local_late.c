/* SPDX-License-Identifier: MIT */
/*
 * A shard tells each end, also that a deadline has passed; but one that is stopped, or does not
 * come round, tells nothing. So what is out ends here REQUEST_LATE_NS behind its deadline, or
 * REQUEST_CANCEL_NS after its cancellation. It still counts as out: until its completion has come,
 * or its lane is gone, a shard may write to its room and read its arguments. So its slot (which its
 * id names), its place in the ring and its memory stay, and what lies in a buffer of the user's is
 * given to no other request: one that names it waits in line, and who frees it has it freed then.
 *
 * out_end_by_ns is no later than the first of these times. Once it has come, all slots are looked
 * at and it is what it should be: a deadline that a shard keeps costs no list.
 */
#include <errno.h>
#include <stdlib.h>

#include "ipc/client/local.h"

/* ---- when ---- */

static void end_by(struct local *local, struct slot *slot, int64_t when_ns)
{
    if (when_ns < slot->end_by_ns)
        slot->end_by_ns = when_ns;
    if (when_ns < local->out_end_by_ns)
        local->out_end_by_ns = when_ns;
}

void local_note_deadline(struct local *local, struct slot *slot)
{
    int64_t deadline_ns = slot->work.deadline_ns;

    slot->end_by_ns = INT64_MAX;
    if (deadline_ns < INT64_MAX - REQUEST_LATE_NS)
        end_by(local, slot, deadline_ns + REQUEST_LATE_NS);
}

void local_note_cancel(struct local *local, struct slot *slot)
{
    end_by(local, slot, waiter_now_ns() + REQUEST_CANCEL_NS);
}

/* ---- ending ---- */

static void end_late(struct local *local, uint32_t at)
{
    const struct slot *slot = slot_at(&local->slots, at);
    bool is_expired = slot->work.deadline_ns < INT64_MAX - REQUEST_LATE_NS &&
                      slot->end_by_ns == slot->work.deadline_ns + REQUEST_LATE_NS;

    local->n_late++;
    if (is_expired)
        local_end_here(local, at, SHERD_END_EXPIRED, -ETIMEDOUT,
            "its deadline passed, and its shard has said nothing of it");
    else
        local_end_here(local, at, SHERD_END_CANCELLED, -ECANCELED,
            "it was cancelled, and its shard has said nothing of it");
}

static void expire_out(struct local *local, int64_t now_ns)
{
    local->out_end_by_ns = INT64_MAX;
    for (uint32_t at = 0; at < local->slots.n; at++) {
        const struct slot *slot = slot_at(&local->slots, at);
        if (slot->state != SLOT_OUT)
            continue;
        if (slot->end_by_ns <= now_ns)
            end_late(local, at);
        else if (slot->end_by_ns < local->out_end_by_ns)
            local->out_end_by_ns = slot->end_by_ns;
    }
}

static void expire_list(struct local *local, struct slot_list *list, int64_t now_ns)
{
    for (uint32_t at = list->first, next; at != SLOT_NONE; at = next) {
        const struct slot *slot = slot_at(&local->slots, at);
        int64_t deadline_ns = slot->work.deadline_ns;
        next = slot->next;
        if (deadline_ns <= now_ns) {
            local_leave_line(local, at);
            local_end_here(local, at, SHERD_END_EXPIRED, -ETIMEDOUT,
                slot->may_have_run ? "its deadline passed before it could be sent again"
                                   : "its deadline passed before it was sent");
        } else if (deadline_ns < local->line_deadline_ns) {
            local->line_deadline_ns = deadline_ns;
        }
    }
}

static void expire_lines(struct local *local, int64_t now_ns)
{
    local->line_deadline_ns = INT64_MAX;
    expire_list(local, &local->unplaced, now_ns);
    for (uint32_t shard = 0; local->lanes && shard < local->layout.n_shards; shard++)
        expire_list(local, &local->lanes[shard].line, now_ns);
}

void local_expire(struct local *local)
{
    int64_t next_ns = local_expire_next_ns(local), now_ns;

    if (next_ns == INT64_MAX || (now_ns = waiter_now_ns()) < next_ns)
        return;
    if (local->line_deadline_ns <= now_ns)
        expire_lines(local, now_ns);
    if (local->out_end_by_ns <= now_ns)
        expire_out(local, now_ns);
}

/* ---- the user's buffers ---- */

static bool overlap(const void *a, size_t a_len, const void *b, size_t b_len)
{
    uintptr_t from = (uintptr_t)a, other = (uintptr_t)b;

    return a && b && from < other + b_len && other < from + a_len;
}

static bool is_late(const struct slot *slot)
{
    return slot->is_out && slot->state != SLOT_OUT;
}

/* Of the user's, in the area. */
static const void *room_of(const struct slot *slot)
{
    return slot->has_room ? NULL : slot->room;
}

static const void *args_of(const struct slot *slot)
{
    bool is_ours = slot->args || slot->work.args_len <= PLANE_INLINE_ARGS;

    return is_ours ? NULL : slot->work.args;
}

bool local_is_held(const struct local *local, const struct slot_work *work)
{
    for (uint32_t at = 0; at < local->slots.n; at++) {
        const struct slot *slot = slot_at(&local->slots, at);
        if (!is_late(slot))
            continue;
        if (overlap(room_of(slot), slot->room_len, work->room, work->room_len) ||
            overlap(room_of(slot), slot->room_len, work->args, work->args_len) ||
            overlap(args_of(slot), slot->work.args_len, work->room, work->room_len))
            return true;
    }
    return false;
}

static bool is_in_use(const struct local *local, const void *buffer)
{
    size_t len = area_length(&local->area, buffer);

    for (uint32_t at = 0; local->n_late > 0 && at < local->slots.n; at++) {
        const struct slot *slot = slot_at(&local->slots, at);
        if (is_late(slot) && (overlap(room_of(slot), slot->room_len, buffer, len) ||
                                 overlap(args_of(slot), slot->work.args_len, buffer, len)))
            return true;
    }
    return false;
}

/* Where there is no memory to remember it, it stays in use until the client is closed. */
static void hold(struct local *local, void *buffer)
{
    if (local->n_held == local->held_capacity) {
        uint32_t capacity = local->held_capacity ? local->held_capacity * 2 : 16;
        void **held = reallocarray(local->held, capacity, sizeof(*held));
        if (!held)
            return;
        local->held = held;
        local->held_capacity = capacity;
    }
    local->held[local->n_held++] = buffer;
}

void local_free_buffer(struct local *local, void *buffer)
{
    if (is_in_use(local, buffer))
        hold(local, buffer);
    else
        area_free(&local->area, buffer);
}

static void free_held(struct local *local)
{
    uint32_t n = local->n_held;

    local->n_held = 0;
    for (uint32_t i = 0; i < n; i++)
        local_free_buffer(local, local->held[i]); /* what stays has a place: it had one */
}

/* ---- coming back ---- */

bool local_come_back_late(struct local *local, uint32_t at)
{
    local->n_late--;
    if (slot_at(&local->slots, at)->state == SLOT_KEPT)
        local_release(local, at);
    if (local->n_held > 0)
        free_held(local);
    return false;
}
