/* SPDX-License-Identifier: MIT */
/*
 * permits - a semaphore and a read-write lock between all shards, made of mutexes alone
 *
 * A thing has N_PERMITS mutexes. Who takes one of them has a permit: N_PERMITS can at a time. A
 * reader takes one; a writer takes all, in their order, so that two writers never wait for each
 * other. What any of them holds when its shard dies passes on marked, as each mutex does: the next
 * one to take that permit is told -EOWNERDEAD, and may look whether the thing is whole.
 *
 * Who finds no permit free stands in line for one of them, which another may be given back before:
 * simple, and fair within each line.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/service.h>

#define N_PERMITS      4
#define NAME_MAX_BYTES 40
#define HOLD_NS        (20 * 1000000LL)

struct permit {
    char name[NAME_MAX_BYTES + 16];
};

static struct permit permit_of(const char *thing, int number)
{
    struct permit permit;
    snprintf(permit.name, sizeof(permit.name), "permits/%s/%d", thing, number);
    return permit;
}

/* What a permit guards here is nothing but time, so that it is always whole. */
static int coroutine_fn made_whole(struct service_call *call, const struct permit *permit, int r)
{
    return r == -EOWNERDEAD ? service_lock_consistent(call, permit->name) : r;
}

/* One permit, its number in *ret_number. */
static int coroutine_fn take_one(struct service_call *call, const char *thing, int *ret_number)
{
    int first = (int)service_shard(call) % N_PERMITS, r = -EBUSY;
    struct permit permit;
    for (int i = 0; i < N_PERMITS && r == -EBUSY; i++) {
        *ret_number = (first + i) % N_PERMITS;
        permit = permit_of(thing, *ret_number);
        r = service_trylock(call, permit.name);
    }
    if (r == -EBUSY) {
        *ret_number = first;
        permit = permit_of(thing, first);
        r = service_lock(call, permit.name);
    }
    return made_whole(call, &permit, r);
}

static void coroutine_fn give_back(struct service_call *call, const char *thing, int n)
{
    while (n-- > 0) {
        struct permit permit = permit_of(thing, n);
        service_unlock(call, permit.name);
    }
}

static int coroutine_fn take_all(struct service_call *call, const char *thing)
{
    for (int number = 0; number < N_PERMITS; number++) {
        struct permit permit = permit_of(thing, number);
        int r = made_whole(call, &permit, service_lock(call, permit.name));
        if (r < 0) {
            give_back(call, thing, number);
            return r;
        }
    }
    return 0;
}

/* "NAME" or "NAME MS". */
static int read_thing(
    struct service_call *call, char thing[NAME_MAX_BYTES + 1], int64_t *ret_hold_ns)
{
    size_t len, name_len = 0;
    int64_t ms = 0;
    const char *args = service_args(call, &len);
    while (name_len < len && args[name_len] != ' ')
        name_len++;
    for (size_t i = name_len + 1; i < len && ms >= 0; i++)
        ms = args[i] >= '0' && args[i] <= '9' && ms < INT32_MAX ? ms * 10 + args[i] - '0' : -1;
    if (name_len == 0 || name_len > NAME_MAX_BYTES || ms < 0)
        return service_fail(call, -EINVAL,
            "permits: the argument is a name of 1 to %d bytes, then maybe a space and how many ms",
            NAME_MAX_BYTES);
    memcpy(thing, args, name_len);
    thing[name_len] = '\0';
    *ret_hold_ns = name_len < len ? ms * 1000000 : HOLD_NS;
    return 0;
}

static int coroutine_fn run_read(struct service_call *call)
{
    char thing[NAME_MAX_BYTES + 1];
    int64_t hold_ns = 0;
    int number = 0, r = read_thing(call, thing, &hold_ns);
    if (r == 0)
        r = take_one(call, thing, &number);
    if (r < 0)
        return r;
    r = service_sleep_ns(call, hold_ns);
    struct permit permit = permit_of(thing, number);
    service_unlock(call, permit.name);
    return r;
}

static int coroutine_fn run_write(struct service_call *call)
{
    char thing[NAME_MAX_BYTES + 1];
    int64_t hold_ns = 0;
    int r = read_thing(call, thing, &hold_ns);
    if (r == 0)
        r = take_all(call, thing);
    if (r < 0)
        return r;
    r = service_sleep_ns(call, hold_ns);
    give_back(call, thing, N_PERMITS);
    return r;
}

static const struct service_method methods[] = {
    {"read", run_read, SERVICE_IDEMPOTENT, "NAME [MS]: holds one of its permits for MS ms, or 20"},
    {"write", run_write, SERVICE_IDEMPOTENT,
        "NAME [MS]: holds all of its permits for MS ms, or 20"},
};

const struct service sherd_service = {SERVICE_ABI, "permits", "read-write locks between shards",
    methods, sizeof(methods) / sizeof(methods[0])};
