/* SPDX-License-Identifier: MIT */
#include "runtime/co_timeout.h"
/*
 * Caller and function share a record, freed by the later one. `outcome` decides which of them came
 * first: the end of the function or the caller's leaving. It may have ended, in another thread,
 * after the caller's wait and before its leaving; then there was no timeout.
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/co_wait_group.h"

enum outcome { OPEN, ENDED, LEFT };

struct task {
    CoroutineEntry *entry;
    void *opaque;
    CoCleanFunc *clean;
    CoWaitGroup group;
    uint32_t outcome; /* enum outcome; the first to set it */
    uint32_t refs;
};

static void task_unref(struct task *task)
{
    if (atomic_add_seq(&task->refs, -1) != 1)
        return;
    co_wait_group_deinit(&task->group);
    free(task);
}

/* Whether this outcome is the one. */
static bool decide(struct task *task, uint32_t outcome)
{
    uint32_t open = OPEN;

    return atomic_cas_seq(&task->outcome, &open, outcome);
}

static void coroutine_fn run_task(void *opaque)
{
    struct task *task = opaque;

    task->entry(task->opaque);
    if (decide(task, ENDED))
        co_wait_group_done(&task->group);
    else if (task->clean)
        task->clean(task->opaque);
    task_unref(task);
}

static int64_t deadline_after(int64_t timeout_ns)
{
    int64_t now_ns = aio_clock_ns();

    if (timeout_ns <= 0 || timeout_ns >= CO_NO_DEADLINE - now_ns)
        return CO_NO_DEADLINE;
    return now_ns + timeout_ns;
}

static int coroutine_fn wait_for(struct task *task, int64_t timeout_ns)
{
    CoScope scope;

    co_scope_begin(&scope, NULL, deadline_after(timeout_ns));
    int r = co_wait_group_wait(&task->group);
    co_scope_end(&scope);
    return r < 0 && decide(task, LEFT) ? r : 0;
}

int coroutine_fn co_timeout(
    CoroutineEntry *entry, void *opaque, int64_t timeout_ns, CoCleanFunc *clean)
{
    struct task *task = malloc(sizeof *task);

    if (!task)
        return -ENOMEM;
    Coroutine *co = coroutine_create_full(run_task, task, "co_timeout", 0);
    if (!co) {
        free(task);
        return -ENOMEM;
    }
    *task = (struct task){.entry = entry, .opaque = opaque, .clean = clean, .refs = 2};
    co_wait_group_init(&task->group);
    co_wait_group_add(&task->group, 1);
    coroutine_enter(co);
    int r = wait_for(task, timeout_ns);
    task_unref(task);
    return r;
}
