/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * client_end - services learn that somebody for whom they keep something has ended
 *
 * Why:         what a client leaves in a shard, as open files, is to go with it, also in shards
 *              that it never opened and that its requests only came to.
 * Use:         shard: client_end_watch(mesh, culprit_of(origin), service); then the service's
 *              gone() gateway: client_end_tell() each time after the row of a client or a session
 *              says that it is over; once also for a start, for what its predecessor did not get to
 * Concurrency: owner loop
 * Lifetime:    of what is watched: the shard's; its replacement begins with nothing, and so do the
 *              services there
 * Not here:    what a service keeps; when a client has ended (ipc/gateway/)
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/mesh.h"

/* 0, the service watches it already or does now; -ENOENT: who is 0; -ECANCELED: it is over, and
 * gone() is not called; -ENOMEM. Context: owner loop of a shard. */
int client_end_watch(struct mesh *mesh, uint64_t who, uint32_t service);

/* Of a mesh that watches somebody: whether the gateway has told since the last look, and that look,
 * which calls gone(). */
bool client_end_is_told(const struct mesh *mesh);
void client_end_look(struct mesh *mesh);

/* For mesh_free(). */
void client_end_forget(struct mesh *mesh);

/* Has each shard look in which anything is watched. Context: owner loop of the gateway. */
void client_end_tell(struct mesh *mesh);
