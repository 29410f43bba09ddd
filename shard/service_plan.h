/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * service_plan - what one service of an instance needs beside code: regions, listeners, counters
 *
 * Why:         shared memory is laid out, and sockets are opened, before the first fork.
 * Use:         supervisor: registry_prepare(), which makes a plan a service; then
 *              service_plan_write() on the fresh segment
 *              shard: reads the plan that it inherited
 * Concurrency: filled by the supervisor before the first fork, constant after: any process.
 * Lifetime:    the registry's. Its sockets are open as long; a Unix socket's name is removed by
 *              service_plan_deinit(), which the supervisor alone calls.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"
#include "shard/service.h"

#define SERVICE_PLAN_NAME     72 /* room for a name, NUL included */
#define SERVICE_PLAN_NAME_MAX 60 /* letters of "service.name" */

/* Of a listener that does not say. */
#define SERVICE_PLAN_CONNECTIONS 1000u /* in a shard */
#define SERVICE_PLAN_SEND_NS     (INT64_C(60) * 1000000000)

struct planned_region {
    char name[SERVICE_PLAN_NAME];
    uint64_t off; /* in the services' memory of a shard */
    uint64_t bytes;
};

/* X(name, kind, help): what each listener counts in each shard */
#define LISTENER_COUNTERS(X)                                                          \
    X(open, SERVICE_GAUGE, "connections open now")                                    \
    X(accepted, SERVICE_COUNTER, "connections accepted")                              \
    X(paused, SERVICE_COUNTER, "times it stopped accepting: too many, or no fd left") \
    X(slow, SERVICE_COUNTER, "connections let go for taking or sending nothing")

enum listener_counter {
#define X(name, kind, help) LISTENER_##name,
    LISTENER_COUNTERS(X)
#undef X
        N_LISTENER_COUNTERS
};

struct planned_listener {
    char name[SERVICE_PLAN_NAME];
    struct service_listener what; /* its name and address are none: they are here */
    char *address;                /* as it is reached */
    char *path;                   /* of a Unix socket; NULL: none */
    int *fds;
    uint32_t n_fds; /* 1, or one for each shard */
    uint32_t first_counter;
};

struct service_plan {
    const struct service *service;
    struct service_plans *all;
    struct planned_region *regions;
    uint32_t n_regions;
    struct planned_listener *listeners;
    uint32_t n_listeners;
    uint32_t first_counter; /* of service->counters, among all of the instance */
};

/* What all services of the instance have taken so far. */
struct service_plans {
    uint32_t n_shards;
    uint32_t n_regions, n_listeners, n_counters;
    uint64_t bytes; /* of a shard's services' memory */
};

/* Whether services, and what is theirs, may have that name: a-z 0-9 - _. NULL is none. */
bool service_plan_is_name(const char *name);

void service_plan_init(
    struct service_plan *plan, struct service_plans *all, const struct service *service);
void service_plan_deinit(struct service_plan *plan);

/* Gives each counter its place. 0; -EINVAL, -ENOSPC with a text. */
int service_plan_counters(struct service_plan *plan, char **ret_error);

/* Where each shard has a socket of its own, the kernel deals that shard's no connections any more,
 * or does again: who waited there is refused. In the supervisor. */
void service_plan_set_listening(const struct service_plan *plan, uint32_t shard, bool listens);

/* Names and places of all of it, in a fresh segment. */
void service_plan_write(const struct service_plan *plan, const struct segment *seg);
