/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * blame - whose requests were on the CPU in crashes, and how long their users wait for it
 *
 * Why:         all shards have one layout and one canary (fork without exec), so who could crash
 *              them as often as he likes could guess both: a client with BLAME_CRASHES_MAX is cut
 *              off, a session ended, and from the first on each doubles its user's wait, in which
 *              nothing of that user's is begun.
 * Use:         supervisor: blame_note() at each crash, before the dead one's incarnation is raised
 *              others: where blame_seen() has grown, blame_crashes() and blame_until_ns() say more
 * Concurrency: blame_note() by the supervisor alone; all else by any process
 * Lifetime:    the tables outlive all processes but the supervisor. A user whose last wait has been
 *              over for a day is forgotten.
 * Not here:    what counts as a crash (shard/restart.h); what is on the CPU (part_head.running);
 *              poison, which is about one request (shard/poison.h)
 *
 * Blame follows the origin of a call, which all calls within it have: a client's request that has
 * shard 1 ask shard 2, which crashes over it, is that client's crash. Work that no client asked for
 * (timers, connections of a service's own listeners) has no origin, and nobody is charged.
 */
#include "shard/segment.h"

#define BLAME_CRASHES_MAX   3u
#define BLAME_WAIT_FIRST_MS 100u
#define BLAME_WAIT_MOST_MS  (60u * 60 * 1000)

/* `dead` crashed, and what was on its CPU stands in its control record: charges whose request it
 * was, if it was one. now_ns: CLOCK_MONOTONIC. Context: the supervisor. */
void blame_note(const struct segment *seg, uint32_t dead, int64_t now_ns);

/* For how many crashes somebody was charged. What those mean is seen after this has been read. */
uint64_t blame_seen(const struct segment *seg);

/* In how many of them a request of who made this one was on the CPU; origin 0: none. */
uint32_t blame_crashes(const struct segment *seg, uint64_t origin);

/* Whether the last of these is over: others know of the death, and judge what it did to calls. */
bool blame_is_settled(const struct segment *seg, uint64_t origin);

/* Until when nothing of that user's is begun, in CLOCK_MONOTONIC; one that is past, or 0: it is. */
int64_t blame_until_ns(const struct segment *seg, uint32_t uid);
