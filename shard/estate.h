/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * estate - what a dead peer leaves: made whole, handed to its next incarnation, and its peers told
 *
 * Why:         the order of these stores decides whether a call is lost; apart from processes and
 *              logs it runs in the explorer too (tests/explore/scenario_mesh.c).
 * Use:         once it is reaped: estate_mend(); estate_pass_on(); estate_tell() each living peer;
 *              estate_prepare() before the replacement is forked
 * Concurrency: the supervisor, while no process of that peer lives
 * Lifetime:    holds nothing; each may be called again after a death of the supervisor's own
 * Not here:    reaping, back-off, and the right to write the part of the dead (shard/death.c)
 */
#include <stdbool.h>

#include "shard/segment.h"

/* Finishes the transition that the death cut short. The dead one's part is writable meanwhile.
 * True where there was one. */
bool estate_mend(const struct segment *seg, uint32_t dead);

/* The new incarnation exists from here on, though its process does not yet: peers may judge. */
void estate_pass_on(const struct segment *seg, uint32_t dead, enum peer_state state);

/* It is given up for good. */
void estate_give_up(const struct segment *seg, uint32_t dead);

/* Sets the dead one's bit with a living peer and wakes that, whatever its words say. */
void estate_tell(const struct segment *seg, uint32_t dead, uint32_t peer, int bell_fd);

/* A fresh peer looks at every ring in its first turn, and at all that was rung before it lived. */
void estate_prepare(const struct segment *seg, uint32_t peer);
