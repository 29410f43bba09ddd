/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_rates - how many messages a second passed between processes since somebody last looked
 *
 * Use:         struct queue_rates *rates = queue_rates_new(in);    // NULL: no memory
 *              … later: queue_rates_print(rates, in);
 *              queue_rates_free(rates);
 * Concurrency: one thread; the counters' writers go on meanwhile
 */
#include "tools/instance.h"

struct queue_rates;

struct queue_rates *queue_rates_new(const struct instance *in);
void queue_rates_free(struct queue_rates *rates);

/* A line for each pair between which something passed since the last look, which this is now. */
void queue_rates_print(struct queue_rates *rates, const struct instance *in);
