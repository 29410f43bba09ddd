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
    X(doorbell)            \
    X(lockcnt)

#define X(name) extern const struct scenario name##_scenarios[];
SCENARIO_GROUPS(X)
#undef X
