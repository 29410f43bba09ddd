/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * mesh - one peer's end of the rings: calls to others, calls from them, and what deaths mean
 *
 * Why:         work crosses processes at the speed of memory, and a peer may die at any instruction
 *              without one call lost, doubled or left hanging.
 * Use:         mesh_new() in the loop of a shard or the gateway, after fork; it looks into its
 *              rings once a turn by itself. mesh_call_start() for callers without a coroutine,
 *              shard_call() in shard/call.h else.
 * Concurrency: owner loop. Several ends may be threads of one process (tests).
 * Lifetime:    the mapping, the registry and the context outlive it. It takes over whatever a dead
 *              predecessor with the same peer number left.
 * Not here:    who the peers are (shard/supervisor.h), what methods do (shard/service.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"
#include "shard/heap.h"
#include "shard/private_scan.h"
#include "shard/registry.h"
#include "shard/segment.h"

struct mesh;
struct mesh_asked;
struct mesh_call;

/*
 * A call of a dead predecessor's that is still under way, and has an origin: who knows whose it is
 * returns a call (zero bytes, but for done, note and args) to go on with, else NULL, and it is
 * abandoned. asked->args are the mesh's, and gone when this returns; NULL where they are gone
 * already: then the call is not run again after its callee's death, but in doubt.
 */
typedef struct mesh_call *mesh_adopt_fn(const struct mesh_asked *asked, void *opaque);

struct mesh_config {
    const struct segment *segment;
    uint32_t peer;
    uint32_t incarnation;
    AioContext *ctx;
    const int *bell_fds; /* eventfds by peer, n_peers of them and the supervisor's last */
    const struct registry *registry;
    void *const *states;     /* by service number: what its start() made; NULL in the gateway */
    const char *letters_dir; /* where dead letters are kept; NULL: nowhere */
    bool no_rebalance;       /* portable coroutines are not handed over to idle shards */
    struct scan_config scan; /* of what leaves with a portable coroutine */
    mesh_adopt_fn *adopt;    /* in mesh_new(); NULL: what a predecessor called is abandoned */
    void *adopt_opaque;
};

/* Takes over the peer's part: what the predecessor had sent is judged, and every ring is looked
 * into in the first turn. 0 or -ENOMEM. */
int mesh_new(const struct mesh_config *config, struct mesh **ret_mesh);

struct service_home;

/* By service number: for service_home(). Before the first turn; they outlive the mesh. */
void mesh_set_homes(struct mesh *mesh, struct service_home *homes);

/* Ends nothing: coroutines that are served and calls under way must be gone (mesh_is_idle()), or
 * the process is about to exit. NULL does nothing. */
void mesh_free(struct mesh *mesh);

/* ---- calling ---- */

/* The right to read an answer where it lies, and the duty to give it back. */
struct mesh_hold {
    uint32_t peer;
    uint32_t slot;
    bool held;
};

/*
 * How a call ended. data is gone after the callback, unless it is held. An answer that is not small
 * lies in the callee's heap: nobody copies it, no process but the callee's can write to it, and
 * that one, should it run wild, can: what is parsed, and not just passed on, is copied first.
 */
struct mesh_answer {
    enum call_end end;
    int status;       /* 0, or -errno where end is not DONE */
    const void *data; /* the answer; where end is FAILED, a text (no NUL), which may be empty */
    size_t len;
    uint32_t shard;         /* the callee */
    struct mesh_hold *hold; /* where data lies in the callee's heap; else NULL */
};

typedef void mesh_done_fn(struct mesh_call *call, const struct mesh_answer *answer);
typedef void mesh_note_fn(struct mesh_call *call, const struct mesh_answer *answer);
typedef void mesh_ready_fn(struct mesh_call *call, void *room);

/* Where arguments lie in the caller's heap. */
struct args_buffer {
    uint64_t off; /* 0: nowhere */
    uint32_t len;
    uint32_t left_by; /* an incarnation of the callee, that died while it read them in place: */
    bool is_left;     /* its I/O may go on */
};

/*
 * What a caller sets. X(type, name, what it is). ready: without one args are copied; else there are
 * none yet: a room of args_len bytes is to be filled in place, and it is told once there is a slot
 * and a buffer. note: told how a call ends that was published, while its slot still says that it is
 * under way: whoever dies after it has put that down where it lasts, and who dies before it leaves
 * an heir the slot to adopt. It starts and cancels nothing; done() follows, at once or in the next
 * turn.
 */
#define MESH_CALL_ASKED(X)                                                                  \
    X(uint32_t, target, "a shard")                                                          \
    X(uint32_t, method, "registry number")                                                  \
    X(const void *, args, "")                                                               \
    X(size_t, args_len, "")                                                                 \
    X(int64_t, deadline_ns, "CLOCK_MONOTONIC; INT64_MAX: none")                             \
    X(uint32_t, depth, "0, or one more than the call that is being served")                 \
    X(uint32_t, path, "0, or as in struct call_slot: who serves the calls around this one") \
    X(uint32_t, lane, "enum mesh_lane; LANE_URGENT: not stuck behind bulk work")            \
    X(uint64_t, origin, "0, or that of the client's request that it is made for")           \
    X(uint32_t, origin_at, "where the caller has that request: an index, for its heir")     \
    X(mesh_done_fn *, done, "")                                                             \
    X(mesh_note_fn *, note, "NULL, or see above")                                           \
    X(mesh_ready_fn *, ready, "NULL, or see above")

#define X(type, name, help) type name;
struct mesh_asked {
    MESH_CALL_ASKED(X)
};

/* Embed it; set what is asked. It and args stay valid until done() has been called. */
struct mesh_call {
    MESH_CALL_ASKED(X)

    /* The mesh's own. */
    struct args_buffer room; /* of a call whose arguments are filled in place */
    struct mesh *mesh;
    const struct service_method *callee;
    struct mesh_call *prev, *next;
    uint32_t slot;
    uint32_t where;    /* enum mesh_call_where */
    enum call_end end; /* once over, until done() */
    int status;
    uint32_t n_crashes; /* with it on the CPU (shard/poison.h) */
    struct poison *poison;
    struct heap_waiter waiter;
    AioTimer timer;
};
#undef X

/*
 * Publishes the call, or puts it in line where no slot or buffer is free: first come, first served
 * for each target, lane and depth. done() comes exactly once, in the loop, outside coroutines,
 * never before this returns 0. Refused, with no done(): -ENODEV (no such shard), -ELOOP (depth),
 * -EINVAL (lane), -EMSGSIZE, -ENOENT (no such method). Context: owner loop.
 */
int mesh_call_start(struct mesh *mesh, struct mesh_call *call);

/*
 * A call whose arguments are filled in place (ready is set): mesh_call_start() gets a slot, then a
 * buffer, and calls ready(), before it returns or later; then the room may be filled by whatever
 * takes its time, but waits for no call and no other buffer. mesh_call_send() publishes the first
 * args_len bytes of it (which may be fewer by then); mesh_call_drop() gives it up, with no done().
 * done() may come instead of ready(), and always comes after mesh_call_send(), out of it never.
 *
 *     the room is …                      whose              what a death of the caller leaves
 *     being filled                       the caller's       out of use, until its I/O is over
 *     sent, and not begun                the call's         the slot's, until the callee has it
 *     being run                          the call's, for it may have to be run again: the slot's
 *                                        where it is read in place, else given back
 *     done() has been called             given back; where the callee died reading it in place, out
 *                                        of use until its I/O is over
 *
 * Context: owner loop.
 */
void mesh_call_send(struct mesh *mesh, struct mesh_call *call);
void mesh_call_drop(struct mesh *mesh, struct mesh_call *call);

/* Nobody waits any more: done() comes with CANCELLED in the next turn at the latest, and the
 * callee's answer, if it still comes, is dropped. A call that has ended, or whose room is being
 * filled: nothing. Context: owner loop. */
void mesh_call_cancel(struct mesh *mesh, struct mesh_call *call);

/*
 * In done(), where answer->hold is set: data stays readable until mesh_hold_release(), also when
 * its shard has died, and takes up the call's slot and the callee's memory until then. Whoever
 * holds one starts no call before it has given it back, or nobody might get on. Context: owner
 * loop.
 */
void mesh_answer_hold(
    struct mesh *mesh, const struct mesh_answer *answer, struct mesh_hold *ret_hold);

/* Gives it back; one not held: nothing. */
void mesh_hold_release(struct mesh *mesh, struct mesh_hold *hold);

/* For how long the oldest of the messages in that ring to peer has waited there; 0: peer has taken
 * all of them. To within 2 ms. Context: owner loop. */
int64_t mesh_waits_ns(struct mesh *mesh, uint32_t peer, enum mesh_lane lane);

/* No call started here is under way, and none that is served here. */
bool mesh_is_idle(const struct mesh *mesh);

/* The supervisor is gone: what waits for a dead peer fails as not started or in doubt, and new
 * calls too. Again and again: peers that have died since are found by a look. */
void mesh_orphaned(struct mesh *mesh);
