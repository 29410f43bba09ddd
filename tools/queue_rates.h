/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_rates - how many messages a second pass between processes, from one look to the next
 *
 * Use:         struct queue_rates *rates = queue_rates_new(&reader);    // NULL: no memory
 *              … later: queue_rates_look(rates, &reader);
 *              n = queue_rates_of(rates, from, to);
 *              queue_rates_free(rates);
 * Concurrency: one thread; the counters' writers go on meanwhile
 */
#include "tools/queue_view.h"

struct queue_rates;

struct queue_rates *queue_rates_new(const struct queue_reader *reader);
void queue_rates_free(struct queue_rates *rates);

/* What passed since the last look, which this is from now on. */
void queue_rates_look(struct queue_rates *rates, const struct queue_reader *reader);

/* Messages a second between the last two looks. */
uint64_t queue_rates_of(const struct queue_rates *rates, uint32_t from, uint32_t to);
