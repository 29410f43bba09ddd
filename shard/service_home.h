/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * service_home - a service in one shard: its counters and regions there
 *
 * Why:         what a service counts and keeps lies in the segment, and outlives its shard.
 * Use:         service_home_init() for each service of the registry, before registry_start()
 * Concurrency: owner loop of the shard
 * Lifetime:    from before the service's start() to after its stop(); it holds nothing
 * Not here:    its connections (shard/connection.h)
 */
#include "shard/segment.h"
#include "shard/service.h"
#include "shard/service_plan.h"

struct service_home {
    const struct service_plan *plan; /* NULL: it was never prepared, and has neither */
    const struct segment *seg;       /* NULL likewise */
    uint32_t shard, n_shards;
    uint32_t incarnation;
};

/* Gauges begin at 0. */
void service_home_init(struct service_home *home, const struct service_plan *plan,
    const struct segment *seg, uint32_t shard, uint32_t incarnation);

/* A counter of the instance's, by its place among all. */
uint64_t *service_home_count(const struct service_home *home, uint32_t place);
