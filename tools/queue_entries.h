/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_entries - what stands in an instance's rings, message by message
 *
 * Use:         queue_entries_print(in);  or  json_object_set_new(o, "entries", queue_entries_json(in));
 * Concurrency: the rings' ends go on meanwhile: what was taken while it was read is left out
 */
#include <jansson.h>

#include "tools/instance.h"

void queue_entries_print(const struct instance *in);
json_t *queue_entries_json(const struct instance *in);
