/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call_order - in which order calls came
 *
 * Use:   came((void *)3);                 a call, or a callback, that is known by a number
 *        assert_order(2, 1, 3);           two came, 1 before 3, since this was last called
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int order[16];
static int n_order;

static inline void came(void *opaque)
{
    order[n_order++] = (int)(intptr_t)opaque;
}

static inline void assert_order(int n, ...)
{
    va_list args;

    assert_int_equal(n_order, n);
    va_start(args, n);
    for (int i = 0; i < n; i++)
        assert_int_equal(order[i], va_arg(args, int));
    va_end(args);
    n_order = 0;
}
