/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * client_users - whose clients' requests crashed shards, and how long they wait for it
 *
 * Why:         all shards have one layout and one canary (fork without exec), so who could crash
 *              them as often as he likes could guess both.
 * Use:         client_users_note_crash() for each crash that a request of a user's client was on the
 *              CPU in; client_users_wait_ns() before that user is let in
 * Concurrency: owner loop of the gateway; any process may read the table
 * Lifetime:    the table is in the gateway's part: a replacement goes on with it. A user whose last
 *              wait has been over for a day is forgotten.
 */
#include <stdint.h>
#include <sys/types.h>

#include "shard/segment.h"

#define CLIENT_WAIT_FIRST_MS 100u
#define CLIENT_WAIT_MOST_MS  (60u * 60 * 1000)

/* now_ns: CLOCK_MONOTONIC. */
void client_users_note_crash(const struct segment *seg, uid_t uid, int64_t now_ns);

/* How long until uid may attach; 0: now. Counts a refusal where it is not. */
int64_t client_users_wait_ns(const struct segment *seg, uid_t uid, int64_t now_ns);
