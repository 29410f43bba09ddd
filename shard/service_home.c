/* SPDX-License-Identifier: MIT */
/*
 * A process may die between any two stores of a region. What it had stored in the order of its code
 * is there for its replacement, in that order: a death is no reordering, so the stores of the words
 * here have but to keep the compiler from moving others across them.
 *
 * Orderings     first            then                 ordered by                if broken
 *   MARK   the mark set     what it covers       compiler barrier after    half a change is taken
 *                                                it; one process writes    for a whole one
 *   WHOLE  what it covered  the mark cleared     store release             the same
 *   OPEN   what the dead    own incarnation      fork                      what another left is
 *          one left, read                                                  taken for nobody's
 */
#include "shard/service_home.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/atomic.h"

void service_home_init(struct service_home *home, const struct service_plan *plan,
    const struct segment *seg, uint32_t shard, uint32_t incarnation)
{
    *home = (struct service_home){
        .plan = plan, .seg = seg, .shard = shard, .incarnation = incarnation, .n_shards = 1};
    if (!seg)
        return;
    home->n_shards = seg->geometry.n_shards;
    for (uint32_t i = 0; plan && i < SEGMENT_SERVICE_COUNTERS; i++) {
        struct service_count *count = segment_service_counts(seg, shard) + i;
        if (count->kind == SERVICE_GAUGE)
            atomic_store_relaxed(&count->value, 0);
    }
}

uint32_t service_home_shard(const struct service_home *home)
{
    return home->shard;
}

uint32_t service_home_n_shards(const struct service_home *home)
{
    return home->n_shards;
}

/* ---- counters ---- */

uint64_t *service_home_count(const struct service_home *home, uint32_t place)
{
    return &segment_service_counts(home->seg, home->shard)[place].value;
}

/* NULL: the service has none in that place. */
static uint64_t *own_count(const struct service_home *home, uint32_t counter)
{
    if (!home->seg || !home->plan || counter >= home->plan->service->n_counters)
        return NULL;
    return service_home_count(home, home->plan->first_counter + counter);
}

void service_count(struct service_home *home, uint32_t counter, int64_t n)
{
    uint64_t *count = own_count(home, counter);

    if (count)
        atomic_store_relaxed(count, *count + (uint64_t)n);
}

void service_count_set(struct service_home *home, uint32_t counter, uint64_t n)
{
    uint64_t *count = own_count(home, counter);

    if (count)
        atomic_store_relaxed(count, n);
}

/* ---- regions ---- */

static struct service_region_head *find_head(const struct service_home *home, const char *full)
{
    struct service_region_head *heads = segment_service_regions(home->seg, home->shard);

    for (uint32_t i = 0; i < SEGMENT_SERVICE_REGIONS; i++)
        if (strcmp(heads[i].name, full) == 0)
            return &heads[i];
    return NULL;
}

int service_region(struct service_home *home, const char *name, struct service_region *ret)
{
    char full[SERVICE_PLAN_NAME];
    struct service_region_head *head;
    const struct planned_region *planned = NULL;

    if (!home->seg || !home->plan)
        return -ENOENT;
    snprintf(full, sizeof(full), "%s.%s", home->plan->service->name, name);
    for (uint32_t i = 0; i < home->plan->n_regions; i++)
        if (strcmp(home->plan->regions[i].name, full) == 0)
            planned = &home->plan->regions[i];
    head = planned ? find_head(home, full) : NULL;
    if (!head)
        return -ENOENT;
    *ret = (struct service_region){
        .data = segment_service_memory(home->seg, home->shard) + planned->off,
        .bytes = planned->bytes,
        .found = atomic_load_relaxed(&head->incarnation),
        .mark = atomic_load_acquire(&head->mark), /* WHOLE */
        .word = &head->mark};
    atomic_store_release(&head->incarnation, home->incarnation); /* OPEN */
    return 0;
}

void service_region_begin(const struct service_region *region, uint64_t mark)
{
    atomic_store_relaxed(region->word, mark); /* MARK */
    atomic_signal_barrier();                  /* MARK */
}

void service_region_end(const struct service_region *region)
{
    atomic_store_release(region->word, 0); /* WHOLE */
}
