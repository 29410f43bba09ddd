/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * supervisor_inside - what supervisor.c, birth.c, child_*.c, death.c, hang.c, quiet.c, leave.c,
 * operate.c, placement.c and watch.c share
 *
 * One thread, so one state. Callbacks of the loop note what happened; everything else is done
 * between two turns, in supervisor_run().
 */
#include <signal.h>

#include "runtime/atomic.h"
#include "shard/death_report.h"
#include "shard/image.h"
#include "shard/order.h"
#include "shard/restart.h"
#include "shard/segment_file.h"
#include "shard/stall.h"
#include "shard/spawn.h"
#include "shard/supervisor.h"

/* X(name, text, whether the dead are replaced) */
#define STAGES(X)                              \
    X(STARTING, "starting", true)              \
    X(RUNNING, "running", true)                \
    X(DRAINING, "draining", true)              \
    X(LEAVING, "leaving", false) /* asked */   \
    X(KILLING, "killing", false) /* SIGKILL */ \
    X(GONE, "gone", false)

enum stage {
#define X(name, text, replaces) STAGE_##name,
    STAGES(X)
#undef X
};

#define NEVER      UINT64_MAX
#define COMM_BYTES 16u /* of a thread's name, the NUL included */

/* Stores a word that tools read, each word by itself: it may be stale, and is never torn. What one
 * process tells another is stored with an ordering that has a name. */
#define show(p, v) atomic_store_relaxed(p, v)

struct child {
    struct supervisor *supervisor;
    uint32_t peer;
    char process[24]; /* "shard 1" */
    pid_t pid;        /* 0: none lives */
    int pidfd;
    struct child_thread *thread; /* where children are threads */
    int life_fd;                 /* to be inherited; 0: none (quiet.c) */
    struct lifeline *lifelines;
    bool up;
    bool returns;    /* told to leave and be replaced, by order */
    uint64_t due_ns; /* when it is to be forked; NEVER: it lives, or is given up */
    struct restart restart;
    struct death_report *report; /* of the last death, until all of it is known; or NULL */
    struct death_outcome outcome;
    bool reported;        /* it is written, but for the first request that the replacement serves */
    uint64_t redo_before; /* deaths within a transition, before that one */
    struct stall stall;   /* hang.c */
    pid_t helper;         /* that looks at it; 0: none */
    bool stopped;         /* by a signal */
    bool hung;            /* killed for it */
    bool overslept;       /* at the last look (watch.c) */
    uint64_t heartbeat;
    bool rings_empty; /* those it sends on, when its progress was: */
    uint64_t rings_progress;
};

/* Where the restart of one process stands (operate.c). */
enum operation_step { STEP_SETTLE, STEP_RETURN, STEP_CUT, STEP_KILL, STEP_COME };

/* The order that is being carried out. */
struct operation {
    struct order order; /* kind NONE: none is */
    struct order_note *note;
    uint64_t n_orders; /* that ever came */
    enum operation_step step;
    uint64_t step_ends_ns;
    uint32_t at;          /* the peer that is restarted now */
    uint32_t incarnation; /* its, before */
    uint64_t n_cut;       /* calls in flight when limits came */
    bool was_cut;
    bool renewal_due; /* what shards are forked with has changed: all are to be replaced */
    bool renews;      /* the order under way is that */
    uint64_t asked;   /* the gateway's word that was taken last */
    uint64_t next_asked_ns;
};

struct supervisor {
    struct supervisor_config config;
    struct segment_file file;
    struct segment segment;
    struct fd_keep *keep;
    int *bell_fds; /* n_peers, then the supervisor's */
    int *keep_fds; /* of every child */
    uint32_t n_keep_fds;
    uint32_t io_depth;
    AioContext *ctx;
    int signal_fd;
    sigset_t old_mask;
    AioTimer wake;
    enum stage stage;
    uint64_t began_ns;
    uint64_t stage_ends_ns;   /* when the stage is over by force; NEVER: no limit */
    uint64_t alive_ns;        /* next message to the watchdog; NEVER: none */
    uint64_t flush_ns;        /* log_flush(); NEVER: nothing repeats */
    uint64_t watch_ns;        /* next look for lost wake-ups */
    uint64_t n_reports;       /* of deaths, written */
    uint64_t hang_ns;         /* next look for who hangs */
    uint64_t submitted;       /* calls submitted by all when the drain was last looked at */
    uint64_t busy_ns;         /* when something was last seen in flight in it */
    struct topology topology; /* as of now */
    cpu_set_t allowed;        /* what it was made from */
    uint64_t placed_ns;       /* next look at what is allowed */
    uint64_t n_oom_kills;     /* as the cgroup had it at the last death */
    uint32_t n_stop_signals;
    struct operation operation;
    bool drained; /* by order: nothing new is taken, and nobody leaves */
    bool reload;
    int exit_status;
    struct child *children; /* n_peers */
};

static inline uint64_t supervisor_now_ns(void)
{
    return (uint64_t)aio_clock_ns();
}

/* When to look next at what is looked at once a second: all of it at the same time, so that an idle
 * supervisor wakes once. */
static inline uint64_t supervisor_next_second(uint64_t now_ns)
{
    const uint64_t second_ns = UINT64_C(1000) * 1000 * 1000;

    return (now_ns / second_ns + 1) * second_ns;
}

/* Sets the stage, if the moves allowed from the present one include it. */
void supervisor_enter(struct supervisor *supervisor, enum stage stage);

/* Whether the dead are replaced in that stage. */
bool supervisor_replaces(enum stage stage);

/* Shows in the segment, and to the service manager, how the instance is as a whole. */
void supervisor_show_state(struct supervisor *supervisor);

/* ---- birth.c ---- */

/* Who is to be forked now; NULL: nobody. */
struct child *birth_next_due(const struct supervisor *supervisor);

/* Forks it, or puts it off. Returns true in the child. */
bool birth_fork(struct child *child);

/* What the child is to settle in with, and what it is to be. comm has room for 16 bytes; copies as
 * in fd_keep_inherit(). 0, or
 * -errno: it can't get what is kept for it. Its table of that is the caller's to free. */
int birth_describe(const struct child *child, bool copies, char *comm, struct spawn *ret_spawn,
    struct child_env *ret_env, child_main_fn **ret_main);

/* In the child: settles in, and says what it is to do. */
void birth_become(struct child *child, struct child_env *ret_env, child_main_fn **ret_main);

/* Notes which children came up. Returns whether all are. */
bool birth_note_up(struct supervisor *supervisor);

/* ---- child_process.c, or, in builds for sanitizers (-Dchildren=threads), child_thread.c ---- */

/*
 * Begins the child's life. 1: this is the child; 0 with its pid, and a fd in child->pidfd that is
 * readable once it has ended; -errno with a text (which may be NULL): -EBUSY where it never will.
 */
int child_begin(struct child *child, pid_t *ret_pid, char **ret_error);

/* Whether it has ended, which may be waited for; then how, as waitpid() tells. */
bool child_reap(struct child *child, bool wait, int *ret_status);

/* Ends it by force, without waiting until it has. */
void child_kill(const struct child *child);

/* ---- death.c ---- */

/* Handler of the child's pidfd. */
void child_on_exit(void *opaque);

/* Gives it up for good and tells its peers. */
void child_fail(struct child *child);

bool child_is_failed(const struct child *child);

/* Makes every living peer, and what takes its place, look at what the supervisor says of it. */
void child_tell_peers(const struct child *child);

/* ---- quiet.c ---- */

/* Before its fork: life_fd is what it inherits. 0 or -errno, with a text. */
int quiet_open(struct child *child, char **ret_error);

/* Closes life_fd, if it has it still: after the fork, in the supervisor. */
void quiet_close_own_end(struct child *child);

/* Notes up to which incarnation it is quiet; whether that is news. Peers are still to be told. */
bool quiet_note(struct child *child);

/* The supervisor ends. */
void quiet_forget(struct child *child);

/* Writes the reports that are due; all, where all is set. */
void death_turn(struct supervisor *supervisor, uint64_t now_ns, bool all);

/* When death_turn() has to look again, whatever happens. */
uint64_t death_next_look_ns(const struct supervisor *supervisor);

/* ---- leave.c ---- */

/* Tells a child what to do from now on. */
void child_order(const struct child *child, enum peer_order order);

uint64_t leave_calls_under_way(const struct supervisor *supervisor, uint32_t from, uint32_t to);

/* Whether nothing is in flight, now and at the look before, and the gateway has drained. */
bool leave_is_quiet(struct supervisor *supervisor, uint64_t *ret_in_flight);

/* Acts on signals that came, and on what the stage waits for. */
void leave_turn(struct supervisor *supervisor);

/* When leave_turn() has to look again, whatever happens. */
uint64_t leave_next_look_ns(const struct supervisor *supervisor);

/* A first start failed: everybody leaves. */
void leave_at_start(struct supervisor *supervisor);

/* ---- operate.c ---- */

/* An order came. */
void operate_take(struct supervisor *supervisor, uint64_t word);

/* Replaces all shards, one after the other, as soon as no order is under way. */
void operate_renew(struct supervisor *supervisor);

/* Carries on with the one that is under way. */
void operate_turn(struct supervisor *supervisor);
uint64_t operate_next_look_ns(const struct supervisor *supervisor);

/* ---- placement.c ---- */

/* Takes stock of the cores before the first fork. 0 or -errno, with a text. */
int placement_begin(struct supervisor *supervisor, char **ret_error);
void placement_end(struct supervisor *supervisor);

/* Where that process is to be pinned; NULL: nowhere. */
const struct topology_core *placement_core_of(const struct supervisor *supervisor, uint32_t peer);

/* Once a second, at placed_ns: looks whether other CPUs are allowed than before. */
void placement_turn(struct supervisor *supervisor, uint64_t now_ns);

/* ---- hang.c ---- */

/* At hang_ns: looks for who makes no progress. */
void hang_turn(struct supervisor *supervisor, uint64_t now_ns);

/* Changes whenever a callback of peer's loop begins or ends. */
uint64_t hang_progress(const struct supervisor *supervisor, uint32_t peer);

/* The child has died: what was seen of it is over. */
void hang_forget(struct child *child);

/* ---- watch.c ---- */

/* Twice a second, at watch_ns: looks for who sleeps though messages wait for it. */
void watch_turn(struct supervisor *supervisor, uint64_t now_ns);

/* Whether its bell has been rung since it last looked. */
bool watch_is_rung(const struct child *child);
