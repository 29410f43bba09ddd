/* SPDX-License-Identifier: MIT */
#include "runtime/thread_pool.h"
/*
 * What users hand to the pool: a call that is allocated, has a handle and is called back; and a
 * call on the stack of a coroutine, which is woken.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "runtime/bug.h"
#include "runtime/co_wait.h"
#include "runtime/coroutine_inside.h"
#include "runtime/pool_work.h"

/* ---- with a callback ---- */

struct ThreadPoolCall {
    struct pool_work work;
    ThreadPoolDone *done;
    void *opaque;
};

static void call_finish(AioContext *ctx, struct pool_work *work)
{
    ThreadPoolCall *call = (ThreadPoolCall *)((char *)work - offsetof(ThreadPoolCall, work));
    ThreadPoolDone *done = call->done;
    void *opaque = call->opaque;
    int ret = work->ret;

    free(call);
    if (done)
        done(opaque, ret);
}

static AioContext *current_context(const char *function)
{
    AioContext *ctx = aio_context_current();

    if (!ctx)
        bug("%s in a thread without a current context", function);
    return ctx;
}

int thread_pool_submit_aio(ThreadPoolFunc *func, void *argument, ThreadPoolDone *done, void *opaque,
    ThreadPoolCall **ret_call)
{
    AioContext *ctx = current_context(__func__);
    ThreadPoolCall *call = malloc(sizeof *call);

    if (!call)
        return -ENOMEM;
    *call = (ThreadPoolCall){
        .work = {.func = func, .opaque = argument, .finish = call_finish},
        .done = done,
        .opaque = opaque,
    };
    int r = pool_work_submit(ctx, &call->work);
    if (r < 0) {
        free(call);
        return r;
    }
    if (ret_call)
        *ret_call = call;
    return 0;
}

int thread_pool_submit(ThreadPoolFunc *func, void *argument)
{
    return thread_pool_submit_aio(func, argument, NULL, NULL, NULL);
}

bool thread_pool_cancel(ThreadPoolCall *call)
{
    AioContext *ctx = current_context(__func__);

    if (!pool_work_cancel(ctx, &call->work))
        return false;
    pool_work_finish_later(ctx, &call->work, -ECANCELED);
    return true;
}

/* ---- coroutines ---- */

struct co_call {
    struct co_wait wait;
    struct pool_work work;
    Coroutine *co;
    AioContext *ctx;
};

static void co_call_finish(AioContext *ctx, struct pool_work *work)
{
    struct co_call *call = (struct co_call *)((char *)work - offsetof(struct co_call, work));

    aio_co_schedule(ctx, call->co);
}

static bool co_call_withdraw(struct co_wait *wait)
{
    struct co_call *call = (struct co_call *)((char *)wait - offsetof(struct co_call, wait));

    return pool_work_cancel(call->ctx, &call->work);
}

int coroutine_fn thread_pool_submit_co(ThreadPoolFunc *func, void *opaque)
{
    Coroutine *self = co_wait_self(__func__);
    struct co_call call = {
        .wait.withdraw = co_call_withdraw,
        .work = {.func = func, .opaque = opaque, .finish = co_call_finish},
        .co = self,
        .ctx = self->ctx,
    };
    int r = pool_work_submit(call.ctx, &call.work);

    if (r < 0)
        return r;
    r = co_wait(&call.wait, __func__);
    return r < 0 ? r : call.work.ret;
}
