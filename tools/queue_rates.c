/* SPDX-License-Identifier: MIT */
#include "tools/queue_rates.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "tools/clock.h"
#include "tools/table.h"
#include "tools/text.h"

struct queue_rates {
    int64_t at_ns;
    uint64_t pushed[]; /* by sender, then receiver */
};

static uint64_t count(const struct instance *in, uint32_t from, uint32_t to)
{
    const struct pair_stats *stats = segment_pair(&in->segment, from, to);
    uint64_t sum = 0;
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        sum += atomic_load_relaxed(&stats->pushed[lane]);
    return sum;
}

struct queue_rates *queue_rates_new(const struct instance *in)
{
    uint32_t n = in->segment.n_peers;
    struct queue_rates *rates = calloc(1, sizeof *rates + (size_t)n * n * sizeof *rates->pushed);
    if (!rates)
        return NULL;
    rates->at_ns = clock_now_ns();
    for (uint32_t pair = 0; pair < n * n; pair++)
        rates->pushed[pair] = count(in, pair / n, pair % n);
    return rates;
}

void queue_rates_free(struct queue_rates *rates)
{
    free(rates);
}

static void add_row(
    struct table *t, const struct instance *in, uint32_t from, uint32_t to, double rate)
{
    char name[INSTANCE_PEER_NAME], figure[TEXT_FIGURE];
    table_cell(t, "%s", instance_peer_name(in, from, name));
    table_cell(t, "%s", instance_peer_name(in, to, name));
    table_cell(t, "%s", text_count((uint64_t)rate, figure));
}

void queue_rates_print(struct queue_rates *rates, const struct instance *in)
{
    uint32_t n = in->segment.n_peers;
    int64_t now_ns = clock_now_ns();
    double seconds = (double)(now_ns - rates->at_ns) / 1e9;
    struct table t;
    table_init(&t, "<<>");
    table_cell(&t, "FROM");
    table_cell(&t, "TO");
    table_cell(&t, "MESSAGES A SECOND");
    for (uint32_t pair = 0; pair < n * n; pair++) {
        uint64_t pushed = count(in, pair / n, pair % n), before = rates->pushed[pair];
        if (pushed > before && seconds > 0)
            add_row(&t, in, pair / n, pair % n, (double)(pushed - before) / seconds);
        rates->pushed[pair] = pushed;
    }
    rates->at_ns = now_ns;
    table_print(&t, stdout);
    table_deinit(&t);
}
