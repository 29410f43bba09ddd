/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * connection - what a shard accepts at the listeners of its services, a coroutine each
 *
 * Why:         a service says what it does with a connection; how many there are, what happens
 *              where no fd is left, and who is let go, is the same for all.
 * Use:         doors_open() once the services have started and the shard is up; doors_close() when
 *              nothing new is to be taken, doors_reopen() when it is again; doors_free() once
 *              doors_are_left()
 * Concurrency: owner loop, outside coroutines
 * Lifetime:    the mesh and the registry outlive it. Connections end with their shard.
 * Not here:    opening the sockets (shard/listen_socket.h), what serve() may use (shard/service.h)
 */
#include <stdbool.h>

#include "shard/mesh.h"
#include "shard/service_home.h"

struct doors;

/* Accepts at all listeners of the registry. 0; -ENOMEM, or what watching a socket gave. */
int doors_open(struct mesh *mesh, const struct registry *registry, struct service_home *homes,
    struct doors **ret);

/* Accepts no more; each connection is told so where it waits for something to come. */
void doors_close(struct doors *doors);

/* Accepts again. */
void doors_reopen(struct doors *doors);

/* No connection is open any more. */
bool doors_are_left(const struct doors *doors);

/* NULL does nothing. */
void doors_free(struct doors *doors);
