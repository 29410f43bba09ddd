/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_entries - the messages that stand in an instance's rings now, one by one
 *
 * Concurrency: the rings' owners go on; what is taken while it is read is left out
 * Not here:    how many, and since when (queue_view.h)
 */
#include <jansson.h>

#include "tools/queue_view.h"

void queue_entries_print(const struct queue_reader *reader);
json_t *queue_entries_json(const struct queue_reader *reader);
