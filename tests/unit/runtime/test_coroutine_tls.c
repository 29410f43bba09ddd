/* SPDX-License-Identifier: MIT */
/*
 * Thread-local state over a hop to another thread, as the strongest optimizer sees it: built with
 * -O3, and where the linker can, together with the files of runtime/ that have that state, as one.
 */
#include "tests/unit/runtime/loop_thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/coroutine.h"

#define HOPS 2000

struct traveller {
    AioContext *there[2];
    int wrong;
    int done; /* any thread */
};

static long thread_id(void)
{
    return syscall(SYS_gettid);
}

/* All in one function, so that what was read before a hop could be used after it. */
static void coroutine_fn travel(void *opaque)
{
    struct traveller *t = opaque;
    const Coroutine *self = coroutine_self();

    for (int i = 0; i < HOPS; i++) {
        AioContext *before = aio_context_current();
        long thread_before = thread_id();

        aio_co_reschedule_self(t->there[i & 1]);
        AioContext *after = aio_context_current();
        t->wrong += after != t->there[i & 1] || (i > 0 && after == before);
        t->wrong += i > 0 && thread_id() == thread_before;
        t->wrong += coroutine_self() != self || !in_coroutine();
        Coroutine *child = coroutine_create(travel, NULL); /* from the pool of this thread */
        t->wrong += !child || coroutine_get_aio_context(child) != after;
        coroutine_delete(child);
    }
    atomic_store_release(&t->done, 1);
}

static void thread_local_state_is_that_of_the_thread_it_runs_in(void **state)
{
    struct loop_thread loops[2];
    AioContext *here = test_context_new();
    struct traveller t = {.wrong = 0};

    aio_context_set_current(here);
    for (int i = 0; i < 2; i++) {
        loop_thread_start(&loops[i]);
        t.there[i] = loops[i].ctx;
    }
    coroutine_enter(coroutine_create(travel, &t));
    assert_true(poll_until(here, &t.done, 1));
    for (int i = 0; i < 2; i++)
        loop_thread_stop(&loops[i]);
    assert_int_equal(t.wrong, 0);
    aio_context_set_current(NULL);
    aio_context_unref(here);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thread_local_state_is_that_of_the_thread_it_runs_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
