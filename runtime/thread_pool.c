/* SPDX-License-Identifier: MIT */
#include "runtime/thread_pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/context.h"
#include "runtime/pool_work.h"

/*
 * One mutex guards both queues: work not begun, and work finished. Everything that a worker and the
 * loop hand each other (arguments, result) passes through it, so no weak atomics are needed.
 *
 * A worker counts as idle from its creation until it takes work, so "more queued than idle" is
 * exactly when one more is of use, also while earlier ones are still starting.
 *
 * The worker that makes the finished queue non-empty schedules the bottom half; the loop takes the
 * queue whole. finish() only collects; coroutines run after the queue has been walked, because one
 * of them may run a nested loop by way of what it wakes.
 *
 * Workers are joined, not detached: when thread_pool_free() returns, no instruction of theirs is
 * left to run. One that leaves for lack of work is joined when the next is made, or at the end.
 */

#define WORKER_IDLE_NS (10 * 1000000000LL)

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
    struct worker *workers; /* the owner loop's */
    uint32_t max_threads;

    pthread_mutex_t lock;
    pthread_cond_t more_work; /* waits on CLOCK_MONOTONIC */

    /* Under the lock. */
    struct work_queue queued;
    struct work_queue finished;
    uint32_t n_queued;
    uint32_t n_threads;
    uint32_t n_idle;
    int64_t idle_ns;
    bool stopping;
};

static void queue_init(struct work_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static void queue_push(struct work_queue *queue, struct pool_work *work)
{
    work->next = NULL;
    *queue->last = work;
    queue->last = &work->next;
}

static struct pool_work *queue_pop(struct work_queue *queue)
{
    struct pool_work *work = queue->first;

    if (work) {
        queue->first = work->next;
        if (!queue->first)
            queue->last = &queue->first;
    }
    return work;
}

/* ---- the workers' side ---- */

static struct timespec deadline_after(int64_t ns)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += t.tv_nsec;
    t.tv_sec += ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    return t;
}

/* Waits for work under the lock. NULL: it is time to leave. */
static struct pool_work *take_work(struct thread_pool *pool)
{
    struct timespec deadline = deadline_after(pool->idle_ns);
    int r = 0;

    while (!pool->queued.first && !pool->stopping && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&pool->more_work, &pool->lock, &deadline);

    struct pool_work *work = queue_pop(&pool->queued);
    if (work)
        pool->n_queued--;
    return work;
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

/* The bottom half: hands back whatever the workers have finished. */
static void reap(void *opaque)
{
    struct thread_pool *pool = opaque;
    struct work_queue finished;
    struct pool_work *work;

    queue_init(&finished);
    pthread_mutex_lock(&pool->lock);
    if (pool->finished.first) {
        finished = pool->finished;
        queue_init(&pool->finished);
    }
    pthread_mutex_unlock(&pool->lock);

    while ((work = queue_pop(&finished)))
        work->finish(pool->ctx, work);
    disk_dispatch_completed(pool->ctx);
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
    pool->max_threads = ctx->max_threads ? ctx->max_threads : 1;
    pool->idle_ns = WORKER_IDLE_NS;
    queue_init(&pool->queued);
    queue_init(&pool->finished);
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
    }
    *ret_pool = ctx->pool;
    return 0;
}

void thread_pool_free(struct thread_pool *pool)
{
    if (!pool)
        return;

    pthread_mutex_lock(&pool->lock);
    assert(!pool->queued.first); /* who waits for it would never be woken */
    pool->stopping = true;
    pthread_cond_broadcast(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);

    while (pool->workers) {
        struct worker *worker = pool->workers;

        pool->workers = worker->next;
        pthread_join(worker->thread, NULL);
        free(worker);
    }
    assert(!pool->finished.first);

    bh_delete(pool->reap_bh);
    pthread_cond_destroy(&pool->more_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* Under the lock. Takes work back; false where a worker has had it already. */
static bool take_back(struct thread_pool *pool, struct pool_work *work)
{
    struct pool_work **link = &pool->queued.first;

    while (*link && *link != work)
        link = &(*link)->next;
    if (!*link)
        return false;
    *link = work->next;
    if (!*link)
        pool->queued.last = link;
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
    queue_push(&pool->queued, work);
    pool->n_queued++;
    bool wants_worker = pool->n_queued > pool->n_idle && pool->n_threads < pool->max_threads;
    pthread_cond_signal(&pool->more_work);
    pthread_mutex_unlock(&pool->lock);
    if (!wants_worker)
        return 0;

    r = add_worker(pool);
    if (r == 0)
        return 0;

    /* Whoever is there will get to it; if nobody is, it must not stay. */
    pthread_mutex_lock(&pool->lock);
    bool orphaned = pool->n_threads == 0 && take_back(pool, work);
    pthread_mutex_unlock(&pool->lock);
    return orphaned ? r : 0;
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

int thread_pool_set_idle_ns(AioContext *ctx, int64_t idle_ns)
{
    struct thread_pool *pool;
    int r = pool_get(ctx, &pool);
    if (r < 0)
        return r;

    pthread_mutex_lock(&pool->lock);
    pool->idle_ns = idle_ns;
    pthread_mutex_unlock(&pool->lock);
    return 0;
}

/* ---- coroutines ---- */

struct co_call {
    struct pool_work work;
    Coroutine *co;
};

static void co_call_finish(AioContext *ctx, struct pool_work *work)
{
    struct co_call *call = (struct co_call *)work;

    aio_co_schedule(ctx, call->co);
}

int coroutine_fn thread_pool_submit_co(ThreadPoolFunc *func, void *opaque)
{
    AioContext *ctx = aio_context_current();
    struct co_call call = {
        .work = {.func = func, .opaque = opaque, .finish = co_call_finish},
        .co = coroutine_self(),
    };

    int r = pool_work_submit(ctx, &call.work);
    if (r < 0)
        return r;
    coroutine_yield();
    return call.work.ret;
}
