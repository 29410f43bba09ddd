/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * judge - what is done for the dead before the living are told
 *
 * Why:         a death may come between two stores of one transition; who is told of it, and a
 *              replacement, shall find slots and counters that agree.
 * Use:         estate.c calls both, in this order
 * Concurrency: the supervisor, after it has reaped the peer and before it raises its incarnation.
 */
#include <stdbool.h>

#include "shard/segment.h"

/* Finishes or undoes the transition that peer's death cut short, so that its counters and slots
 * agree. It may be called again after a death of the supervisor's own. True where there was one. */
bool mesh_finish_redo(const struct segment *seg, uint32_t peer);

/* Takes back what its part says of calls that were not made, or were begun by who is not yet
 * born. */
void mesh_mend_started(const struct segment *seg, uint32_t dead);
