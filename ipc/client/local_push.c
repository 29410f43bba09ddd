/* SPDX-License-Identifier: MIT */
/*
 * A request goes from the caller's struct into the ring without a stop where its lane is open, has
 * nobody in line, and the area has room for what is not small. Else it is parked: with a copy of
 * its arguments, unless they lie in a buffer, in the line of its lane; or in one for all while
 * nobody knows shards and methods. What is lost goes there once more: it has kept its memory.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/local.h"
#include "proto/keys.h"

#define BEHIND_RETRY_US 200u

/* ---- placing ---- */

struct slot_work local_work_of(
    struct local *local, const struct sherd_request *request, uint32_t handle)
{
    struct slot_work work = {
        .handle = handle,
        .flags = request->flags,
        .route_kind = PLANE_ROUTE_METHOD,
        .deadline_ns = INT64_MAX,
        .args = request->args,
        .args_len = request->args_len,
        .room = request->room,
        .room_len = request->room         ? request->room_len
                    : request->answer_max ? request->answer_max
                                          : local->base.answer_max,
    };

    if (request->flags & SHERD_TO_SHARD) {
        work.route_kind = PLANE_ROUTE_SHARD;
        work.route = request->shard;
    } else if (request->key) {
        work.route_kind = PLANE_ROUTE_KEY;
        work.route = keys_hash(request->key, request->key_len);
    }
    if (request->timeout_ns > 0 &&
        __builtin_add_overflow(waiter_now_ns(), request->timeout_ns, &work.deadline_ns))
        work.deadline_ns = INT64_MAX;
    return work;
}

/* UINT32_MAX: there is no such shard. */
static uint32_t local_lane_for(const struct local *local, const struct slot_work *work)
{
    uint32_t n_shards = local->layout.n_shards;

    if (work->route_kind == PLANE_ROUTE_SHARD)
        return work->route < n_shards ? (uint32_t)work->route : UINT32_MAX;
    if (work->route_kind == PLANE_ROUTE_KEY)
        return keys_shard(keys_slot(work->route), n_shards);
    return local->home;
}

/* ---- into the ring ---- */

static bool is_inline(const struct slot_work *work)
{
    return work->args_len <= PLANE_INLINE_ARGS;
}

/* Room for the answer, unless the slot has some from before. */
static int take_room(struct local *local, struct slot *slot)
{
    const struct slot_work *work = &slot->work;
    bool in_area = work->room && area_has(&local->area, work->room, work->room_len);

    slot->user_room = in_area ? NULL : work->room;
    slot->room_len = (uint32_t)work->room_len;
    if (slot->has_room)
        return 0;
    slot->has_room = !in_area && work->room_len > PLANE_INLINE_ANSWER;
    slot->room = in_area ? work->room : NULL;
    if (slot->has_room && !(slot->room = area_alloc(&local->area, work->room_len))) {
        slot->has_room = false;
        return -ENOBUFS;
    }
    return 0;
}

/* Arguments to where they stay until the end: what is lost is submitted with them once more. */
static int take_args(struct local *local, struct slot *slot)
{
    struct slot_work *work = &slot->work;

    if (is_inline(work)) {
        if (work->args_len > 0)
            work->args = memmove(slot->small, work->args, work->args_len);
    } else if (!area_has(&local->area, work->args, work->args_len)) {
        void *args = area_alloc(&local->area, work->args_len);
        if (!args)
            return -ENOBUFS;
        work->args = slot->args = memcpy(args, work->args, work->args_len);
    }
    return 0;
}

/* -ENOBUFS: there is no memory for it now; -EBUSY: a buffer of its is in use. */
static int take_memory(struct local *local, struct slot *slot)
{
    bool had_room = slot->has_room;
    int r =
        local->n_late > 0 && local_is_held(local, &slot->work) ? -EBUSY : take_room(local, slot);

    if (r < 0)
        return r;
    r = take_args(local, slot);
    if (r < 0 && slot->has_room && !had_room) {
        area_free(&local->area, slot->room);
        slot->has_room = false;
    }
    return r;
}

static void fill_entry(
    const struct local *local, const struct slot *slot, uint64_t id, struct plane_submission *entry)
{
    const struct slot_work *work = &slot->work;
    bool is_table = work->handle == UINT32_MAX;

    entry->id = id;
    entry->method =
        is_table ? PLANE_METHOD_TABLE : local->base.methods.methods[work->handle].number;
    entry->flags = (uint8_t)((is_inline(work) ? PLANE_ARGS_INLINE : 0u) |
                             (work->flags & SHERD_URGENT ? PLANE_URGENT : 0u) |
                             (work->flags & SHERD_REFUSE ? PLANE_REFUSE : 0u));
    entry->route_kind = work->route_kind;
    entry->route = work->route;
    entry->deadline_ns = work->deadline_ns == INT64_MAX ? 0 : (uint64_t)work->deadline_ns;
    entry->args_len = (uint32_t)work->args_len;
    entry->room_len = slot->room ? slot->room_len : 0;
    entry->room_off = slot->room ? (uint64_t)(slot->room - local->data) : 0;
    if (!is_inline(work))
        entry->args_off = (uint64_t)((const uint8_t *)work->args - local->data);
    else if (work->args_len > 0)
        memcpy(entry->inline_args, work->args, work->args_len);
}

static bool may_push(struct local_lane *lane, const struct slot_work *work)
{
    return lane->state == LOCAL_LANE_OPEN && lane->n_out < lane->ring.limit &&
           local_ring_has_room_for_request(local_lane_ring_for(lane, work->flags & SHERD_URGENT));
}

static int push(struct local *local, uint32_t shard, uint32_t at)
{
    struct local_lane *lane = &local->lanes[shard];
    struct slot *slot = slot_at(&local->slots, at);
    struct local_ring *ring = local_lane_ring_for(lane, slot->work.flags & SHERD_URGENT);
    int r = take_memory(local, slot);

    if (r < 0)
        return r;
    fill_entry(local, slot, slot_id(&local->slots, at), local_ring_next(ring));
    slot->state = SLOT_OUT;
    slot->is_out = true;
    slot->lane = shard;
    slot->position = ring->tail;
    slot->in_urgent = ring == &lane->urgent;
    slot->cancel = false;
    local_note_deadline(local, slot);
    ring->n_out++;
    ring->n_spare++;
    lane->n_out++;
    local->n_out++;
    local_lane_push(lane, ring);
    return 0;
}

/* ---- in line ---- */

/* Arguments that are the user's are copied: they are his again as soon as he has submitted. */
static int park(struct local *local, struct slot *slot)
{
    struct slot_work *work = &slot->work;
    bool stay = work->args_len == 0 || work->args == slot->small ||
                area_has(&local->area, work->args, work->args_len);

    if (!stay) {
        slot->copy = malloc(work->args_len);
        if (!slot->copy)
            return -ENOMEM;
        work->args = memcpy(slot->copy, work->args, work->args_len);
    }
    slot->state = SLOT_LINE;
    slot->cancel = false;
    if (work->deadline_ns < local->line_deadline_ns)
        local->line_deadline_ns = work->deadline_ns;
    return 0;
}

static void stand_in_line(struct local *local, uint32_t shard, uint32_t at)
{
    struct local_lane *lane = &local->lanes[shard];
    bool urgent = slot_at(&local->slots, at)->work.flags & SHERD_URGENT;

    slot_at(&local->slots, at)->lane = shard;
    slot_list_insert(&local->slots, &lane->line, urgent ? lane->last_urgent : lane->line.last, at);
    if (urgent)
        lane->last_urgent = at;
    local->n_line++;
}

void local_leave_line(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    if (slot->lane == UINT32_MAX) {
        slot_list_remove(&local->slots, &local->unplaced, at);
        return;
    }
    struct local_lane *lane = &local->lanes[slot->lane];
    if (lane->last_urgent == at)
        lane->last_urgent = slot->prev;
    slot_list_remove(&local->slots, &lane->line, at);
    local->n_line--;
}

/* Known not to be possible: it ends. */
static bool is_refused(struct local *local, uint32_t at)
{
    const struct slot_work *work = &slot_at(&local->slots, at)->work;

    if (work->handle != UINT32_MAX && !local->base.methods.methods[work->handle].is_known)
        local_end_unsent(local, at, -ENOENT, "no such method here");
    else if (local_lane_for(local, work) == UINT32_MAX)
        local_end_unsent(local, at, -EINVAL, "no such shard");
    else
        return false;
    return true;
}

void local_place(struct local *local, uint32_t at)
{
    if (is_refused(local, at))
        return;
    uint32_t shard = local_lane_for(local, &slot_at(&local->slots, at)->work);
    if (local->lanes[shard].state == LOCAL_LANE_CLOSED)
        local_want(local, shard);
    stand_in_line(local, shard, at);
}

void local_await_attach(struct local *local, uint32_t at)
{
    slot_at(&local->slots, at)->lane = UINT32_MAX;
    slot_list_insert(&local->slots, &local->unplaced, local->unplaced.last, at);
}

int local_enter(struct local *local, uint32_t at, const struct slot_work *work)
{
    struct slot *slot = slot_at(&local->slots, at);
    bool is_table = work->handle == UINT32_MAX;

    slot->work = *work;
    slot->may_have_run = false;
    if (local->phase != LOCAL_READY && !is_table) {
        int r = park(local, slot);
        if (r == 0)
            local_await_attach(local, at);
        return r;
    }
    if (is_refused(local, at))
        return 0;
    uint32_t shard = local_lane_for(local, work);
    struct local_lane *lane = &local->lanes[shard];
    if (may_push(lane, work) && (lane->line.n == 0 || work->flags & SHERD_URGENT) &&
        push(local, shard, at) == 0)
        return 0;
    if (work->flags & SHERD_REFUSE && lane->state == LOCAL_LANE_OPEN) {
        local_end_here(local, at, SHERD_END_NOT_STARTED, -EAGAIN, NULL);
        slot->retry_us = BEHIND_RETRY_US;
        return 0;
    }
    int r = park(local, slot);
    if (r == 0)
        local_place(local, at);
    return r;
}

void local_back_in_line(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    /* Nothing has to be copied: its arguments are where they stay. */
    (void)park(local, slot);
    if (local->phase == LOCAL_READY)
        local_place(local, at);
    else
        local_await_attach(local, at);
}

/* Whether something that is out, or was fetched, will give memory back. */
static bool may_get_memory(const struct local *local)
{
    return local->n_out > 0 || local->handed.n > 0 || local->ready.n > 0 || local->ended.n > 0;
}

static void drain_line(struct local *local, uint32_t shard)
{
    struct local_lane *lane = &local->lanes[shard];

    while (lane->line.n > 0) {
        uint32_t at = lane->line.first;
        struct slot *slot = slot_at(&local->slots, at);
        int r;
        if (!may_push(lane, &slot->work))
            return;
        r = push(local, shard, at);
        if (r < 0 && may_get_memory(local))
            return;
        local_leave_line(local, at);
        if (r < 0)
            local_end_unsent(local, at, -ENOBUFS, "the data area is full of buffers, or too small");
        free(slot->copy);
        slot->copy = NULL;
    }
}

void local_drain_lines(struct local *local)
{
    for (uint32_t i = 0; i < local->n_open; i++)
        drain_line(local, local->open[i]);
}

void local_drain_unplaced(struct local *local)
{
    size_t n = local->unplaced.n;

    for (; n > 0; n--) {
        uint32_t at = local->unplaced.first;
        slot_list_remove(&local->slots, &local->unplaced, at);
        local_place(local, at);
    }
}

/* ---- cancelling, ringing ---- */

void local_push_cancel(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);
    struct local_lane *lane = &local->lanes[slot->lane];
    struct local_ring *ring = local_lane_ring_of(lane, slot);

    assert(local_ring_has_room(ring)); /* kept since it was pushed */
    struct plane_submission *entry = local_ring_next(ring);
    entry->id = slot_id(&local->slots, at);
    entry->method = 0;
    entry->flags = PLANE_CANCEL | PLANE_ARGS_INLINE;
    entry->route_kind = PLANE_ROUTE_HERE;
    entry->route = slot->position;
    entry->deadline_ns = 0;
    entry->args_len = entry->room_len = 0;
    entry->room_off = 0;
    ring->n_spare--;
    local_lane_push(lane, ring);
}

void local_flush_lanes(struct local *local)
{
    bool fenced = false;

    for (uint32_t i = 0; i < local->n_open; i++) {
        struct local_lane *lane = &local->lanes[local->open[i]];
        if (!lane->is_dirty)
            continue;
        if (!fenced)
            local_lane_fence();
        fenced = true;
        lane->is_dirty = false;
        if (local_lane_wants_bell(lane))
            local_lane_ring(lane);
    }
}
