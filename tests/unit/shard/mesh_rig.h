/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * mesh_rig - a small mesh for tests: a segment in anonymous shared memory and ends of it as threads
 * or processes
 *
 * Use:         rig_open(&rig, 2, &service); rig_thread() or rig_fork() an end with its body; ...;
 *              rig_close(). body() runs in that end's loop thread, outside coroutines, and returns
 *              when the end is to leave; until then it polls with rig_poll_until().
 * Concurrency: the test's main thread plays the supervisor: rig_kill(), rig_replace().
 * Lifetime:    every child is killed and reaped by rig_close().
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "shard/call.h"
#include "shard/judge.h"
#include "shard/mesh.h"

#define RIG_MAX_PEERS 5

struct rig;
struct rig_end;
typedef void rig_body_fn(struct rig_end *end);

struct rig_end {
    struct rig *rig;
    uint32_t peer;
    AioContext *ctx;
    struct mesh *mesh;
    rig_body_fn *body;
    pthread_t thread;
    pid_t pid;
    bool running;
    void *ballast; /* what comes to lie behind it has another address in each process */
};

/* In shared memory, for ends to tell the test things. */
struct rig_board {
    _Atomic uint64_t words[64];
    _Atomic uint32_t leave;
};

struct rig {
    struct segment seg;
    struct registry *registry;
    struct rig_board *board;
    int bells[RIG_MAX_PEERS + 1];
    const char *letters_dir; /* NULL unless a test sets it */
    bool no_rebalance;
    enum aio_engine engine;  /* threads, unless a benchmark sets it */
    struct scan_config scan; /* likewise off */
    mesh_adopt_fn *adopt;    /* by ends begun from now on; opaque is the rig */
    struct rig_end ends[RIG_MAX_PEERS];
};

/* For who calls none of its own: method 0, "nothing", idempotent. */
extern const struct service rig_nothing;

void rig_open(struct rig *rig, uint32_t n_shards, const struct service *service);
void rig_close(struct rig *rig);

/* The gateway is peer n_shards. */
void rig_thread(struct rig *rig, uint32_t peer, rig_body_fn *body);
void rig_fork(struct rig *rig, uint32_t peer, rig_body_fn *body);

/* An end in the calling thread, for tests that turn it themselves with its context made current.
 * rig_finish() before rig_close(). */
void rig_begin(struct rig *rig, uint32_t peer, struct rig_end *end);
void rig_finish(struct rig_end *end);

/* Waits for a thread or a process that leaves by itself. */
void rig_join(struct rig *rig, uint32_t peer);

/* Tells all to leave, and waits for those that serve to have done so. */
void rig_stop_all(struct rig *rig);

/* SIGKILL, reaped; the others are told, as the supervisor does it. failed: it is given up for good.
 * */
void rig_kill(struct rig *rig, uint32_t peer, bool failed);

/* Notes, for a peer that has died and is not yet buried, who was on its CPU: that was a crash. */
void rig_note_crash(struct rig *rig, uint32_t peer);

/* The kernel has let go of all that dead incarnations of peer had in flight; all are told. */
void rig_quiet(struct rig *rig, uint32_t peer);

/* Tells the others about a peer that has died by itself and was reaped by rig_join(). */
void rig_bury(struct rig *rig, uint32_t peer, bool failed);

/* In an end: polls until cond(opaque) or a minute has passed, then aborts. */
void rig_poll_until(struct rig_end *end, bool (*cond)(void *opaque), void *opaque);

/* For who is there as long as the case is: longer than all the waits of others, one after the
 * other. */
void rig_serve_until(struct rig_end *end, bool (*cond)(void *opaque), void *opaque);

/* In an end: polls until the test says leave. */
void rig_serve(struct rig_end *end);

/* In the test: waits until a word of the board is at least value, a minute at most. */
void rig_wait_word(struct rig *rig, unsigned word, uint64_t value);

/* Sum over all pairs of calls submitted and not ended: slots that are not free. */
uint64_t rig_slots_in_use(const struct rig *rig);

/* Whether submitted = ended + slots in use for every pair. */
bool rig_balances(const struct rig *rig);
