/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * requests - requests of clients from their acceptance to their end: in line, or a call in the mesh
 *
 * Why:         clients may have far more in flight than the mesh has call slots; what waits is a
 *              small struct here, and no client's thousands stand before another's one.
 * Use:         requests_init(); requests_submit(); each ends by requests_config.ended()
 * Concurrency: owner loop
 * Lifetime:    requests_abandon() before a session is freed; requests_is_idle() before deinit
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/gateway/session.h"
#include "proto/arena.h"
#include "shard/mesh.h"
#include "shard/registry.h"

#define REQUEST_BUCKETS 16384u

struct outlet;
struct request;

/* How many lines a session has. */
static inline uint32_t requests_n_lines(const struct segment *segment)
{
    return segment->geometry.n_shards * N_LANES;
}

struct requests_config {
    AioContext *ctx;
    struct mesh *mesh;
    struct fates *fates;
    const struct segment *segment;
    const struct registry *registry;
    /* One is no longer under way: its end is about to be appended, or nobody wants it. */
    void (*ended)(void *opaque);
    void *opaque;
};

struct requests {
    struct requests_config config;
    struct outlet *outlets;    /* by shard and lane of the mesh */
    uint32_t *expected_answer; /* by method, bytes */
    uint64_t hash_key;         /* random and odd */
    bool draining;
    struct request *buckets[REQUEST_BUCKETS];
    uint64_t n;           /* not ended */
    uint64_t n_abandoned; /* of nobody, their calls not yet back */
    uint64_t args_bytes;
    int64_t last_end_ns;
    int64_t end_every_ns; /* from one end to the next, of late */
};

struct request_spec {
    uint64_t id;
    uint32_t method;
    uint32_t shard;
    enum mesh_lane lane;
    const void *args; /* copied; or, where they are long, taken out of arena, whose they are */
    size_t args_len;
    struct arena *arena;
    int64_t deadline_ns; /* CLOCK_MONOTONIC; INT64_MAX: none */
    bool refuse;         /* where its shard is behind, rather than wait */
};

int requests_init(struct requests *requests, const struct requests_config *config);
void requests_deinit(struct requests *requests);

/*
 * For mesh_new(), before there are sessions: a request for what a predecessor had in the mesh, on a
 * list; NULL: nobody's, or no memory. requests_inherit(), after sessions_inherit(), goes on with
 * the list, and forgets what the predecessor had accepted and not begun: its clients submit it
 * again.
 */
struct mesh_call *requests_adopt(
    struct request **list, struct fates *fates, const struct mesh_asked *left);
void requests_inherit(struct requests *requests, struct sessions *sessions, struct request *list);

/* 0; -EALREADY: the session has it: its end comes, once more if need be; -ESTALE: it had it once,
 * and what became of it is forgotten; -EAGAIN: a limit is reached, there is no memory, or
 * spec->refuse and it would wait: in *ret_retry_us it may be worth while. Whatever it returns,
 * spec->args may be gone. */
int requests_submit(struct requests *requests, struct session *session,
    const struct request_spec *spec, uint32_t *ret_retry_us);

/* Whether it was under way; its end follows. */
bool requests_cancel(struct requests *requests, struct session *session, uint64_t id);

/* All that the session has under way, likewise. */
void requests_cancel_all(struct requests *requests, struct session *session);

/* Nobody wants the ends of the session's requests any more. */
void requests_abandon(struct requests *requests, struct session *session);

/* The bytes to set aside for a method's next answer, after one of len bytes. */
uint32_t requests_expect(uint32_t expected, size_t len);

/* From now on sessions without a connection have their requests started too. */
void requests_drain(struct requests *requests);
void requests_resume(struct requests *requests);

/* Its answers take less room than before, or it is connected: what was held back goes on. */
void requests_room(struct requests *requests, struct session *session);

bool requests_is_idle(const struct requests *requests);
