/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * parts_plane - what the data plane needs around it, for its scenarios: sockets, a client's memory,
 * and a loop whose only source is the plane
 *
 * Why:         its own accesses are to be explored, and neither the kernel's nor a whole loop's.
 * Use:         begin():   parts_plane_reset(memory, bytes)
 *              a shard:   plane_new() with (AioContext *)&loop; parts_plane_turn(&loop)
 * Concurrency: one OS thread; a loop is one scenario thread's at a time
 * Lifetime:    loop and memory are the scenario's
 * Not here:    coroutines and methods (parts_mesh.h); who attaches, and what is claimed of it
 *              (stage_plane.h)
 */
#include "tests/explore/parts_mesh.h"

/* The two ends of client n's socket pair: what is sent at one is to be read at the other. All that
 * comes to a shard wakes it by SHARD_EVENTS, as an epoll instance would. */
#define PARTS_CLIENT_FD(n)  ((int)(2 * (n)))
#define PARTS_SHARD_FD(n)   ((int)(2 * (n) + 1))
#define PARTS_SHARD_EVENTS  6
#define PARTS_GATEWAY_FD    7
#define PARTS_PLANE_CLIENTS 3

void parts_plane_reset(void);
/* The memory of a client, whose memfd has this number. */
void parts_plane_memory(int fd, void *base, size_t bytes);
/* Who unmaps one is the last that has it: nobody may touch it after that. */
void parts_plane_last_to_unmap(void);
/* Wakes the shard, which sees what came before: its doorbell. */
void parts_plane_knock(void);
/* A loop that is made anew finds readable what the dead one had not read. */
void parts_plane_inherit(int bell_fd);

/* One turn, in the order of aio_poll(): flush, look, have others ring, sleep, dispatch, handlers.
 * Whether it slept. */
bool parts_plane_turn(struct parts_mesh_loop *loop);

/* What a turn does but for the sleep: once all is over. */
void parts_plane_last_turn(struct parts_mesh_loop *loop);
