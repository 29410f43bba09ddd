/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fake_call - struct service_call without a mesh: what a method was given and what it answered
 *
 * Why:         what a method does is its own matter; how calls travel is tested with the mesh.
 * Use:         struct service_call call = {.registry = registry, .method = "sys.echo", …};
 *              run_co(f, call_body, &call);   then look at status, reply and text
 *              call_deinit(&call);
 * Not here:    other shards: of the FAKE_SHARDS there are, each answers with what it is given, but
 *              the last one, which has just died
 */
#include "shard/registry.h"
#include "tests/unit/services/services_fixture.h"

struct service_call {
    const struct registry *registry;
    void *const *states; /* by service, as registry_start() made them; NULL: none */
    const char *method;
    const void *args;
    size_t args_len;
    int64_t deadline_ns; /* 0: none */
    uint32_t shard;      /* where it is */
    bool may_not_move;
    uint64_t caller;   /* service_caller.id */
    bool caller_gone;  /* it is over */
    bool is_abandoned; /* may be set at any time: nobody waits for the answer any more */
    bool *saw_direct;  /* set where a file is open past the cache while it is served; or NULL */
    CoQueue *no_room;  /* room for an answer is waited for here; NULL: there is some */

    /* Results. */
    int status;
    uint8_t *reply; /* NULL: no reply came; one of no bytes is not NULL */
    size_t reply_len;
    void *room; /* filled in place; NULL: none */
    size_t room_len;
    char *text; /* service_fail()'s */
    void *state;
};

static inline void call_body(void *opaque)
{
    struct service_call *call = opaque;
    uint32_t number;
    uint32_t service;
    assert_int_equal(registry_find(call->registry, call->method, strlen(call->method), &number), 0);
    const struct service_method *method = registry_method(call->registry, number, &service);
    assert_non_null(method);
    call->state = call->states ? call->states[service] : NULL;
    call->status = method->run(call);
}

static inline void call_deinit(struct service_call *call)
{
    free(call->reply);
    free(call->room);
    free(call->text);
}

/* ---- what methods use, as shard/service.h has it ---- */

#define FAKE_SHARDS 3u

uint32_t service_n_shards(const struct service_call *call)
{
    (void)call;
    return FAKE_SHARDS;
}

uint32_t service_shard(const struct service_call *call)
{
    return call->shard;
}

int service_move(struct service_call *call, uint32_t shard)
{
    assert_true(shard < FAKE_SHARDS);
    if (call->may_not_move)
        return -ENOTSUP;
    if (shard == FAKE_SHARDS - 1)
        return -EHOSTDOWN;
    call->shard = shard;
    return 0;
}

int service_call_shard(struct service_call *call, uint32_t shard, const char *name,
    const void *args, size_t len, void **ret_data, size_t *ret_len)
{
    uint32_t number;
    assert_int_equal(registry_find(call->registry, name, strlen(name), &number), 0);
    assert_true(shard < FAKE_SHARDS);
    if (shard == FAKE_SHARDS - 1)
        return -EHOSTDOWN;
    *ret_data = malloc(len + 1);
    memcpy(*ret_data, len ? args : "", len);
    *ret_len = len;
    return 0;
}

const void *service_args(const struct service_call *call, size_t *ret_len)
{
    *ret_len = call->args_len;
    return call->args;
}

void *service_state(const struct service_call *call)
{
    return call->state;
}

uint32_t service_n_methods(const struct service_call *call)
{
    return registry_n_methods(call->registry);
}

const struct service_method *service_method_at(
    const struct service_call *call, uint32_t method, const char **ret_service)
{
    uint32_t service;
    const struct service_method *found = registry_method(call->registry, method, &service);
    if (found)
        *ret_service = registry_service(call->registry, service)->name;
    return found;
}

void service_caller(const struct service_call *call, struct service_caller *ret_caller)
{
    *ret_caller = (struct service_caller){.id = call->caller};
}

int service_watch_caller(const struct service_call *call)
{
    return call->caller_gone ? -ECANCELED : call->caller ? 0 : -ENOENT;
}

int64_t service_deadline_ns(const struct service_call *call)
{
    return call->deadline_ns ? call->deadline_ns : INT64_MAX;
}

static inline void look_for_direct(const struct service_call *call)
{
    for (int fd = 0; call->saw_direct && fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFL);
        *call->saw_direct |= flags >= 0 && flags & O_DIRECT;
    }
}

bool service_is_wanted(const struct service_call *call)
{
    look_for_direct(call);
    return !call->is_abandoned && aio_clock_ns() < service_deadline_ns(call);
}

/* The mesh wakes the sleeper; this one looks. */
int service_sleep_ns(struct service_call *call, int64_t ns)
{
    int64_t end_ns = aio_clock_ns() + ns;
    while (service_is_wanted(call) && aio_clock_ns() < end_ns) {
        int64_t left_ns = end_ns - aio_clock_ns();
        co_sleep_ns(left_ns < 1000000 ? left_ns : 1000000);
    }
    if (call->is_abandoned)
        return -ECANCELED;
    return service_is_wanted(call) ? 0 : -ETIMEDOUT;
}

int service_reply(struct service_call *call, const void *data, size_t len)
{
    assert_null(call->reply);
    assert_true(len <= SERVICE_REPLY_MAX);
    call->reply = malloc(len + 1);
    memcpy(call->reply, len ? data : "", len);
    call->reply[len] = '\0';
    call->reply_len = len;
    return 0;
}

size_t service_reply_max(const struct service_call *call)
{
    return SERVICE_REPLY_MAX;
}

bool service_has_reply_room(const struct service_call *call, size_t len)
{
    assert_in_range(len, 1, SERVICE_REPLY_MAX);
    return !call->no_room;
}

int service_reply_room(struct service_call *call, size_t len, void **ret_room)
{
    if (call->no_room)
        assert_int_equal(co_queue_wait(call->no_room, NULL), 0);
    assert_null(call->reply);
    assert_null(call->room);
    assert_in_range(len, 1, SERVICE_REPLY_MAX);
    call->room = aligned_alloc(SERVICE_ROOM_ALIGN, (len + 4095) / 4096 * 4096);
    call->room_len = len;
    *ret_room = call->room;
    return 0;
}

int service_reply_done(struct service_call *call, size_t len)
{
    assert_non_null(call->room);
    assert_true(len <= call->room_len);
    look_for_direct(call);
    return service_reply(call, call->room, len);
}

int service_fail(struct service_call *call, int error, const char *format, ...)
{
    va_list args;
    assert_null(call->text);
    va_start(args, format);
    assert_true(vasprintf(&call->text, format, args) >= 0);
    va_end(args);
    return error;
}
