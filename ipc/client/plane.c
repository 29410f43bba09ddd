/* SPDX-License-Identifier: MIT */
/*
 * An id is a slot and its generation, so a completion finds its request by index. What the shard
 * wrote is checked against what was asked of it: nothing of it is used as an index, an offset or a
 * length before that.
 *
 * A step looks at the rings of the lanes that are open, runs what has ended, and pushes what waits.
 * Waiting is looking for spin_ns, then sleeping: each lane with requests is told so (lane_arm()),
 * looked at once more behind a fence, and then the waiter waits for doorbells and the connection.
 * Where somebody else waits for the fd, lanes stay armed between steps.
 *
 * Memory of a request goes back when its end has been told: behind its callback, or at the fetch
 * after the one that got it.
 */
#include "ipc/client/plane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_LOOKS 1024u /* steps without anything, until the fds are looked at all the same */
#define SPIN_ROUND 32u   /* looks between two looks at the clock */
#define EVENTS_MAX 16

/* ---- ends ---- */

void plane_release(struct plane *plane, uint32_t at)
{
    struct slot *slot = slot_at(&plane->slots, at);

    if (slot->args)
        area_free(&plane->area, slot->args);
    if (slot->has_room)
        area_free(&plane->area, slot->room);
    slot->args = NULL;
    slot->has_room = false;
    slot_put(&plane->slots, at);
}

void plane_end_here(
    struct plane *plane, uint32_t at, enum sherd_end end, int error, const char *text)
{
    struct slot *slot = slot_at(&plane->slots, at);

    free(slot->parked);
    slot->parked = NULL;
    slot->state = SLOT_ENDED;
    slot->end = end;
    slot->error = error;
    slot->shard = SHERD_NO_SHARD;
    slot->retry_us = 0;
    slot->data = (const uint8_t *)text;
    slot->len = text ? (uint32_t)strlen(text) : 0;
    slot_list_insert(&plane->slots, &plane->ended, plane->ended.last, at);
    if (plane->base.is_polled && !plane->inside)
        waiter_ring(&plane->base.waiter);
}

static struct sherd_result result_of(const struct plane *plane, uint32_t at)
{
    const struct slot *slot = slot_at(&plane->slots, at);

    return (struct sherd_result){
        .id = slot_id(&plane->slots, at),
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
static void tell(struct plane *plane, uint32_t at)
{
    struct slot *slot = slot_at(&plane->slots, at);

    plane->slots.n_open--;
    plane->base.n_ended++;
    if (!slot->done) {
        slot_list_insert(&plane->slots, &plane->ready, plane->ready.last, at);
        return;
    }
    struct sherd_result result = result_of(plane, at);
    slot->done(&result, slot->opaque);
    plane_release(plane, at);
}

static void tell_ended(struct plane *plane)
{
    size_t n = plane->ended.n; /* not what callbacks add */

    for (; n > 0; n--) {
        uint32_t at = plane->ended.first;
        slot_list_remove(&plane->slots, &plane->ended, at);
        tell(plane, at);
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
    const struct plane *plane, uint32_t shard, const struct plane_completion *completion)
{
    uint32_t at = slot_find(&plane->slots, completion->id);

    if (at == SLOT_NONE || !is_end(completion->end) || completion->error > 0)
        return SLOT_NONE;
    const struct slot *slot = slot_at(&plane->slots, at);
    return slot->state == SLOT_OUT && slot->lane == shard ? at : SLOT_NONE;
}

static void end_table(struct plane *plane, uint32_t at)
{
    const struct slot *slot = slot_at(&plane->slots, at);
    enum sherd_end end = (enum sherd_end)slot->end;
    int error = slot->error;
    size_t len = slot->len;

    plane->slots.n_open--;
    plane_release(plane, at);
    plane_take_table(plane, end, error, len);
}

static bool take_completion(struct plane *plane, uint32_t shard)
{
    struct lane *lane = &plane->lanes[shard];
    struct plane_completion completion;

    if (!lane_pop(lane, &completion))
        return false;
    uint32_t at = find_ended(plane, shard, &completion);
    if (at == SLOT_NONE) {
        plane_distrust(plane);
        return false;
    }
    struct slot *slot = slot_at(&plane->slots, at);
    if (slot->position >= lane->consumed)
        lane->consumed = slot->position + 1;
    if (slot->cancel_waits) {
        slot_list_remove(&plane->slots, &lane->cancels, at);
        slot->cancel_waits = false;
        plane->n_cancel_waits--;
    }
    lane->n_out--;
    plane->n_out--;
    slot->state = SLOT_ENDED;
    slot->end = completion.end;
    slot->error = completion.error;
    slot->shard = completion.shard;
    slot->retry_us = completion.retry_us;
    slot->len = completion.len;
    if (!find_answer(slot, &completion)) {
        slot->len = 0;
        slot->end = SHERD_END_FAILED;
        slot->error = -EPROTO;
    }
    if (completion.id == plane->table_id)
        end_table(plane, at);
    else
        tell(plane, at);
    return true;
}

/* At most a ring full of each, so that none keeps the others waiting. */
void plane_take_completions(struct plane *plane)
{
    for (uint32_t i = 0; i < plane->n_open; i++) {
        uint32_t shard = plane->open[i];
        uint32_t n = plane->lanes[shard].n_out;
        while (n-- > 0 && i < plane->n_open && take_completion(plane, shard))
            ;
    }
}

/* ---- deadlines in line ---- */

static void expire_list(struct plane *plane, struct slot_list *list, int64_t now_ns)
{
    for (uint32_t at = list->first, next; at != SLOT_NONE; at = next) {
        struct slot *slot = slot_at(&plane->slots, at);
        int64_t deadline_ns = slot->parked->work.deadline_ns;
        next = slot->next;
        if (deadline_ns <= now_ns) {
            plane_leave_line(plane, at);
            plane_end_here(
                plane, at, SHERD_END_EXPIRED, -ETIMEDOUT, "its deadline passed before it was sent");
        } else if (deadline_ns < plane->line_deadline_ns) {
            plane->line_deadline_ns = deadline_ns;
        }
    }
}

static void expire_lines(struct plane *plane)
{
    int64_t now_ns;

    if (plane->line_deadline_ns == INT64_MAX ||
        (now_ns = waiter_now_ns()) < plane->line_deadline_ns)
        return;
    plane->line_deadline_ns = INT64_MAX;
    expire_list(plane, &plane->unplaced, now_ns);
    for (uint32_t shard = 0; plane->lanes && shard < plane->layout.n_shards; shard++)
        expire_list(plane, &plane->lanes[shard].line, now_ns);
}

/* ---- looking and sleeping ---- */

static bool has_completions(const struct plane *plane)
{
    for (uint32_t i = 0; i < plane->n_open; i++)
        if (plane->lanes[plane->open[i]].n_out > 0 && lane_has(&plane->lanes[plane->open[i]]))
            return true;
    return false;
}

/* Lanes from which something is to come ring from now on. True: something has come already. */
static bool arm(struct plane *plane)
{
    bool any = false;

    for (uint32_t i = 0; i < plane->n_open; i++) {
        struct lane *lane = &plane->lanes[plane->open[i]];
        if (lane->n_out > 0 && !lane->is_armed) {
            lane_arm(lane);
            any = true;
        }
    }
    if (!any)
        return has_completions(plane);
    plane->is_armed = true;
    lane_fence();
    return has_completions(plane);
}

static void disarm(struct plane *plane)
{
    if (!plane->is_armed)
        return;
    for (uint32_t i = 0; i < plane->n_open; i++)
        if (plane->lanes[plane->open[i]].is_armed)
            lane_disarm(&plane->lanes[plane->open[i]]);
    plane->is_armed = false;
}

static void take_event(struct plane *plane, uint64_t tag)
{
    if (tag == 0) {
        waiter_quiet(&plane->base.waiter);
    } else if (tag == PLANE_TAG_ATTACH) {
        plane->attach_ready = true;
    } else if (tag - PLANE_TAG_LANE < plane->layout.n_shards) {
        struct lane *lane = &plane->lanes[tag - PLANE_TAG_LANE];
        /* At its end the connection will tell the rest. */
        if (lane->bell_fd >= 0 && !lane_drain_bell(lane))
            waiter_unwatch(&plane->base.waiter, lane->bell_fd);
    }
}

static int take_events(struct plane *plane, int64_t until_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int n = waiter_wait(&plane->base.waiter, until_ns, events, EVENTS_MAX);

    plane->n_idle = 0;
    for (int i = 0; i < n; i++)
        take_event(plane, events[i].data.u64);
    return n < 0 ? n : 0;
}

static bool spin(struct plane *plane, int64_t until_ns)
{
    int64_t end_ns = 0;

    for (;;) {
        for (uint32_t i = 0; i < SPIN_ROUND; i++)
            if (has_completions(plane))
                return true;
        atomic_pause();
        int64_t now_ns = waiter_now_ns();
        if (end_ns == 0)
            end_ns = now_ns + plane->spin_ns;
        if (now_ns >= end_ns || now_ns >= until_ns ||
            atomic_load_relaxed(&plane->base.waiter.woken)) /* a hint */
            return false;
    }
}

/* Of what no fd tells. */
static int64_t next_ns(const struct plane *plane)
{
    int64_t live_ns = plane_live_next_ns(plane);

    return live_ns < plane->line_deadline_ns ? live_ns : plane->line_deadline_ns;
}

static int op_wait(struct transport *transport, int64_t until_ns)
{
    struct plane *plane = plane_of(transport);
    int64_t due_ns = next_ns(plane);

    if (plane->ended.n > 0)
        return 0;
    if (plane->spin_ns > 0 && plane->n_out > 0 && spin(plane, until_ns))
        return 0;
    if (arm(plane))
        return 0;
    return take_events(plane, due_ns < until_ns ? due_ns : until_ns);
}

/* Who waits elsewhere is told of all that there is to do. */
static void see_to_fd(struct plane *plane)
{
    waiter_arm(&plane->base.waiter, next_ns(plane));
    if (arm(plane) || plane->ended.n > 0)
        waiter_ring(&plane->base.waiter);
}

static void step_inside(struct plane *plane)
{
    uint64_t before = plane->base.n_ended;

    disarm(plane);
    if (plane->base.is_polled)
        take_events(plane, 0);
    plane_take_completions(plane);
    if (plane->base.n_ended == before && ++plane->n_idle >= IDLE_LOOKS)
        take_events(plane, 0);
    plane_live(plane);
    expire_lines(plane);
    if (plane->n_line > 0 || plane->n_cancel_waits > 0)
        plane_drain_lines(plane);
    if (plane->ended.n > 0)
        tell_ended(plane);
    plane_flush_lanes(plane);
}

static void op_step(struct transport *transport)
{
    struct plane *plane = plane_of(transport);

    plane->inside = true;
    step_inside(plane);
    plane->inside = false;
    if (transport->is_polled)
        see_to_fd(plane);
}

/* ---- requests ---- */

static int64_t find_method(struct plane *plane, const struct sherd_request *request)
{
    if (!request->method)
        return request->method_handle;
    int64_t found = methods_find(&plane->base.methods, request->method);
    return found >= 0 ? found : methods_add(&plane->base.methods, request->method);
}

static int op_submit(struct transport *transport, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    struct plane *plane = plane_of(transport);
    int64_t handle = find_method(plane, request);
    uint32_t at;

    if (handle < 0)
        return (int)handle;
    struct slot_work work = plane_work_of(plane, request, (uint32_t)handle);
    size_t most = plane->data_bytes < SHERD_BUFFER_MAX ? plane->data_bytes : SHERD_BUFFER_MAX;
    if (work.args_len > most || work.room_len > most)
        return -EMSGSIZE;
    int r = slot_take(&plane->slots, &at);
    if (r < 0)
        return r;
    struct slot *slot = slot_at(&plane->slots, at);
    slot->done = done;
    slot->opaque = opaque;
    r = plane_enter(plane, at, &work);
    if (r < 0) {
        plane->slots.n_open--;
        slot_put(&plane->slots, at);
        return r;
    }
    if (ret_id)
        *ret_id = slot_id(&plane->slots, at);
    return 0;
}

static void op_flush(struct transport *transport)
{
    struct plane *plane = plane_of(transport);

    if (plane->inside)
        return;
    plane_flush_lanes(plane);
    if (transport->is_polled && (arm(plane) || plane->phase != PLANE_READY || plane->n_line > 0))
        waiter_ring(&transport->waiter);
}

static int op_cancel(struct transport *transport, uint64_t id)
{
    struct plane *plane = plane_of(transport);
    uint32_t at = slot_find(&plane->slots, id);
    struct slot *slot = at == SLOT_NONE ? NULL : slot_at(&plane->slots, at);

    if (!slot || (slot->state != SLOT_LINE && slot->state != SLOT_OUT))
        return -ENOENT;
    if (slot->state == SLOT_LINE) {
        plane_leave_line(plane, at);
        plane_end_here(plane, at, SHERD_END_CANCELLED, -ECANCELED, NULL);
    } else if (!slot->cancel) {
        slot->cancel = true;
        plane_push_cancel(plane, at);
        op_flush(transport);
    }
    return 0;
}

static size_t op_in_flight(const struct transport *transport)
{
    const struct plane *plane = (const struct plane *)transport;

    return plane->slots.n_open - (plane->table_id != 0);
}

/* ---- ends that are fetched ---- */

static void op_forget(struct transport *transport)
{
    struct plane *plane = plane_of(transport);

    while (plane->handed.n > 0) {
        uint32_t at = plane->handed.first;
        slot_list_remove(&plane->slots, &plane->handed, at);
        plane_release(plane, at);
    }
}

static uint32_t op_reap(struct transport *transport, struct sherd_result *ret_results, uint32_t n)
{
    struct plane *plane = plane_of(transport);
    uint32_t i = 0;

    for (; i < n && plane->ready.n > 0; i++) {
        uint32_t at = plane->ready.first;
        slot_list_remove(&plane->slots, &plane->ready, at);
        slot_list_insert(&plane->slots, &plane->handed, SLOT_NONE, at);
        ret_results[i] = result_of(plane, at);
    }
    return i;
}

/* ---- buffers ---- */

static void *op_buffer_alloc(struct transport *transport, size_t len)
{
    struct plane *plane = plane_of(transport);
    void *buffer = len > SHERD_BUFFER_MAX ? NULL : area_alloc(&plane->area, len);

    if (!buffer)
        errno = len > SHERD_BUFFER_MAX ? EMSGSIZE : ENOMEM;
    return buffer;
}

static void op_buffer_free(struct transport *transport, void *buffer)
{
    area_free(&plane_of(transport)->area, buffer);
}

const struct transport_ops plane_ops = {
    .plane = SHERD_PLANE_DATA,
    .free = plane_free,
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
