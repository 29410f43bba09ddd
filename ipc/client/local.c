/* SPDX-License-Identifier: MIT */
/*
 * An id is a slot and its generation, so a completion finds its request by index. What the shard
 * wrote is checked against what was asked of it: nothing of it is used as an index, an offset or a
 * length before that.
 *
 * A step looks at the rings of the lanes that are open, runs what has ended, and pushes what waits.
 * Waiting is looking for spin_ns, then sleeping: each lane with requests is told so
 * (local_lane_arm()), looked at once more behind a fence, and then the waiter waits for doorbells
 * and the connection. Where somebody else waits for the fd, lanes stay armed between steps.
 *
 * Memory of a request goes back when its end has been told: behind its callback, or at the fetch
 * after the one that got it; and not before its completion has come, or its lane is gone.
 */
#include "ipc/client/local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_LOOKS 1024u /* steps without anything, until the fds are looked at all the same */
#define SPIN_ROUND 32u   /* looks between two looks at the clock */
#define EVENTS_MAX 16

/* ---- ends ---- */

void local_release(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    if (slot->is_out) {
        slot->state = SLOT_KEPT;
        return;
    }
    if (slot->args)
        area_free(&local->area, slot->args);
    if (slot->has_room)
        area_free(&local->area, slot->room);
    slot->args = NULL;
    slot->has_room = false;
    slot_put(&local->slots, at);
}

void local_end_here(
    struct local *local, uint32_t at, enum sherd_end end, int error, const char *text)
{
    struct slot *slot = slot_at(&local->slots, at);

    free(slot->copy);
    slot->copy = NULL;
    slot->state = SLOT_ENDED;
    slot->end = end;
    slot->error = error;
    slot->shard = SHERD_NO_SHARD;
    slot->retry_us = 0;
    slot->data = (const uint8_t *)text;
    slot->len = text ? (uint32_t)strlen(text) : 0;
    slot_list_insert(&local->slots, &local->ended, local->ended.last, at);
    if (local->base.is_polled && !local->inside)
        waiter_ring(&local->base.waiter);
}

void local_end_unsent(struct local *local, uint32_t at, int error, const char *text)
{
    if (!slot_at(&local->slots, at)->may_have_run)
        local_end_here(local, at, SHERD_END_NOT_STARTED, error, text);
    else if (error == -EHOSTDOWN) /* as a shard has it of another */
        local_end_here(local, at, SHERD_END_FAILED, error, text);
    else
        local_end_here(local, at, SHERD_END_IN_DOUBT, -EOWNERDEAD,
            "it may have run, and could not be submitted again");
}

static struct sherd_result result_of(const struct local *local, uint32_t at)
{
    const struct slot *slot = slot_at(&local->slots, at);

    return (struct sherd_result){
        .id = slot_id(&local->slots, at),
        .opaque = slot->opaque,
        .data = (uint8_t *)slot->data,
        .len = slot->len,
        .end = (enum sherd_end)slot->end,
        .error = slot->error,
        .shard = slot->shard,
        .retry_us = slot->retry_us,
    };
}

/* Its end has come, and stands in the slot. */
static void tell(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    local->slots.n_open--;
    local->base.n_ended++;
    if (!slot->done) {
        slot_list_insert(&local->slots, &local->ready, local->ready.last, at);
        return;
    }
    struct sherd_result result = result_of(local, at);
    slot->done(&result, slot->opaque);
    local_release(local, at);
}

static void tell_ended(struct local *local)
{
    size_t n = local->ended.n; /* not what callbacks add */

    for (; n > 0; n--) {
        uint32_t at = local->ended.first;
        slot_list_remove(&local->slots, &local->ended, at);
        tell(local, at);
    }
}

/* Where the answer stands: in the slot, or in its room, the user's where he has one. */
static bool find_answer(struct slot *slot, const struct plane_completion *completion)
{
    uint8_t *room = slot->user_room ? slot->user_room : slot->has_room ? NULL : slot->room;
    const uint8_t *from = slot->room;

    slot->data = NULL;
    if (completion->len == 0)
        return true;
    if (completion->len <= PLANE_INLINE_ANSWER)
        from = memcpy(slot->small, completion->inline_answer, sizeof(slot->small));
    else if (!slot->room || completion->len > slot->room_len)
        return false;
    slot->data = from;
    if (!room || completion->end != SHERD_END_DONE)
        return true;
    slot->data = room;
    if (completion->len > slot->room_len) {
        slot->end = SHERD_END_FAILED;
        slot->error = -ENOBUFS;
        slot->data = NULL;
        slot->len = 0;
    } else if (from != room) {
        memcpy(room, from, completion->len);
    }
    return true;
}

static bool is_end(uint32_t end)
{
    return end >= SHERD_END_DONE && end <= SHERD_END_IN_DOUBT;
}

/* Which request it ends; SLOT_NONE: none that may end so. */
static uint32_t find_ended(
    const struct local *local, uint32_t shard, const struct plane_completion *completion)
{
    uint32_t at = slot_find(&local->slots, completion->id);

    if (at == SLOT_NONE || !is_end(completion->end) || completion->error > 0)
        return SLOT_NONE;
    const struct slot *slot = slot_at(&local->slots, at);
    return slot->is_out && slot->lane == shard ? at : SLOT_NONE;
}

static void end_table(struct local *local, uint32_t at)
{
    const struct slot *slot = slot_at(&local->slots, at);
    enum sherd_end end = (enum sherd_end)slot->end;
    int error = slot->error;
    size_t len = slot->len;

    local->slots.n_open--;
    local_release(local, at);
    local_take_table(local, end, error, len);
}

bool local_come_back(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    slot->is_out = false;
    local->lanes[slot->lane].n_out--;
    local->n_out--;
    return slot->state == SLOT_OUT || local_come_back_late(local, at);
}

/* What the shard says of it. */
static void take_end(struct slot *slot, const struct plane_completion *completion)
{
    slot->state = SLOT_ENDED;
    slot->end = completion->end;
    slot->error = completion->error;
    slot->shard = completion->shard;
    slot->retry_us = completion->retry_us;
    slot->len = completion->len;
    if (!find_answer(slot, completion)) {
        slot->len = 0;
        slot->end = SHERD_END_FAILED;
        slot->error = -EPROTO;
    }
    /* Not this time. */
    if (slot->end == SHERD_END_NOT_STARTED && slot->may_have_run) {
        slot->end = SHERD_END_IN_DOUBT;
        slot->error = -EOWNERDEAD;
    }
}

static bool take_completion(struct local *local, uint32_t shard)
{
    struct local_lane *lane = &local->lanes[shard];
    struct plane_completion completion;

    if (!local_lane_pop(lane, &completion))
        return false;
    uint32_t at = find_ended(local, shard, &completion);
    if (at == SLOT_NONE) {
        local_distrust(local);
        return false;
    }
    struct slot *slot = slot_at(&local->slots, at);
    local_ring_consume(local_lane_ring_of(lane, slot), slot);
    if (!local_come_back(local, at))
        return true;
    take_end(slot, &completion);
    if (completion.id == local->table_id)
        end_table(local, at);
    else
        tell(local, at);
    return true;
}

/* At most a ring full of each, so that none keeps the others waiting. */
void local_take_completions(struct local *local)
{
    for (uint32_t i = 0; i < local->n_open; i++) {
        uint32_t shard = local->open[i];
        uint32_t n = local->lanes[shard].n_out;
        while (n-- > 0 && i < local->n_open && take_completion(local, shard))
            ;
    }
}

void local_take_last(struct local *local, uint32_t shard)
{
    while (local->lanes[shard].n_out > 0 && take_completion(local, shard))
        ;
}

/* ---- looking and sleeping ---- */

static bool has_completions(const struct local *local)
{
    for (uint32_t i = 0; i < local->n_open; i++)
        if (local->lanes[local->open[i]].n_out > 0 && local_lane_has(&local->lanes[local->open[i]]))
            return true;
    return false;
}

/* Lanes from which something is to come ring from now on. True: something has come already. */
static bool arm(struct local *local)
{
    bool any = false;

    for (uint32_t i = 0; i < local->n_open; i++) {
        struct local_lane *lane = &local->lanes[local->open[i]];
        if (lane->n_out > 0 && !lane->is_armed) {
            local_lane_arm(lane);
            any = true;
        }
    }
    if (!any)
        return has_completions(local);
    local->is_armed = true;
    local_lane_fence();
    return has_completions(local);
}

static void disarm(struct local *local)
{
    if (!local->is_armed)
        return;
    for (uint32_t i = 0; i < local->n_open; i++)
        if (local->lanes[local->open[i]].is_armed)
            local_lane_disarm(&local->lanes[local->open[i]]);
    local->is_armed = false;
}

static void take_event(struct local *local, uint64_t tag)
{
    if (tag == 0) {
        waiter_quiet(&local->base.waiter);
    } else if (tag == LOCAL_TAG_ATTACH) {
        local->attach_ready = true;
    } else if (tag - LOCAL_TAG_LANE < local->layout.n_shards) {
        struct local_lane *lane = &local->lanes[tag - LOCAL_TAG_LANE];
        /* At its end the connection will tell the rest. */
        if (lane->bell_fd >= 0 && !local_lane_drain_bell(lane))
            waiter_unwatch(&local->base.waiter, lane->bell_fd);
    }
}

static int take_events(struct local *local, int64_t until_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int n = waiter_wait(&local->base.waiter, until_ns, events, EVENTS_MAX);

    local->n_idle = 0;
    for (int i = 0; i < n; i++)
        take_event(local, events[i].data.u64);
    return n < 0 ? n : 0;
}

static bool spin(struct local *local, int64_t until_ns)
{
    int64_t end_ns = 0;

    for (;;) {
        for (uint32_t i = 0; i < SPIN_ROUND; i++)
            if (has_completions(local))
                return true;
        atomic_pause();
        int64_t now_ns = waiter_now_ns();
        if (end_ns == 0)
            end_ns = now_ns + local->spin_ns;
        if (now_ns >= end_ns || now_ns >= until_ns ||
            atomic_load_relaxed(&local->base.waiter.woken)) /* a hint */
            return false;
    }
}

/* Of what no fd tells. */
static int64_t next_ns(const struct local *local)
{
    int64_t live_ns = local_live_next_ns(local), expire_ns = local_expire_next_ns(local);

    return live_ns < expire_ns ? live_ns : expire_ns;
}

static int op_wait(struct transport *transport, int64_t until_ns)
{
    struct local *local = local_of(transport);
    int64_t due_ns = next_ns(local);

    if (local->ended.n > 0)
        return 0;
    if (due_ns < until_ns)
        until_ns = due_ns;
    if (local->spin_ns > 0 && local->n_out > 0 && spin(local, until_ns))
        return 0;
    return arm(local) ? 0 : take_events(local, until_ns);
}

/* Who waits elsewhere is told of all that there is to do. */
static void see_to_fd(struct local *local)
{
    waiter_arm(&local->base.waiter, next_ns(local));
    if (arm(local) || local->ended.n > 0)
        waiter_ring(&local->base.waiter);
}

static void step_inside(struct local *local)
{
    uint64_t before = local->base.n_ended;

    disarm(local);
    if (local->base.is_polled)
        take_events(local, 0);
    local_take_completions(local);
    if (local->base.n_ended == before && ++local->n_idle >= IDLE_LOOKS)
        take_events(local, 0);
    local_live(local);
    local_expire(local);
    if (local->n_line > 0)
        local_drain_lines(local);
    if (local->ended.n > 0)
        tell_ended(local);
    local_flush_lanes(local);
}

static void op_step(struct transport *transport)
{
    struct local *local = local_of(transport);

    local->inside = true;
    step_inside(local);
    local->inside = false;
    if (transport->is_polled)
        see_to_fd(local);
}

/* ---- requests ---- */

static int64_t find_method(struct local *local, const struct sherd_request *request)
{
    if (!request->method)
        return request->method_handle;
    int64_t found = methods_find(&local->base.methods, request->method);
    return found >= 0 ? found : methods_add(&local->base.methods, request->method);
}

static int op_submit(struct transport *transport, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    struct local *local = local_of(transport);
    int64_t handle = find_method(local, request);
    uint32_t at;

    if (handle < 0)
        return (int)handle;
    struct slot_work work = local_work_of(local, request, (uint32_t)handle);
    size_t most = local->data_bytes < SHERD_BUFFER_MAX ? local->data_bytes : SHERD_BUFFER_MAX;
    if (work.args_len > most || work.room_len > most)
        return -EMSGSIZE;
    int r = slot_take(&local->slots, &at);
    if (r < 0)
        return r;
    struct slot *slot = slot_at(&local->slots, at);
    slot->done = done;
    slot->opaque = opaque;
    r = local_enter(local, at, &work);
    if (r < 0) {
        local->slots.n_open--;
        slot_put(&local->slots, at);
        return r;
    }
    if (ret_id)
        *ret_id = slot_id(&local->slots, at);
    return 0;
}

static void op_flush(struct transport *transport)
{
    struct local *local = local_of(transport);

    if (local->inside)
        return;
    local_flush_lanes(local);
    if (transport->is_polled && (arm(local) || local->phase != LOCAL_READY || local->n_line > 0))
        waiter_ring(&transport->waiter);
}

static int op_cancel(struct transport *transport, uint64_t id)
{
    struct local *local = local_of(transport);
    uint32_t at = slot_find(&local->slots, id);
    struct slot *slot = at == SLOT_NONE ? NULL : slot_at(&local->slots, at);

    if (!slot || (slot->state != SLOT_LINE && slot->state != SLOT_OUT))
        return -ENOENT;
    if (slot->state == SLOT_LINE) {
        local_leave_line(local, at);
        local_end_here(local, at, SHERD_END_CANCELLED, -ECANCELED, NULL);
    } else if (!slot->cancel) {
        slot->cancel = true;
        local_note_cancel(local, slot);
        local_push_cancel(local, at);
        op_flush(transport);
    }
    return 0;
}

static size_t op_in_flight(const struct transport *transport)
{
    const struct local *local = (const struct local *)transport;

    return local->slots.n_open - (local->table_id != 0);
}

/* ---- ends that are fetched ---- */

static void op_forget(struct transport *transport)
{
    struct local *local = local_of(transport);

    while (local->handed.n > 0) {
        uint32_t at = local->handed.first;
        slot_list_remove(&local->slots, &local->handed, at);
        local_release(local, at);
    }
}

static uint32_t op_reap(struct transport *transport, struct sherd_result *ret_results, uint32_t n)
{
    struct local *local = local_of(transport);
    uint32_t i = 0;

    for (; i < n && local->ready.n > 0; i++) {
        uint32_t at = local->ready.first;
        slot_list_remove(&local->slots, &local->ready, at);
        slot_list_insert(&local->slots, &local->handed, SLOT_NONE, at);
        ret_results[i] = result_of(local, at);
    }
    return i;
}

/* ---- buffers ---- */

static void *op_buffer_alloc(struct transport *transport, size_t len)
{
    struct local *local = local_of(transport);
    void *buffer = len > SHERD_BUFFER_MAX ? NULL : area_alloc(&local->area, len);

    if (!buffer)
        errno = len > SHERD_BUFFER_MAX ? EMSGSIZE : ENOMEM;
    return buffer;
}

static void op_buffer_free(struct transport *transport, void *buffer)
{
    local_free_buffer(local_of(transport), buffer);
}

const struct transport_ops local_ops = {
    .plane = SHERD_PLANE_DATA,
    .free = local_free,
    .submit = op_submit,
    .flush = op_flush,
    .cancel = op_cancel,
    .in_flight = op_in_flight,
    .step = op_step,
    .wait = op_wait,
    .reap = op_reap,
    .forget = op_forget,
    .buffer_alloc = op_buffer_alloc,
    .buffer_free = op_buffer_free,
};
