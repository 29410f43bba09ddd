/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * case_context - a fresh context for each case, this thread's, and coroutines to start in it
 *
 * Use:   CASE(name) gives a case ctx; where it needs more, its own setup calls case_setup().
 *        start(entry, opaque);            runs entry(opaque) until it waits
 *        settle();                        turns the loop until nothing is left to do now
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/context.h"
#include "runtime/coroutine.h"
#include "tests/unit/runtime/loop_thread.h"

static AioContext *ctx;

static inline int case_setup(void **state)
{
    ctx = test_context_new();
    aio_context_set_current(ctx);
    return 0;
}

static inline int case_teardown(void **state)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, case_setup, case_teardown)

static inline void settle(void)
{
    while (aio_poll(ctx, false))
        continue;
}

static inline Coroutine *entered(Coroutine *co)
{
    assert_non_null(co);
    coroutine_enter(co);
    return co;
}

/* The coroutine has the name of its function. */
#define start(entry, opaque) entered(coroutine_create(entry, opaque))
