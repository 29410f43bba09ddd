/* SPDX-License-Identifier: MIT */
/* What a method may use, for a call from another peer and for one of this shard's own alike. */
#include "shard/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/co_sleep.h"
#include "runtime/co_wait.h"
#include "shard/client_end.h"
#include "shard/gather.h"
#include "shard/keymap.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "shard/portable_inside.h"
#include "shard/serve_local.h"
#include "shard/service_home.h"

const void *service_args(const struct service_call *call, size_t *ret_len)
{
    *ret_len = call->args_len;
    return call->args;
}

void *service_state(const struct service_call *call)
{
    return call->state;
}

const struct service_method *service_method(const struct service_call *call)
{
    return call->method;
}

struct service_home *service_home(const struct service_call *call)
{
    return &call->mesh->homes[call->service];
}

uint64_t service_hash(const void *key, size_t len)
{
    return keymap_hash(key, len);
}

uint32_t service_shard_of_key(const struct service_call *call, const void *key, size_t len)
{
    if (service_n_shards(call) == 1)
        return 0;
    return service_shard_of_hash(call, keymap_hash(key, len));
}

uint32_t service_shard_of_hash(const struct service_call *call, uint64_t hash)
{
    return keymap_shard(keymap_slot(hash), service_n_shards(call));
}

uint32_t service_shard(const struct service_call *call)
{
    return call->mesh->self;
}

uint32_t service_n_shards(const struct service_call *call)
{
    return call->mesh->seg.geometry.n_shards;
}

uint32_t service_n_methods(const struct service_call *call)
{
    return registry_n_methods(call->mesh->registry);
}

const struct service_method *service_method_at(
    const struct service_call *call, uint32_t method, const char **ret_service)
{
    uint32_t service;
    const struct service_method *found = registry_method(call->mesh->registry, method, &service);

    if (found && ret_service)
        *ret_service = registry_service(call->mesh->registry, service)->name;
    return found;
}

void service_caller(const struct service_call *call, struct service_caller *ret_caller)
{
    service_caller_of(culprit_of(serve_origin(call)), ret_caller);
}

int service_watch_caller(const struct service_call *call)
{
    return client_end_watch(call->mesh, culprit_of(serve_origin(call)), call->service);
}

int64_t service_deadline_ns(const struct service_call *call)
{
    return call->deadline_ns;
}

/* ---- time ---- */

bool service_is_wanted(const struct service_call *call)
{
    return !serve_is_abandoned(call) &&
           (call->deadline_ns == INT64_MAX || aio_clock_ns() < call->deadline_ns);
}

static void on_sleep_over(void *opaque)
{
    serve_wake_sleeper(opaque);
}

struct sleep {
    struct co_wait wait; /* first: wake_no_more() gets a pointer to it */
    struct service_call *call;
};

static bool wake_no_more(struct co_wait *wait)
{
    struct service_call *call = ((struct sleep *)wait)->call;
    bool sleeps = call->sleeper;

    call->sleeper = NULL;
    return sleeps;
}

int coroutine_fn service_sleep_ns(struct service_call *call, int64_t ns)
{
    int64_t now_ns = aio_clock_ns();
    int64_t end_ns = ns < INT64_MAX - now_ns ? now_ns + ns : INT64_MAX - 1;
    struct sleep sleep = {.wait.withdraw = wake_no_more, .call = call};
    AioTimer timer;
    int r = 0;

    if (!call->abandoned) {
        aio_timer_init(call->mesh->ctx, &timer, on_sleep_over, call);
        timer_mod_ns(&timer, end_ns < call->deadline_ns ? end_ns : call->deadline_ns);
        call->sleeper = coroutine_self();
        r = co_wait(&sleep.wait, "sleep");
        timer_del(&timer);
    }
    if (r < 0)
        return r;
    if (call->abandoned)
        return -ECANCELED;
    return end_ns < call->deadline_ns ? 0 : -ETIMEDOUT;
}

/* ---- elsewhere ---- */

int coroutine_fn service_move(struct service_call *call, uint32_t shard)
{
    if (call->mesh->self == shard)
        return 0;
    if (call->local || !shard_co_self())
        return -ENOTSUP;
    if (call->room_off || call->reply_off || call->error_text || call->calling)
        return -EBUSY;
    return serve_move(call, shard);
}

int coroutine_fn service_yield(struct service_call *call)
{
    if (call->local || !shard_co_self()) {
        co_sleep_ns(1);
        return 0;
    }
    portable_take_turn(call->mesh);
    return service_move(call, portable_choose_shard(call->mesh));
}

/* ---- locks ---- */

static int coroutine_fn take_lock(struct service_call *call, const char *name, enum lock_op op)
{
    struct shard_mutex mutex = shard_mutex_named(call->mesh, name, strlen(name));

    if (call->abandoned)
        return -ECANCELED;
    return lock_take(call->mesh, &mutex, call->deadline_ns, op, &call->lock_wait);
}

int coroutine_fn service_lock(struct service_call *call, const char *name)
{
    return take_lock(call, name, LOCK_OP_ACQUIRE);
}

int coroutine_fn service_trylock(struct service_call *call, const char *name)
{
    return take_lock(call, name, LOCK_OP_TRY);
}

int coroutine_fn service_unlock(struct service_call *call, const char *name)
{
    struct shard_mutex mutex = shard_mutex_named(call->mesh, name, strlen(name));

    return shard_mutex_unlock(call->mesh, &mutex);
}

int coroutine_fn service_lock_consistent(struct service_call *call, const char *name)
{
    struct shard_mutex mutex = shard_mutex_named(call->mesh, name, strlen(name));

    return shard_mutex_consistent(call->mesh, &mutex);
}

/* ---- answers ---- */

size_t service_reply_max(const struct service_call *call)
{
    return call->outside ? call->outside->reply_max : SERVICE_REPLY_MAX;
}

int coroutine_fn service_reply(struct service_call *call, const void *data, size_t len)
{
    if (len > service_reply_max(call))
        return -EMSGSIZE;
    if (call->replied)
        return -EALREADY;
    if (call->outside) {
        call->replied = true;
        return call->outside->reply(call, data, len);
    }
    if ((call->args_in_place || call->calling) && len > SEGMENT_INLINE_BYTES)
        return -EDEADLK;
    if (!call->local) {
        int r = service_move(call, call->home);
        if (r < 0)
            return r;
        call->replied = true;
        serve_put_reply(call, data, len);
        return 0;
    }
    call->replied = true;
    call->local_reply = malloc(len ? len : 1);
    if (!call->local_reply)
        return -ENOMEM;
    if (len)
        memcpy(call->local_reply, data, len);
    call->reply_len = len;
    return 0;
}

int coroutine_fn service_reply_room(struct service_call *call, size_t len, void **ret_room)
{
    if (len == 0 || len > service_reply_max(call))
        return -EMSGSIZE;
    if (call->replied)
        return -EALREADY;
    if (call->outside) {
        int r = call->outside->take_room(call, len, ret_room);
        call->replied = call->has_room = r == 0;
        call->room_len = len;
        return r;
    }
    if (call->args_in_place || call->calling)
        return -EDEADLK;
    int r = service_move(call, call->home);
    if (r < 0)
        return r;
    if (call->local) {
        size_t whole = (len + SERVICE_ROOM_ALIGN - 1) / SERVICE_ROOM_ALIGN * SERVICE_ROOM_ALIGN;
        call->local_reply = aligned_alloc(SERVICE_ROOM_ALIGN, whole);
        if (!call->local_reply)
            return -ENOMEM;
        call->room_len = len;
    }
    call->replied = call->has_room = true;
    *ret_room = call->local ? call->local_reply : serve_take_room(call, len);
    return 0;
}

bool service_has_reply_room(const struct service_call *call, size_t len)
{
    return call->local || heap_has_room(&call->mesh->heap, call->from, len);
}

int service_reply_done(struct service_call *call, size_t len)
{
    if (!call->has_room || len > call->room_len)
        return -EINVAL;
    call->has_room = false;
    if (call->outside)
        return call->outside->put_room(call, len);
    if (call->local)
        call->reply_len = len;
    else
        serve_put_room(call, len);
    return 0;
}

int service_fail(struct service_call *call, int error, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (text && strlen(text) > SERVICE_ERROR_MAX)
        strcpy(text + SERVICE_ERROR_MAX - 3, "...");
    free(call->error_text);
    call->error_text = text;
    return error;
}

/* ---- calls to shards ---- */

/*
 * What a call asks of others ends when nobody waits for the call itself any more: its caller took
 * it back, or has died, or its client went. 0, or -ECANCELED where that is so already.
 */
static int coroutine_fn begin_nested(struct service_call *call, CoScope *scope)
{
    if (serve_is_abandoned(call))
        return -ECANCELED;
    if (!call->nests)
        co_cancel_init(&call->unwanted);
    call->nests = true;
    co_scope_begin(scope, &call->unwanted, CO_NO_DEADLINE);
    return 0;
}

/* Then it waits for no other buffer, and for no call. */
static bool holds_buffer(const struct service_call *call)
{
    return call->has_room || call->args_in_place || call->calling;
}

static int request_of(
    const struct service_call *call, uint32_t shard, const char *name, struct call_request *ret)
{
    *ret = (struct call_request){.target = shard,
        .deadline_ns = call->deadline_ns,
        .depth = call->depth + 1,
        .path = path_within(call->path, call->depth, call->mesh->self),
        .origin = serve_origin(call)};
    int r = registry_find(call->mesh->registry, name, strlen(name), &ret->method);

    return r == 0 && holds_buffer(call) ? -EDEADLK : r;
}

int coroutine_fn service_call_shard(struct service_call *call, uint32_t shard, const char *name,
    const void *args, size_t len, void **ret_data, size_t *ret_len)
{
    struct call_request request;
    struct call_answer answer;
    CoScope scope;
    int r = request_of(call, shard, name, &request);

    *ret_data = NULL;
    *ret_len = 0;
    if (r == 0)
        r = begin_nested(call, &scope);
    if (r < 0)
        return r;
    request.args = args;
    request.args_len = len;
    r = shard_call(call->mesh, &request, &answer);
    co_scope_end(&scope);
    *ret_len = answer.len;
    *ret_data = answer.copy;
    return r;
}

int coroutine_fn service_call_room(
    struct service_call *call, uint32_t shard, const char *name, size_t len, void **ret_room)
{
    struct call_request request;
    struct call_room *room;
    CoScope scope;
    int r = request_of(call, shard, name, &request);

    if (r < 0)
        return r;
    room = malloc(sizeof(*room));
    if (!room)
        return -ENOMEM;
    request.args_len = len;
    r = begin_nested(call, &scope);
    if (r == 0) {
        r = shard_call_room(call->mesh, &request, room);
        co_scope_end(&scope);
    }
    if (r < 0) {
        free(room);
        return r;
    }
    call->calling = room;
    *ret_room = room->data;
    return 0;
}

int coroutine_fn service_call_filled(
    struct service_call *call, size_t len, void **ret_data, size_t *ret_len)
{
    struct call_room *room = call->calling;
    struct call_answer answer;
    CoScope scope;

    *ret_data = NULL;
    *ret_len = 0;
    if (!room || len > room->len)
        return -EINVAL;
    call->calling = NULL;
    int r = begin_nested(call, &scope);
    if (r < 0) {
        call_room_free(&room);
        return r;
    }
    r = shard_call_filled(room, len, &answer);
    co_scope_end(&scope);
    *ret_len = answer.len;
    *ret_data = answer.copy;
    free(room);
    return r;
}

void service_call_drop(struct service_call *call)
{
    call_room_free(&call->calling);
}

/* ---- many at a time ---- */

static int coroutine_fn gather_parts(struct service_call *call,
    const struct gather_request *request, struct service_part *parts, struct gather_call *calls,
    size_t n)
{
    int r;

    for (size_t i = 0; i < n; i++)
        calls[i] = (struct gather_call){
            .target = parts[i].shard, .args = parts[i].args, .args_len = parts[i].args_len};
    r = shard_gather(call->mesh, request, calls, n);
    for (size_t i = 0; i < n; i++) {
        parts[i].status = calls[i].status;
        parts[i].data = calls[i].answer.copy;
        parts[i].len = calls[i].answer.len;
    }
    return r;
}

int coroutine_fn service_gather(struct service_call *call, const char *name,
    struct service_part *parts, size_t n, uint32_t flags)
{
    struct gather_request request = {.deadline_ns = call->deadline_ns,
        .depth = call->depth + 1,
        .path = path_within(call->path, call->depth, call->mesh->self),
        .origin = serve_origin(call),
        .fail_fast = (flags & SERVICE_FAIL_FAST) != 0};
    struct gather_call *calls = calloc(n ? n : 1, sizeof(*calls));
    CoScope scope;
    int r =
        calls ? registry_find(call->mesh->registry, name, strlen(name), &request.method) : -ENOMEM;

    if (r == 0 && holds_buffer(call))
        r = -EDEADLK;
    if (r == 0)
        r = begin_nested(call, &scope);
    for (size_t i = 0; i < n; i++) {
        parts[i].status = r;
        parts[i].data = NULL;
        parts[i].len = 0;
    }
    if (r == 0) {
        r = gather_parts(call, &request, parts, calls, n);
        co_scope_end(&scope);
    }
    free(calls);
    return r;
}
