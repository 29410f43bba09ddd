/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * stage_plane - a shard with its data plane and a client or two, for scenarios: the segment, the
 * clients' memory, and what the supervisor does when the shard has died
 *
 * Use:         begin():    plane_stage_begin(&s.stage, &plan); plane_stage_open(&s.stage, &s.shard)
 *              a client:   plane_client_push(), plane_client_await(); plane_stage_is_over()
 *              the shard:  plane_stage_serve(&s.stage, &s.shard)
 *              its heir:   if (explorer_wait_for_crash_of(1)) { plane_stage_bury(&s.stage);
 *                          plane_stage_open(&s.stage, &s.heir); plane_stage_serve(…); }
 *              end():      plane_stage_check(&s.stage)
 * Concurrency: an end is one scenario thread's at a time, and so is a client
 * Lifetime:    one run; there is one stage at a time, for its memory is one
 * Not here:    sockets and the loop (parts_plane.h), claims about requests (scenario_*.c)
 */
#include "ipc/client/local_lane.h"
#include "ipc/plane/plane_inside.h"
#include "shard/member.h"
#include "tests/explore/parts_plane.h"

#define PLANE_STAGE_CLIENTS 2
#define PLANE_STAGE_ENTRIES PLANE_ENTRIES_MIN
#define PLANE_STAGE_DATA    PLANE_PAGE

struct plane_stage;
struct plane_end;

/* Makes the plane of an end, and opens there what it has inherited (stage_gateway.h). */
typedef void plane_stage_start_fn(
    struct plane_stage *stage, struct plane_end *end, uint32_t incarnation);

struct plane_stage_plan {
    const struct service_method *methods;
    uint32_t n_methods;
    uint32_t n_clients;
    uint32_t n_ledger;
    uint64_t position;           /* where its rings stand; 0: at their beginning */
    void (*woken)(void);         /* called by the shard after each sleep; or NULL */
    plane_stage_start_fn *start; /* NULL: it opens all clients by itself */
};

struct plane_end {
    struct parts_mesh_loop loop;
    struct mesh *mesh;
    struct plane *plane;
    struct child_env env; /* with a gateway */
};

struct plane_stage {
    struct segment seg;
    struct plane_stage_plan plan;
    struct plane_layout layout;
    uint32_t n_to_end; /* clients */
    uint32_t over;
    uint32_t ended; /* a bit each: clients that have ended */
    bool drops;     /* there are such */
    /* What is done wrong. */
    bool same_incarnation;
    bool loses_row;
};

/* A client: the real ends of its rings, and what it knows. */
struct plane_client {
    struct plane_stage *stage;
    struct local_lane lane;
    uint32_t number;
};

void plane_stage_begin(struct plane_stage *stage, const struct plane_stage_plan *plan);
void plane_stage_open(struct plane_stage *stage, struct plane_end *end);

/* Of peers, as in struct mesh_config. */
extern const int plane_stage_bell_fds[];

/* Of a client, by the number of its memory. */
uint8_t *plane_stage_memory(uint32_t client);

/* Turns until it is over; tells the plane which clients have been dropped meanwhile. */
void plane_stage_serve(struct plane_stage *stage, struct plane_end *end);

/* What the supervisor does once the shard has died, but for its proof that the I/O is over. */
void plane_stage_bury(struct plane_stage *stage);
void plane_stage_is_quiet(struct plane_stage *stage, uint32_t incarnation);

/* The gateway's word to the shard that a client has ended. */
void plane_stage_drop(struct plane_stage *stage, uint32_t client);

bool plane_stage_has_ended(struct plane_stage *stage);

/* The shard may leave. From here on the running thread does not crash. */
void plane_stage_is_over(struct plane_stage *stage);

struct client_lane *plane_stage_row(const struct plane_stage *stage, uint32_t client);
uint8_t *plane_stage_data(const struct plane_stage *stage, uint32_t client);

/* Nothing is under way, and positions are given out up to `n` requests. */
void plane_stage_check(const struct plane_stage *stage, uint32_t client, uint64_t n);

/* ---- clients ---- */

void plane_client_begin(struct plane_stage *stage, struct plane_client *client, uint32_t number);

/* Writes a request into a ring, with the lowest byte of its id as its argument. */
struct plane_submission *plane_client_fill(
    struct local_ring *ring, uint64_t id, uint32_t method, uint8_t flags);
void plane_client_push(struct plane_client *client, uint64_t id, uint32_t method);
/* Of the request that was pushed at that position. */
void plane_client_cancel(struct plane_client *client, uint64_t id, uint64_t position);

/* Rings where the shard wants that. Once for all that was pushed. */
void plane_client_flush(struct plane_client *client);

/* Sleeps until there is a completion, and takes it. */
struct plane_completion plane_client_await(struct plane_client *client);
