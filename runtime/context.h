/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * context - the inside of an AioContext, for the files of runtime/ alone
 *
 * Why:         each file keeps its part of a context where the others find it.
 * Use:         a file's functions stand below, under its name, unless it has a header of its own.
 * Concurrency: fields are grouped by who writes them.
 * Lifetime:    aio_context_new() to the last aio_context_unref()
 * Not here:    what users call (runtime/aio.h)
 */
#include <pthread.h>

#include "runtime/aio.h"
#include "runtime/doorbell.h"
#include "runtime/engine.h"
#include "runtime/fdmon.h"
#include "runtime/instruments_inside.h"
#include "runtime/source.h"
#include "runtime/timer_list.h"

struct co_registry;
struct thread_pool;

/* Waits of this context that a token has ended (co_cancel.c): pushed by any thread. */
struct cancel_inbox {
    pthread_mutex_t lock;
    struct CoScope *first;
    struct CoScope **last;
    BH *bh; /* takes them out */
};

/* A clock that is read once for many notes: the loop makes it look again in each turn. */
struct note_clock {
    uint64_t now_ns;
    uint32_t uses_left;
};

#define CONTEXT_LINE 64

struct AioContext {
    /* Constant, and read by any thread. */
    struct doorbell bell;

    /* Any thread writes notified, and reads notify_me. */
    struct doorbell_words own_words __attribute__((aligned(CONTEXT_LINE)));

    /* The inbox: any thread pushes, the loop takes each list whole. Both want the line for
     * writing. */
    BH *bh_list __attribute__((aligned(CONTEXT_LINE)));
    Coroutine *scheduled_coroutines;
    uint32_t refs;

    /* Written by any thread, seldom. */
    struct cancel_inbox cancel_inbox __attribute__((aligned(CONTEXT_LINE)));
    pthread_mutex_t handler_lock; /* aio_handlers, monitor updates */
    pthread_mutex_t bh_lock;      /* bhs */
    pthread_mutex_t user_lock;    /* aio_context_acquire()'s; the loop never takes it */

    /* Under bh_lock. */
    BH *bhs; /* all but oneshots */

    /* Under handler_lock. */
    struct aio_handler **handlers; /* by fd */
    uint32_t handlers_capacity;
    struct aio_handler *watched; /* all, first watched first */
    struct aio_handler **watched_last;
    uint32_t n_watched;                   /* but the doorbell's; also read without it */
    struct aio_handler *deleted_handlers; /* also looked at without it */

    struct timer_group timers; /* each list under its lock */

    /* The owner loop's own. */
    pthread_t home __attribute__((aligned(CONTEXT_LINE)));
    bool has_home;
    bool is_bound;    /* it has turned or its ring is in use: home stays */
    uint32_t nesting; /* aio_poll calls on the stack */
    BH *bh_own;       /* scheduled by this thread */
    BH **bh_own_last;
    bool bh_own_busy; /* for its signal handlers: being changed */
    BH *bh_taken;     /* from bh_own and bh_list, to be run in this order */
    BH **bh_taken_last;
    BH *bh_spare; /* oneshots that have run, for the next */
    uint32_t n_bh_spare;
    struct aio_handler *ready;
    struct aio_handler **ready_last;
    struct aio_source *sources;
    uint32_t sources_visited; /* walks over the sources on the stack */
    uint32_t n_waiters;       /* AIO_WAIT_WHILE()s on the stack; any thread reads it */
    BH *co_schedule_bh;
    struct co_registry *co_registry;
    int64_t awake_since_ns;
    int64_t counted_ns; /* busy_ns holds the time up to here */

    struct poll_mode poll;

    /* How it waits and how it does disk I/O. */
    const struct fdmon_ops *monitor;
    void *monitor_state;
    const struct engine_ops *engine;
    void *engine_state;
    struct thread_pool *pool; /* NULL until first used */
    enum aio_monitor wanted_monitor;
    int life_fd; /* 0: none, or the ring has it */
    bool restricted;
    uint32_t lesser_flags;
    uint32_t min_threads;
    uint32_t max_threads;
    int64_t thread_idle_ns;
    uint32_t io_depth;
    struct disk_queue completed;
    uint32_t n_cqes; /* completions collected for the program's own entries (aio_sqe.c) */
    struct disk_state disk;
    char engine_flags[256];

    /* Its place in an outer loop (gsource.c), or NULL, and how that is freed. */
    void *outer;
    void (*free_outer)(void *outer);

    /* What it tells of itself. */
    struct aio_instruments instruments;
    uint64_t own_running; /* instruments.running, where its creator handed in none */
    struct note_clock note_clock;
    void *own_instruments; /* to free, or NULL */
};

/* Makes a wait that has begun look again, and leaves a loop that is awake alone: for what
 * aio_poll() looks at after it has raised notify_me. Context: any thread, signal handler. */
void context_nudge(AioContext *ctx);

/* As context_nudge(), for work that another context hands over: counted also where the loop was
 * awake. Context: any thread, signal handler. */
void context_nudge_for_work(AioContext *ctx);

/* As context_nudge(), at the price of a load. Context: home thread, its signal handlers. */
void context_nudge_home(AioContext *ctx);

/* Waits in the monitor, up to timeout_ns (-1: for ever), and aborts where that can't wait. Context:
 * owner loop. */
void context_monitor_wait(AioContext *ctx, int64_t timeout_ns);

/* A wait begins, a wait is over: what lies between is no work. Context: owner loop. */
void context_wait_begins(AioContext *ctx, int64_t now_ns);
void context_wait_ends(AioContext *ctx, int64_t now_ns);

/* The same of a wait that may block, for whoever looks in from outside too: counter, recorder,
 * probe. Both return now; begin_ns is what the first returned. Context: owner loop. */
int64_t context_sleep_begins(AioContext *ctx, int64_t timeout_ns);
int64_t context_sleep_ends(AioContext *ctx, int64_t begin_ns);

/* aio_poll() without its wait: makes the calling thread the context's home, or asserts that it is;
 * begins a turn, which makes ctx current, and returns what context_end_turn() needs to know of the
 * turn around it; runs all that is ready, ends the turn and returns progress. gsource.c has another
 * wait in between. Context: owner loop. */
void context_check_home(AioContext *ctx);
AioContext *context_begin_turn(AioContext *ctx);
bool context_end_turn(AioContext *ctx, AioContext *outer);

/* From now on ctx (NULL: none) is the one that turns in this thread. Returns which one it was. */
AioContext *context_replace_turning(AioContext *ctx);

/* Hands deferred disk requests to the kernel and rings whom the sources pushed to: before a wait.
 * Context: owner loop. */
void context_flush(AioContext *ctx);

/* CLOCK_MONOTONIC for a note that is made often: as of this turn, and not older than 64 such notes.
 * Context: owner loop, coroutine. */
static inline uint64_t context_note_ns(AioContext *ctx)
{
    struct note_clock *clock = &ctx->note_clock;

    if (clock->uses_left == 0) {
        clock->now_ns = (uint64_t)aio_clock_ns();
        clock->uses_left = 64;
    }
    clock->uses_left--;
    return clock->now_ns;
}

/* The same at no cost, and as old as the last wait or the last 64 turns. Context: owner loop,
 * coroutine. */
static inline uint64_t context_coarse_ns(const AioContext *ctx)
{
    return (uint64_t)ctx->counted_ns;
}

/* Adds words to what aio_context_engine_flags() says, parted by "; ". Cut where too long. */
void context_add_flags(AioContext *ctx, const char *text);

/* source.c: whether one has work; does it and returns progress; rings whom they pushed to. Context:
 * owner loop. */
bool sources_pending(AioContext *ctx);
bool sources_prepare(AioContext *ctx);
bool sources_dispatch(AioContext *ctx);
void sources_flush(AioContext *ctx);

/* bh.c, beside aio_bh_poll(): what is there of a context without bottom halves; ns until something
 * queued must run (-1: nothing is); frees what is deleted, aborts on what is not. Context: owner
 * loop; the last: the last unref. */
void bh_init(AioContext *ctx);
int64_t bh_timeout_ns(AioContext *ctx);
void bh_finalise(AioContext *ctx);

/* handler.c: as aio_set_fd_handler() without polling, but what another set for fd stays, and this
 * is -EBUSY; owner is the opaque. handler_owner() is the opaque of what is there, where it has one
 * of these callbacks; else NULL. Context: any thread. */
int handler_set_own(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write, void *owner);
void *handler_owner(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write);

/* handler.c: calls the ready ones and returns progress; frees those taken off that nobody holds any
 * more, and with them, at the end of the context, all others. Context: as above. */
bool handlers_dispatch(AioContext *ctx);
void handlers_free_deleted(AioContext *ctx);
void handlers_free_all(AioContext *ctx);

/* The shorter of two timeouts in ns: -1, for ever, is the longest. */
static inline int64_t timeout_min_ns(int64_t a, int64_t b)
{
    return (uint64_t)a < (uint64_t)b ? a : b;
}

/* Whether something was collected that the turn has to run. Context: owner loop. */
static inline bool context_has_completions(const AioContext *ctx)
{
    return ctx->completed.first || ctx->n_cqes > 0;
}

/* Whether aio_poll() has to call poll_mode_run(). Context: owner loop. */
static inline bool poll_mode_is_on(const AioContext *ctx)
{
    return atomic_load_relaxed(&ctx->poll.max_ns) > 0 ||
           ctx->poll.polled; /* PARAM in poll_mode.c */
}

/* Whether there is something for handlers_free_deleted(). Context: owner loop. */
static inline bool handlers_are_deleted(const AioContext *ctx)
{
    return atomic_load_relaxed(&ctx->deleted_handlers); /* LEFT in handler.c */
}

/* Whether there is something for aio_bh_poll(). Context: owner loop. */
static inline bool bh_are_queued(const AioContext *ctx)
{
    return ctx->bh_own || ctx->bh_taken || atomic_load_relaxed(&ctx->bh_list); /* LINK in bh.c */
}

/* Whether timers_run() need look. Context: owner loop. */
static inline bool timers_are_armed(const AioContext *ctx)
{
    bool armed = false;

    for (unsigned clock = 0; clock < N_CLOCKS; clock++)
        armed |=
            atomic_load_relaxed(&ctx->timers.first_ns[clock]) != TIMER_NEVER; /* SLEEP in timer.c */
    return armed;
}

/* aio_sqe.c: calls the handlers of those; returns progress. Context: owner loop. */
bool aio_sqe_dispatch(AioContext *ctx);

/* Frees the pool, waiting for its workers. NULL does nothing. */
void thread_pool_free(struct thread_pool *pool);

/* Makes and frees what coroutine scheduling needs in a context. */
int coroutine_context_init(AioContext *ctx);
void coroutine_context_deinit(AioContext *ctx);

/* co_cancel.c: the same for what tokens end. */
int cancel_context_init(AioContext *ctx);
void cancel_context_deinit(AioContext *ctx);
