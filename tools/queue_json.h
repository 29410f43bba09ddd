/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_json - an instance's queues for programs; keys are in sherd-queues(1)
 *
 * Concurrency: as queue_view.h
 */
#include <jansson.h>

#include "tools/queue_rates.h"

/* Every ordered pair. rates: NULL where none were measured. */
json_t *queue_pairs_json(const struct queue_reader *reader, const struct queue_rates *rates);
json_t *queue_shards_json(const struct queue_reader *reader);
