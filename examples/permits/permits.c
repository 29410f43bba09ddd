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
    snprintf(permit.name, sizeof permit.name, "permits/%s/%d", thing, number);
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

static int read_thing(struct service_call *call, char thing[NAME_MAX_BYTES + 1])
{
    size_t len;
    const char *args = service_args(call, &len);
    if (len == 0 || len > NAME_MAX_BYTES)
        return service_fail(
            call, -EINVAL, "permits: the argument is a name of 1 to %d bytes", NAME_MAX_BYTES);
    memcpy(thing, args, len);
    thing[len] = '\0';
    return 0;
}

static int coroutine_fn run_read(struct service_call *call)
{
    char thing[NAME_MAX_BYTES + 1];
    int number = 0, r = read_thing(call, thing);
    if (r == 0)
        r = take_one(call, thing, &number);
    if (r < 0)
        return r;
    r = service_sleep_ns(call, HOLD_NS);
    struct permit permit = permit_of(thing, number);
    service_unlock(call, permit.name);
    return r;
}

static int coroutine_fn run_write(struct service_call *call)
{
    char thing[NAME_MAX_BYTES + 1];
    int r = read_thing(call, thing);
    if (r == 0)
        r = take_all(call, thing);
    if (r < 0)
        return r;
    r = service_sleep_ns(call, HOLD_NS);
    give_back(call, thing, N_PERMITS);
    return r;
}

static const struct service_method methods[] = {
    {"read", run_read, SERVICE_IDEMPOTENT, "NAME: holds one of its permits for 20 ms"},
    {"write", run_write, SERVICE_IDEMPOTENT, "NAME: holds all of its permits for 20 ms"},
};

const struct service sherd_service = {SERVICE_ABI, "permits", "read-write locks between shards",
    methods, sizeof methods / sizeof methods[0]};
