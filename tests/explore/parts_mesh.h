/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * parts_mesh - what the mesh needs around it, for its scenarios: a loop whose only source is the
 * mesh, coroutines, methods
 *
 * Why:         the mesh's own accesses are to be explored, and not those of a whole loop, which
 *              have scenarios of their own.
 * Use:         begin():   parts_mesh_reset(methods, n); parts_mesh_loop_init(&s.loop, bell)
 *              a thread:  mesh_new() with (AioContext *)&s.loop as its context; then
 *                         parts_mesh_turn(&s.loop, true) until there is what it waits for
 * Concurrency: one OS thread; a loop is one scenario thread's at a time
 * Lifetime:    the loop is the scenario's
 * Not here:    the segment and what is claimed of it (scenario_mesh.c)
 */
#include "runtime/context.h"
#include "runtime/doorbell.h"
#include "runtime/instruments_inside.h"
#include "runtime/source.h"
#include "shard/mesh_inside.h"
#include "shard/serve.h"

#define PARTS_MESH_BHS       4
#define PARTS_MESH_SCHEDULED 4
#define PARTS_MESH_HANDLERS  4

struct parts_mesh_bh {
    struct parts_mesh_loop *loop;
    void (*run)(void *opaque);
    void *opaque;
    bool scheduled;
};

struct parts_mesh_loop {
    AioContext ctx; /* for what looks into it: nothing is in there */
    struct doorbell bell;
    struct aio_source *source;
    struct parts_mesh_bh bhs[PARTS_MESH_BHS];
    uint32_t n_bhs;
    Coroutine *scheduled[PARTS_MESH_SCHEDULED];
    uint32_t n_scheduled;
    struct {
        void (*run)(void *opaque); /* NULL: none */
        void *opaque;
    } handlers[PARTS_MESH_HANDLERS]; /* parts_plane.h */
};

/* Called with each message that the mesh finds, the n-th after the oldest, before it acts on it: to
 * do something wrong. */
typedef void parts_mesh_peek_fn(
    const struct ring_rx *rx, uint64_t n, const struct message *message);

void parts_mesh_reset(const struct service_method *methods, uint32_t n);
void parts_mesh_on_peek(parts_mesh_peek_fn *peek);
void parts_mesh_loop_init(struct parts_mesh_loop *loop, const struct doorbell *bell);

/* One turn, in the order of aio_poll(): flush, prepare to sleep, sleep where there is nothing,
 * accept, dispatch, bottom halves, each followed by a flush. */
void parts_mesh_turn(struct parts_mesh_loop *loop, bool blocking);

/* The same, but what was pushed is rung after the sleep only. */
void parts_mesh_turn_late(struct parts_mesh_loop *loop);
