/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * method_table - the names of an instance's methods, in its segment
 *
 * Why:         calls bear numbers, and who looks at them may come when nobody can be asked any
 *              more.
 * Use:         supervisor, once the segment is laid out and before the first fork:
 *              method_table_write(). Tools read the region "methods" by name (segment_view.h).
 * Concurrency: one thread; constant after
 * Not here:    finding a method by its name (shard/registry.h)
 */
#include "shard/registry.h"
#include "shard/segment.h"

/* The mesh's own come first, then those of the services, as many as there is room for. */
void method_table_write(const struct segment *seg, const struct registry *registry);
