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

struct bh_slice;
struct thread_pool;

struct AioContext {
    /* Written by any thread. */
    uint32_t refs;
    BH *bh_list;                     /* pushed by bh enqueue, taken whole by the loop */
    Coroutine *scheduled_coroutines; /* likewise */
    struct doorbell bell;
    struct doorbell_words own_words;
    pthread_mutex_t handler_lock; /* aio_handlers, monitor updates */
    pthread_mutex_t timer_lock;   /* the timer heap */

    /* Under handler_lock. */
    struct aio_handler *handlers;
    struct aio_handler *deleted_handlers;

    /* Under timer_lock; timer_first_ns is also read without it. */
    AioTimer **timers;
    uint32_t n_timers;
    uint32_t timers_capacity;
    uint64_t timer_order;
    int64_t timer_first_ns; /* INT64_MAX: none */

    /* The owner loop's own. */
    pthread_t home;
    bool has_home;
    uint32_t nesting; /* aio_poll calls on the stack */
    struct bh_slice *slices;
    struct bh_slice **slices_last;
    struct aio_handler *ready;
    struct aio_handler **ready_last;
    struct aio_source *sources;
    BH *co_schedule_bh;
    int64_t awake_since_ns;

    /* How it waits and how it does disk I/O. */
    const struct fdmon_ops *monitor;
    void *monitor_state;
    const struct engine_ops *engine;
    void *engine_state;
    struct thread_pool *pool; /* NULL until first used */
    uint32_t max_threads;
    struct disk_request *completed;
    struct disk_request **completed_last;
    char engine_flags[160];

    /* What it tells of itself. */
    struct aio_instruments instruments;
    void *own_instruments; /* to free, or NULL */
};

/* Hands deferred disk requests to the kernel and rings whom the sources pushed to. */
void aio_flush(AioContext *ctx);

/* Frees the pool, waiting for its workers. NULL does nothing. */
void thread_pool_free(struct thread_pool *pool);

/* Makes and frees what coroutine scheduling needs in a context. */
int coroutine_context_init(AioContext *ctx);
void coroutine_context_deinit(AioContext *ctx);
