/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * scenarios - which there are: the arrays that the files scenario_NAME.c define
 *
 * A scenario whose name begins with "wrong: " does something wrong on purpose, and must be seen to
 * fail.
 */
#include "tests/explore/explorer.h"

#define SCENARIO_GROUPS(X) \
    X(bh)                  \
    X(circle)              \
    X(co_mutex)            \
    X(co_rwlock)           \
    X(co_semaphore)        \
    X(coroutine)           \
    X(cut)                 \
    X(doorbell)            \
    X(leave)               \
    X(ledger)              \
    X(lock)                \
    X(lockcnt)             \
    X(memory)              \
    X(mesh)                \
    X(move)                \
    X(plane)               \
    X(ring)

#define X(name) extern const struct scenario name##_scenarios[];
SCENARIO_GROUPS(X)
#undef X

struct scenario_group {
    const char *name;
    const struct scenario *scenarios;
};

extern const struct scenario_group scenario_groups[];
extern const size_t scenario_n_groups;

bool scenario_is_wrong(const struct scenario *scenario);
const struct scenario *scenario_find(const char *name);
