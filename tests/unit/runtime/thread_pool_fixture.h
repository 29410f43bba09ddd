/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * thread_pool_fixture - a context with so many workers, coroutines that hand it work, and a gate
 *
 * Use:  AioContext *ctx = context_with(2); … drop(ctx);
 *       start(&call) runs call.func in a worker; poll_until(ctx, &n_ended, 1)
 *       close_gate(); work wait_at_gate() waits there until open_gate_when_waiting(n)
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "runtime/context.h"
#include "runtime/pool_work.h"

#define DEADLINE_NS ((int64_t)60 * 1000 * 1000 * 1000)

static inline AioContext *context_with(uint32_t max_threads)
{
    AioContext *ctx;
    struct aio_config config = {.engine = AIO_ENGINE_THREADS, .max_threads = max_threads};

    assert_int_equal(aio_context_new(&config, &ctx), 0);
    aio_context_set_current(ctx);
    return ctx;
}

static inline void drop(AioContext *ctx)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

static inline void fail_late(void *opaque)
{
    fail_msg("the state waited for did not come");
}

static inline void poll_until(AioContext *ctx, const unsigned *value, unsigned target)
{
    AioTimer deadline;

    aio_timer_init(ctx, &deadline, fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + DEADLINE_NS);
    while (*value < target)
        aio_poll(ctx, true);
    timer_del(&deadline);
}

/* A coroutine that has func run and keeps what came back. */
struct call {
    ThreadPoolFunc *func;
    void *opaque;
    int result;
    unsigned *n_ended;
};

static inline void run_call(void *opaque)
{
    struct call *call = opaque;

    call->result = thread_pool_submit_co(call->func, call->opaque);
    ++*call->n_ended;
}

static inline void start(struct call *call)
{
    Coroutine *co = coroutine_create(run_call, call);

    assert_non_null(co);
    coroutine_enter(co);
}

/* A gate that work waits at, and how many wait there. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n_waiting;
    unsigned most_waiting;
    bool open;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static inline int wait_at_gate(void *opaque)
{
    pthread_mutex_lock(&gate.lock);
    if (++gate.n_waiting > gate.most_waiting)
        gate.most_waiting = gate.n_waiting;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.n_waiting--;
    pthread_mutex_unlock(&gate.lock);
    return 0;
}

static inline void close_gate(void)
{
    gate.open = false;
    gate.n_waiting = 0;
    gate.most_waiting = 0;
}

static inline void wait_until_at_gate(unsigned n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.n_waiting < n)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

static inline void open_gate_when_waiting(unsigned n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.n_waiting < n)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static inline int return_zero(void *opaque)
{
    return 0;
}
