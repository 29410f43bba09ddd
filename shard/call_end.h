/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call_end - what a person is told of an end that no method told
 *
 * Why:         a client learns in words what became of a request, the same ones on either plane.
 * Concurrency: any
 * Not here:    which ends there are (shard/call_records.h)
 */
#include <stdbool.h>
#include <stddef.h>

#include "shard/mesh.h"

/* Cut to size, which is not 0. orphaned: the supervisor is gone. Returns how long it is: 0 where
 * there is nothing to say. */
size_t call_end_explain(const struct mesh_answer *answer, bool orphaned, char *text, size_t size);
