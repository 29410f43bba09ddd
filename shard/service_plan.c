/* SPDX-License-Identifier: MIT */
#include "shard/service_plan.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shard/explain.h"
#include "shard/listen_socket.h"

void service_plan_init(
    struct service_plan *plan, struct service_plans *all, const struct service *service)
{
    *plan = (struct service_plan){.service = service, .all = all};
}

static void listener_deinit(struct planned_listener *listener)
{
    for (uint32_t i = 0; i < listener->n_fds; i++)
        close(listener->fds[i]);
    if (listener->path)
        unlink(listener->path);
    free(listener->fds);
    free(listener->address);
    free(listener->path);
}

void service_plan_deinit(struct service_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_listeners; i++)
        listener_deinit(&plan->listeners[i]);
    free(plan->listeners);
    free(plan->regions);
    *plan = (struct service_plan){0};
}

uint32_t service_plan_n_shards(const struct service_plan *plan)
{
    return plan->all->n_shards;
}

bool service_plan_is_name(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_";

    return name && name[0] != '\0' && name[strspn(name, allowed)] == '\0';
}

/* "service.name" for ret_full. 0 or -EINVAL. */
static int name_in(const struct service_plan *plan, const char *name, char *ret_full)
{
    int len;

    if (!service_plan_is_name(name))
        return -EINVAL;
    len = snprintf(ret_full, SERVICE_PLAN_NAME, "%s.%s", plan->service->name, name);
    return len <= SERVICE_PLAN_NAME_MAX ? 0 : -EINVAL;
}

/* ---- regions ---- */

int service_plan_region(struct service_plan *plan, const char *name, uint64_t bytes)
{
    struct service_plans *all = plan->all;
    struct planned_region region = {.off = all->bytes, .bytes = bytes}, *regions;
    uint64_t whole = (bytes + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;

    if (name_in(plan, name, region.name) < 0 || bytes == 0)
        return -EINVAL;
    for (uint32_t i = 0; i < plan->n_regions; i++)
        if (strcmp(plan->regions[i].name, region.name) == 0)
            return -EEXIST;
    if (all->n_regions == SEGMENT_SERVICE_REGIONS || bytes > SEGMENT_SERVICE_BYTES_MAX ||
        whole > SEGMENT_SERVICE_BYTES_MAX - all->bytes)
        return -ENOSPC;
    regions = reallocarray(plan->regions, plan->n_regions + 1, sizeof(*regions));
    if (!regions)
        return -ENOMEM;
    plan->regions = regions;
    regions[plan->n_regions++] = region;
    all->n_regions++;
    all->bytes += whole;
    return 0;
}

/* ---- listeners ---- */

static void fill_in(struct service_listener *what)
{
    what->name = what->address = NULL;
    what->connections_max =
        what->connections_max ? what->connections_max : SERVICE_PLAN_CONNECTIONS;
    what->send_limit_ns = what->send_limit_ns > 0 ? what->send_limit_ns : SERVICE_PLAN_SEND_NS;
    what->idle_limit_ns = what->idle_limit_ns > 0 ? what->idle_limit_ns : INT64_MAX;
}

static int check_listener(struct service_plan *plan, const struct service_listener *listener,
    struct planned_listener *ret, char **ret_error)
{
    *ret = (struct planned_listener){.what = *listener};
    fill_in(&ret->what);
    if (name_in(plan, listener->name, ret->name) < 0)
        return explain(ret_error, -EINVAL, "service %s: a listener has no valid name (a-z 0-9 - _)",
            plan->service->name);
    if (!listener->serve)
        return explain(ret_error, -EINVAL, "listener %s has no function", ret->name);
    if (!listener->address)
        return explain(ret_error, -EINVAL, "listener %s has no address", ret->name);
    for (uint32_t i = 0; i < plan->n_listeners; i++)
        if (strcmp(plan->listeners[i].name, ret->name) == 0)
            return explain(ret_error, -EEXIST, "there are two listeners named %s", ret->name);
    if (plan->all->n_listeners == SEGMENT_LISTENERS)
        return explain(ret_error, -ENOSPC, "listener %s: there would be more than %u", ret->name,
            SEGMENT_LISTENERS);
    return 0;
}

int service_listen(
    struct service_plan *plan, const struct service_listener *listener, char **ret_error)
{
    bool shared = listener->flags & SERVICE_LISTEN_SHARED;
    struct planned_listener planned, *listeners;
    struct listen_socket opened;
    int r = check_listener(plan, listener, &planned, ret_error);

    if (r < 0)
        return r;
    listeners = reallocarray(plan->listeners, plan->n_listeners + 1, sizeof(*listeners));
    if (!listeners)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    plan->listeners = listeners;
    r = listen_socket_open(
        listener->address, shared ? 1 : plan->all->n_shards, listener->backlog, &opened, ret_error);
    if (r < 0)
        return r;
    planned.fds = opened.fds;
    planned.n_fds = opened.n_fds;
    planned.address = opened.address;
    planned.path = opened.path;
    listeners[plan->n_listeners++] = planned;
    plan->all->n_listeners++;
    return 0;
}

void service_plan_set_listening(const struct service_plan *plan, uint32_t shard, bool listens)
{
    for (uint32_t i = 0; i < plan->n_listeners; i++) {
        const struct planned_listener *listener = &plan->listeners[i];
        if (listener->n_fds == 1 || shard >= listener->n_fds)
            continue;
        if (listens)
            listen_socket_again(listener->fds[shard], listener->what.backlog);
        else
            shutdown(listener->fds[shard], SHUT_RD);
    }
}

/* ---- counters ---- */

static int check_counters(const struct service_plan *plan, char **ret_error)
{
    const struct service *service = plan->service;
    char full[SERVICE_PLAN_NAME];

    for (uint32_t i = 0; i < service->n_counters; i++) {
        if (name_in(plan, service->counters[i].name, full) < 0)
            return explain(ret_error, -EINVAL,
                "service %s: counter %u has no valid name (a-z 0-9 - _)", service->name, i);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(service->counters[i].name, service->counters[k].name) == 0)
                return explain(ret_error, -EEXIST, "there are two counters named %s", full);
    }
    return 0;
}

int service_plan_counters(struct service_plan *plan, char **ret_error)
{
    struct service_plans *all = plan->all;
    uint32_t n = plan->service->n_counters + plan->n_listeners * N_LISTENER_COUNTERS;
    int r = check_counters(plan, ret_error);

    if (r < 0)
        return r;
    if (n > SEGMENT_SERVICE_COUNTERS - all->n_counters)
        return explain(ret_error, -ENOSPC,
            "service %s: there would be more than %u counters of services, with %u for each "
            "listener",
            plan->service->name, SEGMENT_SERVICE_COUNTERS, (unsigned)N_LISTENER_COUNTERS);
    plan->first_counter = all->n_counters;
    for (uint32_t i = 0; i < plan->n_listeners; i++)
        plan->listeners[i].first_counter =
            all->n_counters + plan->service->n_counters + i * N_LISTENER_COUNTERS;
    all->n_counters += n;
    return 0;
}

/* ---- in the segment ---- */

static void write_count(
    struct service_count *to, const char *of, const char *name, enum service_counter_kind kind)
{
    int len = snprintf(to->name, sizeof(to->name), "%s.%s", of, name);

    assert(len < (int)sizeof(to->name));
    to->kind = kind;
}

static void write_counters(
    const struct service_plan *plan, const struct segment *seg, uint32_t shard)
{
    struct service_count *counts = segment_service_counts(seg, shard);
    const struct service *service = plan->service;

    for (uint32_t i = 0; i < service->n_counters; i++)
        write_count(&counts[plan->first_counter + i], service->name, service->counters[i].name,
            service->counters[i].kind);
    for (uint32_t i = 0; i < plan->n_listeners; i++) {
        const struct planned_listener *l = &plan->listeners[i];
#define X(name_, kind, help) \
    write_count(&counts[l->first_counter + LISTENER_##name_], l->name, #name_, kind);
        LISTENER_COUNTERS(X)
#undef X
    }
}

/* Behind the regions of those services that stand before it in the table. */
static void write_regions(
    const struct service_plan *plan, const struct segment *seg, uint32_t shard)
{
    struct service_region_head *heads = segment_service_regions(seg, shard);
    uint64_t first = (uint64_t)(segment_service_memory(seg, shard) - seg->base);

    while (heads->name[0])
        heads++;
    for (uint32_t i = 0; i < plan->n_regions; i++, heads++) {
        memcpy(heads->name, plan->regions[i].name, sizeof(heads->name));
        heads->off = first + plan->regions[i].off;
        heads->bytes = plan->regions[i].bytes;
    }
}

static void write_listeners(const struct service_plan *plan, const struct segment *seg)
{
    struct listener_row *rows = segment_listeners(seg);

    while (rows->name[0])
        rows++;
    for (uint32_t i = 0; i < plan->n_listeners; i++, rows++) {
        const struct planned_listener *l = &plan->listeners[i];
        memcpy(rows->name, l->name, sizeof(rows->name));
        snprintf(rows->address, sizeof(rows->address), "%s", l->address);
        rows->n_sockets = l->n_fds;
        rows->connections_max = l->what.connections_max;
    }
}

void service_plan_write(const struct service_plan *plan, const struct segment *seg)
{
    if (plan->n_listeners)
        write_listeners(plan, seg);
    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++) {
        write_counters(plan, seg, shard);
        if (plan->n_regions)
            write_regions(plan, seg, shard);
    }
}
