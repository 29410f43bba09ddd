/* SPDX-License-Identifier: MIT */
#include "runtime/thread_pool.h"
/*
 * One mutex guards what the loop and the workers hand each other: work not begun, and work
 * finished. All else (arguments, result) passes with it through that mutex, so no weak atomics are
 * needed. A condition variable is signalled under the mutex, so nobody touches it once the pool is
 * freed.
 *
 * A worker counts as idle from its creation until it takes work, so "more queued than idle" is
 * exactly when one more is of use, also while earlier ones are still starting. The home thread
 * makes it, so it has the loop's affinity.
 *
 * The worker that makes the finished queue non-empty schedules the bottom half, which moves the
 * queue to one of the loop's own and calls back from there. A callback may run a nested loop, whose
 * turn must find the rest: so the bottom half is scheduled again before the first call, and
 * cancelled after the last. Work that was finished meanwhile may have lost its schedule by that:
 * the queue is looked at once more.
 *
 * Workers are joined, not detached: when thread_pool_free() returns, no instruction of theirs is
 * left to run. One that leaves is joined when the next is made, or at the end; it has nothing left
 * to do but return by then.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "runtime/bug.h"
#include "runtime/context.h"
#include "runtime/pool_work.h"
#include "runtime/tail_queue.h"

struct work_queue {
    struct pool_work *first;
    struct pool_work **last;
};

struct worker {
    pthread_t thread;
    struct thread_pool *pool;
    struct worker *next;
    bool has_left; /* under the lock; nothing but its return is left to do */
};

struct thread_pool {
    AioContext *ctx;
    BH *reap_bh;
    struct worker *workers;  /* the owner loop's */
    struct work_queue ended; /* the owner loop's: to be called back in this order */

    pthread_mutex_t lock;
    pthread_cond_t more_work; /* waits on CLOCK_MONOTONIC */

    /* Under the lock. */
    struct work_queue queued;
    struct work_queue finished;
    uint32_t n_queued;
    uint32_t n_threads;
    uint32_t n_idle;
    uint32_t min_threads;
    uint32_t max_threads;
    int64_t idle_ns;
    bool stopping;
};

static void queue_push(struct work_queue *queue, struct pool_work *work)
{
    tail_queue_append(queue->first, queue->last, work);
}

static void queue_remove(struct work_queue *queue, struct pool_work *work)
{
    tail_queue_remove(queue->last, work);
}

static struct pool_work *queue_pop(struct work_queue *queue)
{
    struct pool_work *work = queue->first;

    if (work)
        queue_remove(queue, work);
    return work;
}

/* Moves all of from to the end of to. */
static void queue_append(struct work_queue *to, struct work_queue *from)
{
    tail_queue_concat(to->first, to->last, from->first, from->last);
}

/* ---- the workers' side ---- */

/* Waits under the lock, until something has changed or idle_ns have passed since since_ns. Returns
 * whether they have. */
static bool wait_idle(struct thread_pool *pool, int64_t since_ns)
{
    int64_t until_ns = since_ns < INT64_MAX - pool->idle_ns ? since_ns + pool->idle_ns : INT64_MAX;
    struct timespec until = {.tv_sec = until_ns / AIO_SCALE_S, .tv_nsec = until_ns % AIO_SCALE_S};

    return pthread_cond_timedwait(&pool->more_work, &pool->lock, &until) == ETIMEDOUT;
}

/* Waits for work under the lock. NULL: it is time to leave. */
static struct pool_work *take_work(struct thread_pool *pool)
{
    int64_t since_ns = aio_clock_ns();
    bool has_waited = false;

    while (pool->n_threads <= pool->max_threads) {
        struct pool_work *work = queue_pop(&pool->queued);

        if (work) {
            work->has_begun = true;
            pool->n_queued--;
            return work;
        }
        if (pool->stopping)
            return NULL;
        if (pool->n_threads <= pool->min_threads)
            pthread_cond_wait(&pool->more_work, &pool->lock);
        else if (has_waited)
            return NULL;
        else
            has_waited = wait_idle(pool, since_ns);
    }
    /* One too many: what it was woken for is another's. */
    if (pool->queued.first)
        pthread_cond_signal(&pool->more_work);
    return NULL;
}

/* Called and returns with the lock held; lets go of it while func runs. */
static void do_work(struct thread_pool *pool, struct pool_work *work)
{
    pool->n_idle--;
    pthread_mutex_unlock(&pool->lock);

    work->ret = work->func(work->opaque);

    pthread_mutex_lock(&pool->lock);
    bool first = !pool->finished.first;
    queue_push(&pool->finished, work);
    pool->n_idle++;
    if (first) {
        /* Outside the lock, or the loop would wake only to wait for it. The pool cannot go away
         * meanwhile: this thread has not been joined. */
        pthread_mutex_unlock(&pool->lock);
        bh_schedule(pool->reap_bh);
        pthread_mutex_lock(&pool->lock);
    }
}

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    struct thread_pool *pool = worker->pool;
    struct pool_work *work;

    pthread_mutex_lock(&pool->lock);
    while ((work = take_work(pool)))
        do_work(pool, work);
    pool->n_idle--;
    pool->n_threads--;
    worker->has_left = true;
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ---- the loop's side ---- */

static void join_those_who_left(struct thread_pool *pool)
{
    struct worker **link = &pool->workers;

    while (*link) {
        struct worker *worker = *link;

        pthread_mutex_lock(&pool->lock);
        bool has_left = worker->has_left;
        pthread_mutex_unlock(&pool->lock);
        if (!has_left) {
            link = &worker->next;
            continue;
        }
        *link = worker->next;
        pthread_join(worker->thread, NULL);
        free(worker);
    }
}

/* Signals are for the threads that ask for them: a worker takes none, so no call of its own ends
 * with EINTR. */
static int start_thread(struct worker *worker)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

static int add_worker(struct thread_pool *pool)
{
    join_those_who_left(pool);

    struct worker *worker = calloc(1, sizeof(*worker));
    if (!worker)
        return -ENOMEM;
    worker->pool = pool;

    pthread_mutex_lock(&pool->lock);
    pool->n_threads++;
    pool->n_idle++;
    pthread_mutex_unlock(&pool->lock);

    int r = start_thread(worker);
    if (r < 0) {
        pthread_mutex_lock(&pool->lock);
        pool->n_threads--;
        pool->n_idle--;
        pthread_mutex_unlock(&pool->lock);
        free(worker);
        return r;
    }
    worker->next = pool->workers;
    pool->workers = worker;
    return 0;
}

/* Moves what the workers have finished to what is to be called back. Returns whether there is
 * any. */
static bool take_finished(struct thread_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    queue_append(&pool->ended, &pool->finished);
    pthread_mutex_unlock(&pool->lock);
    return pool->ended.first;
}

/* The bottom half. */
static void reap(void *opaque)
{
    struct thread_pool *pool = opaque;
    struct pool_work *work;

    take_finished(pool);
    if (pool->ended.first && pool->ended.first->next)
        bh_schedule(pool->reap_bh);
    while ((work = queue_pop(&pool->ended)))
        work->finish(pool->ctx, work);
    bh_cancel(pool->reap_bh);
    if (take_finished(pool))
        bh_schedule(pool->reap_bh);
    disk_dispatch_completed(pool->ctx);
}

/* Makes workers while there are less than the minimum, or more work than idle ones. Returns the
 * error of the one that could not be made. */
static int add_workers(struct thread_pool *pool)
{
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        bool wanted = pool->n_threads < pool->min_threads ||
                      (pool->n_queued > pool->n_idle && pool->n_threads < pool->max_threads);
        pthread_mutex_unlock(&pool->lock);
        if (!wanted)
            return 0;
        int r = add_worker(pool);
        if (r < 0)
            return r;
    }
}

static int pool_new(AioContext *ctx, struct thread_pool **ret_pool)
{
    struct thread_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->reap_bh = aio_bh_new(ctx, reap, pool);
    if (!pool->reap_bh) {
        free(pool);
        return -ENOMEM;
    }
    pool->ctx = ctx;
    pool->min_threads = ctx->min_threads;
    pool->max_threads = ctx->max_threads;
    pool->idle_ns = ctx->thread_idle_ns;
    pthread_mutex_init(&pool->lock, NULL);

    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->more_work, &attr);
    pthread_condattr_destroy(&attr);

    *ret_pool = pool;
    return 0;
}

static int pool_get(AioContext *ctx, struct thread_pool **ret_pool)
{
    if (!ctx->pool) {
        int r = pool_new(ctx, &ctx->pool);
        if (r < 0)
            return r;
        (void)add_workers(ctx->pool); /* the minimum, or as many as are to be had */
    }
    *ret_pool = ctx->pool;
    return 0;
}

static void check_empty(const struct work_queue *queue)
{
    if (queue->first)
        bug("work of function %p is under way at the end of its context",
            (void *)(uintptr_t)queue->first->func);
}

void thread_pool_free(struct thread_pool *pool)
{
    if (!pool)
        return;

    pthread_mutex_lock(&pool->lock);
    check_empty(&pool->queued); /* who waits for it would never be woken */
    pool->stopping = true;
    pthread_cond_broadcast(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);

    while (pool->workers) {
        struct worker *worker = pool->workers;

        pool->workers = worker->next;
        pthread_join(worker->thread, NULL);
        free(worker);
    }
    check_empty(&pool->finished);
    check_empty(&pool->ended);

    bh_delete(pool->reap_bh);
    pthread_cond_destroy(&pool->more_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* Under the lock. Takes work back; false where a worker has had it already. */
static bool take_back(struct thread_pool *pool, struct pool_work *work)
{
    if (work->has_begun)
        return false;
    work->has_begun = true;
    queue_remove(&pool->queued, work);
    pool->n_queued--;
    return true;
}

bool pool_work_cancel(AioContext *ctx, struct pool_work *work)
{
    struct thread_pool *pool = ctx->pool;

    pthread_mutex_lock(&pool->lock);
    bool cancelled = take_back(pool, work);
    pthread_mutex_unlock(&pool->lock);
    return cancelled;
}

int pool_work_submit(AioContext *ctx, struct pool_work *work)
{
    struct thread_pool *pool;
    int r = pool_get(ctx, &pool);
    if (r < 0)
        return r;

    pthread_mutex_lock(&pool->lock);
    work->has_begun = false;
    queue_push(&pool->queued, work);
    pool->n_queued++;
    pthread_cond_signal(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);
    r = add_workers(pool);
    if (r == 0)
        return 0;

    /* Whoever is there will get to it; if nobody is, it must not stay. */
    pthread_mutex_lock(&pool->lock);
    bool orphaned = pool->n_threads == 0 && take_back(pool, work);
    pthread_mutex_unlock(&pool->lock);
    return orphaned ? r : 0;
}

void pool_work_finish_later(AioContext *ctx, struct pool_work *work, int ret)
{
    work->ret = ret;
    queue_push(&ctx->pool->ended, work);
    bh_schedule(ctx->pool->reap_bh);
}

uint32_t thread_pool_n_threads(AioContext *ctx)
{
    struct thread_pool *pool = ctx->pool;
    if (!pool)
        return 0;

    pthread_mutex_lock(&pool->lock);
    uint32_t n = pool->n_threads;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

/* ---- parameters ---- */

int aio_context_set_thread_pool_params(AioContext *ctx, int64_t min, int64_t max)
{
    struct thread_pool *pool = ctx->pool;

    if (min < 0 || max < 1 || min > max || max > INT32_MAX)
        return -EINVAL;
    ctx->min_threads = (uint32_t)min;
    ctx->max_threads = (uint32_t)max;
    if (!pool)
        return 0;

    pthread_mutex_lock(&pool->lock);
    pool->min_threads = ctx->min_threads;
    pool->max_threads = ctx->max_threads;
    pthread_cond_broadcast(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);
    (void)add_workers(pool); /* those who are not to be had now are made when there is work */
    return 0;
}

void aio_context_set_thread_pool_idle_ns(AioContext *ctx, int64_t idle_ns)
{
    struct thread_pool *pool = ctx->pool;

    assert(idle_ns >= 0);
    ctx->thread_idle_ns = idle_ns;
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->idle_ns = idle_ns;
    pthread_cond_broadcast(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);
}
