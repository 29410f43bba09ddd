/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * context - the inside of an AioContext, for the files of runtime/ alone
 *
 * Fields are grouped by who writes them.
 */
#include <pthread.h>

#include "runtime/aio.h"
#include "runtime/doorbell.h"
#include "runtime/engine.h"
#include "runtime/fdmon.h"
#include "runtime/instruments.h"
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

struct AioContext {
    /* Written by any thread. */
    uint32_t refs;
    BH *bh_list;                     /* pushed by bh enqueue, taken whole by the loop */
    Coroutine *scheduled_coroutines; /* likewise */
    struct doorbell bell;
    struct doorbell_words own_words;
    struct cancel_inbox cancel_inbox;
    pthread_mutex_t handler_lock; /* aio_handlers, monitor updates */

    /* Under handler_lock. */
    struct aio_handler **handlers; /* by fd */
    uint32_t handlers_capacity;
    struct aio_handler *deleted_handlers; /* also looked at without it */

    struct timer_group timers; /* each list under its lock */

    /* The owner loop's own. */
    pthread_t home;
    bool has_home;
    uint32_t nesting; /* aio_poll calls on the stack */
    BH *bh_taken;     /* from bh_list, to be run in this order */
    BH **bh_taken_last;
    struct aio_handler *ready;
    struct aio_handler **ready_last;
    struct aio_source *sources;
    uint32_t sources_visited; /* walks over the sources on the stack */
    BH *co_schedule_bh;
    struct co_registry *co_registry;
    int64_t awake_since_ns;
    int64_t counted_ns; /* busy_ns holds the time up to here */

    /* How it waits and how it does disk I/O. */
    const struct fdmon_ops *monitor;
    void *monitor_state;
    const struct engine_ops *engine;
    void *engine_state;
    struct thread_pool *pool; /* NULL until first used */
    uint32_t max_threads;
    uint32_t io_depth;
    struct disk_request *completed;
    struct disk_request **completed_last;
    uint32_t n_cqes; /* completions collected for the program's own entries (aio_sqe.c) */
    struct disk_state disk;
    char engine_flags[256];

    /* What it tells of itself. */
    struct aio_instruments instruments;
    void *own_instruments; /* to free, or NULL */
};

/* Makes a wait that has begun look again, and leaves a loop that is awake alone: for what
 * aio_poll() looks at after it has raised notify_me. Context: any thread, signal handler. */
void context_nudge(AioContext *ctx);

/* Adds words to what aio_context_engine_flags() says, parted by "; ". Cut where too long. */
void context_add_flags(AioContext *ctx, const char *text);

/* bh.c: runs what is queued and returns progress; ns until something queued must run (-1: nothing
 * is); frees what is deleted, aborts on what is not. Context: owner loop; the last: the last unref.
 */
bool bh_poll(AioContext *ctx);
int64_t bh_timeout_ns(AioContext *ctx);
void bh_finalise(AioContext *ctx);

/* handler.c: as aio_set_fd_handler() without polling, but what another set for fd stays, and this is
 * -EBUSY; owner is the opaque. handler_owner() is the opaque of what is there, where it has one of
 * these callbacks; else NULL. Context: any thread. */
int handler_set_own(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write, void *owner);
void *handler_owner(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write);

/* handler.c: calls the ready ones and returns progress; frees those taken off that nobody holds any
 * more, and with them, at the end of the context, all others. Context: as above. */
bool handlers_dispatch(AioContext *ctx);
void handlers_free_deleted(AioContext *ctx);
void handlers_free_all(AioContext *ctx);

/* Whether something was collected that the turn has to run. Context: owner loop. */
static inline bool context_has_completions(const AioContext *ctx)
{
    return ctx->completed || ctx->n_cqes > 0;
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
