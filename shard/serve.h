/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * serve - the inside of a call that this shard serves; methods see it through shard/service.h
 *
 * Why:         the mesh, locks, portable coroutines and the plane have to know of a call what its
 *              method must not: whose it is, where its answer goes, what it waits for.
 * Use:         serve.c makes one for each call that comes over a ring, serve_local.h for all others
 * Concurrency: owner loop and its coroutines; of a call that is away, those where it is
 * Lifetime:    lies in the frame, or the memory, of who runs the method, and ends with that
 * Not here:    what the mesh asks of it (mesh_inside.h), how it travels (serve_away.c)
 */
#include "runtime/co_cancel.h"
#include "shard/mesh.h"
#include "shard/pace.h"
#include "shard/service.h"

struct serve_outside; /* serve_local.h */

struct service_call {
    struct mesh *mesh;
    const struct service_method *method;
    void *state; /* what the service's start() made */
    int64_t deadline_ns;
    uint32_t depth;
    uint32_t path;   /* as in struct call_slot */
    uint64_t origin; /* likewise, of a local one; serve_origin() knows that of any */
    uint32_t method_number;
    uint32_t service;
    struct connection *connection; /* that it stands for; NULL: it is a call */

    /* Who asked: a slot of another peer's, or a coroutine of this shard (local). */
    bool local;
    const struct serve_outside *outside; /* then local as well; NULL: nobody from outside asked */
    uint32_t home;                       /* the shard that was called */
    uint32_t from;
    uint32_t slot;
    uint64_t generation;

    bool abandoned;              /* nobody waits for the answer any more */
    Coroutine *sleeper;          /* in service_sleep_ns(); NULL: nobody */
    struct lock_wait *lock_wait; /* in service_lock(); NULL: nobody */

    /* The answer so far. */
    bool replied;
    uint64_t reply_off; /* in the heap; 0: inline in the serve slot */
    size_t reply_len;
    void *local_reply;
    bool has_room;     /* being filled in place */
    uint64_t room_off; /* in the heap; 0: none */
    size_t room_len;
    char *error_text;
    struct call_room *calling; /* a call whose arguments are being filled; or NULL */

    bool nests;        /* it has called others */
    CoCancel unwanted; /* then: ends these calls */

    bool args_in_place;
    const uint8_t *args; /* in the frame that runs the method, args_copy, or the caller's heap */
    size_t args_len;
    void *args_copy; /* to free, or NULL */
};

/* Fills in a call of method, which is callee of service; who asked, for what, is the caller's to
 * fill in. */
void serve_call_init(struct service_call *call, struct mesh *mesh, uint32_t method,
    const struct service_method *callee, uint32_t service);

/* Runs the method in the calling coroutine, counted and recorded, and returns what it did. */
int coroutine_fn serve_call_run(struct service_call *call);

/* Whose request it is, or is made for: of the calls that it makes as well. 0: nobody's. */
uint64_t serve_origin(const struct service_call *call);

/* Who that is: who is culprit_of() an origin. */
void service_caller_of(uint64_t who, struct service_caller *ret_caller);

/* Of the methods of this shard. */
struct pace *serve_pace(struct mesh *mesh);

/* Nobody waits for the answer any more: what it waits for ends. */
void serve_abandon(struct service_call *call);

/* What the status of a method says of its call's end. */
enum call_end serve_end_of(const struct service_call *call, int status);

/* Writes the bytes of an answer to where the caller finds them; may wait for a shared buffer. len
 * is at most SERVICE_REPLY_MAX. */
void coroutine_fn serve_put_reply(struct service_call *call, const void *data, size_t len);

/* Room for an answer of len bytes (1 to SERVICE_REPLY_MAX) in the heap, recorded as in flight; may
 * wait for it. The method has none yet. */
void *coroutine_fn serve_take_room(struct service_call *call, size_t len);

/* The first len bytes of it are the answer; the rest goes back. */
void serve_put_room(struct service_call *call, size_t len);

/* Where a call that is served elsewhere may have been abandoned, as its caller's slot says. */
bool serve_is_abandoned(const struct service_call *call);

/* The method, in a portable coroutine, goes on in shard: service_move() says what comes back. */
int coroutine_fn serve_move(struct service_call *call, uint32_t shard);

/* A call begins or goes on at home, or is about to leave it. Elsewhere: nothing. */
void serve_note_home(struct service_call *call, bool is_here);

/* Its method has returned: to where it is answered. False where its home is given up, and nobody
 * waits for the answer any more. */
bool coroutine_fn serve_come_home(struct service_call *call);

/* Wakes the coroutine that sleeps in the call, if there is one. */
void serve_wake_sleeper(struct service_call *call);
