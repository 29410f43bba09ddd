/* SPDX-License-Identifier: MIT */
/*
 * A request is a coroutine of its own, which begins at once and, where its method waits for
 * nothing, has ended when run_begin() returns.
 *
 * Arguments within the entry are read where the ledger has them: no other process can write there.
 * Those in the client's memory are copied first, but for methods that say they take them in place
 * and are not routed by them: the client may change them at any time, so they are read once.
 * What has much in the client's memory and may run anywhere (SERVICE_STAYS) runs here, where that
 * memory is mapped: in another shard it would be a call, whose arguments and answer are copied and
 * have 1 MiB. All that concerns it is then this shard's, as of any request that runs here: its
 * urgency, deadline, cancel and quota, and after a death the entry says the same to the heir.
 * The copies of all requests together are bounded: what would be more waits in its ring (intake.c).
 * An answer goes straight to the client: into the completion where it is small, else into the room
 * that the entry names, wherever that begins; so no memory of the shard is needed for it.
 *
 * Orderings  first  then           ordered by            if broken
 *   TOUCH    flag   I/O submitted  store release, the    the heir tells an end while
 *                                  call into the kernel  a disk still writes there
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/instruments_inside.h"
#include "shard/call.h"
#include "shard/keymap.h"

struct run {
    struct service_call call; /* first: what serve_outside's functions get */
    struct plane *plane;
    struct request *request;
    const struct plane_submission *entry; /* in the ledger */
    void *room;                           /* the method has it; or NULL */
    uint64_t too_long;                    /* bytes of an answer that had no room */
    bool has_args;                        /* a copy: call.args */
    uint8_t tiny[PLANE_INLINE_ANSWER];    /* room for an answer of that size */
    uint8_t small[SEGMENT_INLINE_BYTES];
};

static struct run *run_of(struct service_call *call)
{
    return (struct run *)call;
}

static void count_payload(struct run *run, bool copied, uint64_t bytes)
{
    struct part_head *part = run->plane->part;

    counter_add(copied ? &part->payload_copied_bytes : &part->payload_in_place_bytes, bytes);
}

/* From here on I/O may touch the client's memory. */
static void note_touch(struct run *run)
{
    struct ledger_slot *slot = slot_of(run->plane, run->request);

    atomic_store_release(&slot->flags, slot->flags | LEDGER_TOUCHES_CLIENT); /* TOUCH */
}

/* ---- answers ---- */

static uint8_t *find_room(struct run *run, size_t len)
{
    uint8_t *room = ledger_room(run->plane, run->request, len);

    if (!room)
        run->too_long = len;
    return room;
}

static int put_reply(struct service_call *call, const void *data, size_t len)
{
    struct run *run = run_of(call);
    uint8_t *to = len <= PLANE_INLINE_ANSWER
                      ? completion_of(slot_of(run->plane, run->request))->inline_answer
                      : find_room(run, len);

    if (!to)
        return -ENOBUFS;
    if (len)
        memcpy(to, data, len);
    if (len > SEGMENT_INLINE_BYTES)
        count_payload(run, true, len);
    call->reply_len = len;
    return 0;
}

static int take_room(struct service_call *call, size_t len, void **ret_room)
{
    struct run *run = run_of(call);

    if (len <= PLANE_INLINE_ANSWER) {
        run->room = run->tiny;
    } else {
        run->room = find_room(run, len);
        if (!run->room)
            return -ENOBUFS;
        note_touch(run);
    }
    *ret_room = run->room;
    return 0;
}

static int put_room(struct service_call *call, size_t len)
{
    struct run *run = run_of(call);

    if (len <= PLANE_INLINE_ANSWER)
        return put_reply(call, run->room, len);
    count_payload(run, false, len);
    call->reply_len = len;
    return 0;
}

static const struct serve_outside client = {.reply_max = PLANE_PAYLOAD_MAX,
    .reply = put_reply,
    .take_room = take_room,
    .put_room = put_room};

/* ---- arguments ---- */

/* Where there are none, args_off may be anything. */
static const uint8_t *args_of(const struct run *run)
{
    const struct plane_submission *entry = run->entry;

    return entry->flags & PLANE_ARGS_INLINE || entry->args_len == 0
               ? entry->inline_args
               : run->request->lane->data + entry->args_off;
}

/* To where nobody else can write to them. Once: what is routed by them is run with the same. */
static int copy_args(struct run *run)
{
    struct service_call *call = &run->call;
    uint32_t len = run->entry->args_len;
    const uint8_t *from = args_of(run);

    if (run->has_args)
        return 0;
    if (run->entry->flags & PLANE_ARGS_INLINE) {
        call->args = from;
    } else if (len > SERVICE_REPLY_MAX) {
        return -EMSGSIZE;
    } else if (len <= sizeof(run->small)) {
        call->args = memcpy(run->small, from, len);
    } else {
        call->args_copy = malloc(len);
        if (!call->args_copy)
            return -ENOMEM;
        call->args = memcpy(call->args_copy, from, len);
        run->request->lane->copied_bytes += len;
        run->plane->copied_bytes += len;
        count_payload(run, true, len);
    }
    run->has_args = true;
    return 0;
}

/* Before its end is told, as there may be no lane after that. */
static void drop_args(struct run *run)
{
    if (!run->call.args_copy)
        return;
    run->request->lane->copied_bytes -= run->entry->args_len;
    run->plane->copied_bytes -= run->entry->args_len;
    free(run->call.args_copy);
    run->call.args_copy = NULL;
}

uint32_t run_copies(const struct plane *plane, const struct plane_submission *entry)
{
    const struct service_method *method;
    bool in_place;

    if (entry->flags & PLANE_ARGS_INLINE || entry->args_len <= SEGMENT_INLINE_BYTES ||
        entry->args_len > SERVICE_REPLY_MAX)
        return 0;
    method = registry_method(plane->registry, entry->method, NULL);
    if (!method)
        return 0;
    in_place = method->flags & SERVICE_IN_PLACE &&
               (entry->route_kind != PLANE_ROUTE_METHOD || method->flags & SERVICE_STAYS);
    return in_place ? 0 : entry->args_len;
}

static int take_args(struct run *run)
{
    struct service_call *call = &run->call;
    bool in_memory = !(run->entry->flags & PLANE_ARGS_INLINE) && run->entry->args_len > 0;

    call->args_len = run->entry->args_len;
    call->args_in_place = in_memory && !run->has_args && call->method->flags & SERVICE_IN_PLACE;
    if (!call->args_in_place)
        return copy_args(run);
    note_touch(run);
    call->args = args_of(run);
    count_payload(run, false, call->args_len);
    return 0;
}

/* ---- where ---- */

static bool stays(const struct run *run)
{
    const struct plane_submission *entry = run->entry;
    bool in_memory = !(entry->flags & PLANE_ARGS_INLINE);

    return run->call.method->flags & SERVICE_STAYS &&
           ((in_memory && entry->args_len > SEGMENT_INLINE_BYTES) ||
               entry->room_len > SEGMENT_INLINE_BYTES);
}

/* Where the method's rule says nothing of such arguments, here. */
static int find_by_method(struct run *run, uint32_t *ret_shard)
{
    const struct plane *plane = run->plane;
    uint64_t hash;
    int r;

    if (stays(run))
        return 0;
    r = copy_args(run);
    if (r < 0)
        return r;
    if (registry_hash(
            plane->registry, run->entry->method, run->call.args, run->entry->args_len, &hash) == 0)
        *ret_shard = keymap_shard(keymap_slot(hash), plane->seg.geometry.n_shards);
    return 0;
}

/* -ENODEV: there is no such shard; -EMSGSIZE, -ENOMEM: of the arguments no copy can be made. */
static int find_shard(struct run *run, uint32_t *ret_shard)
{
    uint32_t n_shards = run->plane->seg.geometry.n_shards;
    uint64_t hash = run->entry->route;

    *ret_shard = run->plane->shard;
    switch (run->entry->route_kind) {
    case PLANE_ROUTE_SHARD:
        if (hash >= n_shards)
            return -ENODEV;
        *ret_shard = (uint32_t)hash;
        return 0;
    case PLANE_ROUTE_METHOD:
        return find_by_method(run, ret_shard);
    case PLANE_ROUTE_KEY:
        *ret_shard = keymap_shard(keymap_slot(hash), n_shards);
        return 0;
    default:
        return 0;
    }
}

/* ---- here ---- */

/* A cancelled method that gave up is cancelled; one that had an answer all the same is done. */
static enum call_end end_of(const struct run *run, int status)
{
    const struct ledger_slot *slot = slot_of(run->plane, run->request);

    return status == -ECANCELED && slot->flags & LEDGER_CANCELLED
               ? CALL_END_CANCELLED
               : serve_end_of(&run->call, status);
}

/* Says so of an answer longer than its room. Returns how long the text is. */
static uint32_t put_too_long(struct run *run)
{
    char text[80];

    snprintf(text, sizeof(text), "the answer has %llu bytes, the room for it %u",
        (unsigned long long)run->too_long, run->entry->room_len);
    return ledger_put_text(run->plane, run->request, text);
}

static void finish(struct run *run, int status)
{
    struct outcome outcome = {.shard = run->plane->shard, .len = (uint32_t)run->call.reply_len};

    run->request->call = NULL;
    if (run->too_long)
        status = -ENOBUFS;
    outcome.end = end_of(run, status);
    if (status < 0) {
        outcome.error = status;
        outcome.len = run->too_long
                          ? put_too_long(run)
                          : ledger_put_text(run->plane, run->request, run->call.error_text);
    }
    drop_args(run);
    ledger_end(run->plane, run->request, &outcome);
}

/* It is not run, nowhere: -errno of a step before that. */
static void refuse(struct run *run, int error)
{
    const char *text = error == -ENOENT     ? "no method of that number"
                       : error == -ENODEV   ? "no such shard"
                       : error == -EMSGSIZE ? "arguments above 1 MiB"
                                            : NULL;

    drop_args(run);
    ledger_refuse(run->plane, run->request, CALL_END_NOT_STARTED, error, text, 0);
}

static void coroutine_fn run_here(struct run *run)
{
    int r = take_args(run);

    if (r < 0) {
        refuse(run, r);
        return;
    }
    run->call.deadline_ns = deadline_of(run->entry);
    run->call.origin = lane_origin(run->request->lane);
    run->request->call = &run->call;
    r = serve_outside_run(&run->call);
    finish(run, r);
    serve_outside_deinit(&run->call);
}

/* ---- in another shard ---- */

static void finish_forward(
    struct run *run, uint32_t shard, int status, const struct call_answer *answer)
{
    struct outcome outcome = {.end = answer->end, .error = status < 0 ? status : 0, .shard = shard};

    run->request->forward = NULL;
    if (status < 0) {
        outcome.len = ledger_put_text(run->plane, run->request, answer->data);
    } else if (put_reply(&run->call, answer->data, answer->len) < 0) {
        outcome.end = CALL_END_FAILED;
        outcome.error = -ENOBUFS;
        outcome.len = put_too_long(run);
    } else {
        outcome.len = (uint32_t)run->call.reply_len;
    }
    drop_args(run);
    ledger_end(run->plane, run->request, &outcome);
}

static enum mesh_lane lane_of(const struct plane_submission *entry)
{
    return entry->flags & PLANE_URGENT ? LANE_URGENT : LANE_NORMAL;
}

static void coroutine_fn run_elsewhere(struct run *run, uint32_t shard)
{
    const struct plane_submission *entry = run->entry;
    struct call_request request = {.target = shard,
        .method = entry->method,
        .args = run->has_args ? run->call.args : args_of(run),
        .args_len = entry->args_len,
        .deadline_ns = deadline_of(entry),
        .lane = lane_of(entry),
        .origin = lane_origin(run->request->lane),
        .in_place = true};
    struct call_answer answer = {0};
    CoCancel token;
    CoScope scope;
    int r;

    co_cancel_init(&token);
    run->request->forward = &token;
    co_scope_begin(&scope, &token, CO_NO_DEADLINE);
    r = shard_call(run->plane->mesh, &request, &answer);
    co_scope_end(&scope);
    finish_forward(run, shard, r, &answer);
    call_answer_deinit(&answer);
    co_cancel_deinit(&token);
}

/* ---- beginning ---- */

/* Whether the shard it is for is so far behind that its client would rather not wait. */
static bool is_refused(struct run *run, uint32_t shard)
{
    struct mesh *mesh = run->plane->mesh;
    int64_t waits_ns;

    if (!(run->entry->flags & PLANE_REFUSE))
        return false;
    waits_ns = mesh_waits_ns(mesh, shard, lane_of(run->entry));
    if (waits_ns <= PACE_WAIT_NS)
        return false;
    drop_args(run);
    ledger_refuse_behind(run->plane, run->request, waits_ns);
    return true;
}

static void coroutine_fn run_entry(void *opaque)
{
    struct request *request = opaque;
    struct plane *plane = request->lane->plane;
    struct ledger_slot *slot = slot_of(plane, request);
    struct run run;
    uint32_t shard;
    int r;

    run.plane = plane;
    run.request = request;
    run.entry = entry_of(slot);
    run.call.args_copy = NULL; /* also where there is no such method, and so no call */
    run.room = NULL;
    run.too_long = 0;
    run.has_args = false;
    if (!serve_outside_init(&run.call, &client, plane->mesh, run.entry->method,
            (uint32_t)(request - plane->requests), ledger_generation(slot->word)))
        refuse(&run, -ENOENT);
    else if ((r = find_shard(&run, &shard)) < 0)
        refuse(&run, r);
    else if (shard == plane->shard)
        run_here(&run);
    else if (!is_refused(&run, shard))
        run_elsewhere(&run, shard);
}

void run_begin(struct plane *plane, struct request *request)
{
    const struct ledger_slot *slot = slot_of(plane, request);
    const struct service_method *method =
        registry_method(plane->registry, entry_of(slot)->method, NULL);
    Coroutine *co =
        coroutine_create_full(run_entry, request, method ? method->name : "client's request", 0);

    if (!co) {
        ledger_refuse(plane, request, CALL_END_NOT_STARTED, -ENOMEM, NULL, 0);
        return;
    }
    /* It may be over when coroutine_enter() returns. */
    uint32_t number = entry_of(slot)->method;
    int64_t deadline_ns = deadline_of(entry_of(slot));
    int64_t begun_ns = pace_begin(serve_pace(plane->mesh));

    ledger_start(plane, request);
    coroutine_enter(co);
    pace_end(serve_pace(plane->mesh), number, begun_ns, deadline_ns);
}
