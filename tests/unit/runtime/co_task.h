/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_task - one call in a coroutine of its own, for tests
 *
 * Use:  struct co_task task = {.call = read_it, .f = &f, …};
 *       co_task_start(&task);            runs until the call waits or ends
 *       loop_until(loop, &task.done);    then task.result
 * The call is in a scope of token and deadline_ns where one is set.
 */
#include "runtime/co_cancel.h"
#include "runtime/co_fd.h"
#include "tests/unit/runtime/loop_fixture.h"

struct co_task {
    ssize_t (*call)(struct co_task *task); /* coroutine_fn */
    CoFd *f;
    void *buf;
    size_t len;
    uint32_t event;
    CoCancel *token;
    int64_t deadline_ns; /* 0: none */
    int *order;          /* counts those that end; or NULL */
    int place;           /* when it ended, by *order */
    ssize_t result;
    bool done;
};

static inline void coroutine_fn co_task_run(void *opaque)
{
    struct co_task *task = opaque;
    CoScope scope;

    co_scope_begin(&scope, task->token, task->deadline_ns ? task->deadline_ns : CO_NO_DEADLINE);
    task->result = task->call(task);
    co_scope_end(&scope);
    if (task->order)
        task->place = ++*task->order;
    atomic_store_release(&task->done, true);
}

static inline void co_task_start(struct co_task *task)
{
    Coroutine *co = coroutine_create(co_task_run, task);

    assert_non_null(co);
    coroutine_enter(co);
}

static inline ssize_t co_task_finish(struct loop *loop, struct co_task *task)
{
    loop_until(loop, &task->done);
    return task->result;
}

/* Starts it and sees it through. */
static inline ssize_t co_task_do(struct loop *loop, struct co_task task)
{
    co_task_start(&task);
    return co_task_finish(loop, &task);
}

/* Turns until nothing is left to do now; fails where that does not come. */
static inline void co_task_settle(struct loop *loop)
{
    for (int i = 0; aio_poll(loop->ctx, false); i++)
        if (i == 10000)
            fail_msg("the loop spins");
}

/* Bytes that differ from place to place, and say when one is lost, moved or doubled. */
static inline void fill_pattern(uint8_t *buf, size_t len, uint32_t seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        buf[i] = (uint8_t)(seed >> 24);
    }
}
