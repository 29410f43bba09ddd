/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * torn - a counter service that dies between the two stores of a change
 *
 * Why:         a region's mark is for deaths in the middle of a change, which a kill from outside
 *              does not meet in a lifetime.
 * Use:         examples/counter/counter.c built with this header before all others (-include);
 *              whoever adds TORN_N kills the shard once the counter has it and the sum has not
 */
#include <signal.h>

#include <sherd/service.h>

#define TORN_N 7777

/* change() alone begins one: c is its counter, n what it adds. */
#define service_region_begin(region, mark)      \
    do {                                        \
        service_region_begin((region), (mark)); \
        if (n == TORN_N) {                      \
            c->value += n;                      \
            raise(SIGKILL);                     \
        }                                       \
    } while (0)
