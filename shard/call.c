/* SPDX-License-Identifier: MIT */
/*
 * A scope of the calling coroutine that ends takes the call back like mesh_call_cancel(); its end
 * still comes by done(), and only then the coroutine goes on, because the call lies in its frame.
 */
#include "shard/call.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shard/mesh_inside.h"
#include "shard/serve_local.h"
#include "shard/service.h"

/* An answer that is read in place is in the mesh's list, so that its reader is known. */
static void begin_reading(struct mesh *mesh, const struct mesh_answer *from, Coroutine *reader,
    struct call_answer *answer)
{
    mesh_answer_hold(mesh, from, &answer->hold);
    answer->mesh = mesh;
    answer->reader = reader;
    answer->data = from->data;
    answer->len = from->len;
    answer->next = mesh->reading;
    mesh->reading = answer;
}

static void end_reading(struct call_answer *answer)
{
    struct call_answer **link = &answer->mesh->reading;

    while (*link != answer)
        link = &(*link)->next;
    *link = answer->next;
    mesh_hold_release(answer->mesh, &answer->hold);
}

bool call_is_reading(const struct mesh *mesh, const Coroutine *co)
{
    for (const struct call_answer *answer = mesh->reading; answer; answer = answer->next)
        if (answer->reader == co)
            return true;
    return false;
}

void call_answer_deinit(struct call_answer *answer)
{
    if (answer->hold.held)
        end_reading(answer);
    free(answer->copy);
    *answer = (struct call_answer){0};
}

static int copy_answer(const struct mesh_answer *from, struct call_answer *answer)
{
    *answer = (struct call_answer){.end = from->end};
    if (!from->len)
        return from->status;
    answer->copy = malloc(from->len + 1);
    if (!answer->copy) {
        answer->end = CALL_END_FAILED;
        return -ENOMEM;
    }
    memcpy(answer->copy, from->data, from->len);
    ((char *)answer->copy)[from->len] = '\0'; /* a text is a string */
    answer->data = answer->copy;
    answer->len = from->len;
    return from->status;
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct call_wait *waiting = (struct call_wait *)call;

    if (waiting->in_place && answer->hold && answer->end == CALL_END_DONE) {
        *waiting->answer = (struct call_answer){.end = answer->end};
        begin_reading(call->mesh, answer, waiting->co, waiting->answer);
        waiting->status = answer->status;
    } else {
        waiting->status = copy_answer(answer, waiting->answer);
        if (answer->hold)
            mesh_count_payload(call->mesh, true, answer->len);
    }
    waiting->is_over = true;
    if (waiting->waits)
        aio_co_wake(waiting->co);
}

static int refused(int r, struct call_answer *ret_answer)
{
    *ret_answer = (struct call_answer){.end = CALL_END_NOT_STARTED};
    return r;
}

static int coroutine_fn call_self(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    struct mesh_answer answer;

    if (request->depth >= SEGMENT_MAX_DEPTH)
        return refused(-ELOOP, ret_answer);
    if (request->args_len > SEGMENT_PAYLOAD_MAX)
        return refused(-EMSGSIZE, ret_answer);
    if (!registry_method(mesh->registry, request->method, NULL))
        return refused(-ENOENT, ret_answer);
    *ret_answer = (struct call_answer){0};
    serve_local(mesh, request, call_deadline_ns(request->deadline_ns), &answer, &ret_answer->copy);
    ret_answer->data = ret_answer->copy;
    /* A method that ended because a scope of ours did was cancelled by us. */
    ret_answer->end = answer.status == -ECANCELED && co_scope_status() == -ECANCELED
                          ? CALL_END_CANCELLED
                          : answer.end;
    ret_answer->len = answer.len;
    return answer.status;
}

int64_t call_deadline_ns(int64_t deadline_ns)
{
    const CoScope *scope = co_scope_innermost();

    return scope && scope->deadline_ns < deadline_ns ? scope->deadline_ns : deadline_ns;
}

static bool withdraw(struct co_wait *wait)
{
    struct call_wait *waiting =
        (struct call_wait *)((char *)wait - offsetof(struct call_wait, wait));

    waiting->withdrawn = true;
    mesh_call_cancel(waiting->call.mesh, &waiting->call);
    return false; /* done() comes */
}

/* A call that a scope took back ended for the scope's reason. */
static int told_status(const struct call_wait *waiting)
{
    if (!waiting->withdrawn || waiting->answer->end != CALL_END_CANCELLED ||
        co_scope_status() != -ETIMEDOUT)
        return waiting->status;
    waiting->answer->end = CALL_END_EXPIRED;
    return -ETIMEDOUT;
}

/*
 * All that a caller sets, what is not named here to zero, and nothing of the mesh's own, which
 * mesh_call_start() fills in: zeroing that as well made a call with 128 in flight 5 ns slower, of
 * 86.
 */
static void ask(struct mesh_call *call, const struct mesh_asked *asked)
{
#define X(type, name, help) call->name = asked->name;
    MESH_CALL_ASKED(X)
#undef X
}

static void coroutine_fn fill_in(
    struct call_wait *waiting, const struct call_request *request, struct call_answer *ret_answer)
{
    ask(&waiting->call, &(struct mesh_asked){.target = request->target,
                            .method = request->method,
                            .args = request->args,
                            .args_len = request->args_len,
                            .deadline_ns = call_deadline_ns(request->deadline_ns),
                            .depth = request->depth,
                            .path = request->path,
                            .lane = request->lane,
                            .origin = request->origin,
                            .done = on_done});
    waiting->wait.withdraw = withdraw;
    waiting->co = coroutine_self();
    waiting->answer = ret_answer;
    waiting->in_place = request->in_place;
    waiting->withdrawn = waiting->waits = waiting->is_over = false;
}

int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    struct call_wait waiting;
    int r;

    if (mesh->reading && call_is_reading(mesh, coroutine_self()))
        return refused(-EDEADLK, ret_answer);
    if (request->target == mesh->self)
        return call_self(mesh, request, ret_answer);
    fill_in(&waiting, request, ret_answer);
    r = mesh_call_start(mesh, &waiting.call);
    if (r < 0)
        return refused(r, ret_answer);
    waiting.waits = true;
    co_wait(&waiting.wait, "call");
    return told_status(&waiting);
}

/* ---- arguments filled in place ---- */

static void on_room(struct mesh_call *call, void *data)
{
    struct call_wait *waiting = (struct call_wait *)call;
    struct call_room *room =
        (struct call_room *)((char *)waiting - offsetof(struct call_room, waiting));

    room->data = data;
    if (waiting->waits)
        aio_co_wake(waiting->co);
}

/* For a call to this shard itself. */
static int local_room(struct call_room *room)
{
    size_t whole = (room->len + SERVICE_ROOM_ALIGN - 1) / SERVICE_ROOM_ALIGN * SERVICE_ROOM_ALIGN;

    if (!room->len || room->len > SEGMENT_PAYLOAD_MAX)
        return -EMSGSIZE;
    room->data = aligned_alloc(SERVICE_ROOM_ALIGN, whole);
    return room->data ? 0 : -ENOMEM;
}

/* Waits for the room, or for the call's end. */
static int coroutine_fn wait_for_room(struct call_room *room)
{
    struct call_wait *waiting = &room->waiting;
    int r = mesh_call_start(room->mesh, &waiting->call);

    if (r < 0 || room->data)
        return r;
    waiting->waits = true;
    co_wait(&waiting->wait, "room for a call");
    waiting->waits = false;
    if (!waiting->is_over)
        return 0;
    r = told_status(waiting);
    call_answer_deinit(&room->refusal);
    return r;
}

int coroutine_fn shard_call_room(
    struct mesh *mesh, const struct call_request *request, struct call_room *ret_room)
{
    int r;

    *ret_room = (struct call_room){.mesh = mesh, .request = *request, .len = request->args_len};
    fill_in(&ret_room->waiting, request, &ret_room->refusal);
    ret_room->waiting.call.ready = on_room;
    if (mesh->reading && call_is_reading(mesh, ret_room->waiting.co))
        return -EDEADLK;
    r = request->target == mesh->self ? local_room(ret_room) : wait_for_room(ret_room);
    if (r < 0)
        ret_room->data = NULL;
    return r;
}

static int coroutine_fn call_self_filled(
    struct call_room *room, size_t len, struct call_answer *ret_answer)
{
    int r;

    room->request.args = room->data;
    room->request.args_len = len;
    r = call_self(room->mesh, &room->request, ret_answer);
    free(room->data);
    return r;
}

int coroutine_fn shard_call_filled(
    struct call_room *room, size_t len, struct call_answer *ret_answer)
{
    struct call_wait *waiting = &room->waiting;
    int r;

    assert(room->data && len <= room->len);
    if (room->request.target == room->mesh->self) {
        r = call_self_filled(room, len, ret_answer);
    } else {
        waiting->answer = ret_answer;
        waiting->call.args_len = len;
        mesh_call_send(room->mesh, &waiting->call);
        waiting->waits = true;
        co_wait(&waiting->wait, "call");
        r = told_status(waiting);
    }
    room->data = NULL;
    return r;
}

void shard_call_room_drop(struct call_room *room)
{
    if (!room->data)
        return;
    if (room->request.target == room->mesh->self)
        free(room->data);
    else
        mesh_call_drop(room->mesh, &room->waiting.call);
    room->data = NULL;
}

void call_room_free(struct call_room **room)
{
    if (*room)
        shard_call_room_drop(*room);
    free(*room);
    *room = NULL;
}
