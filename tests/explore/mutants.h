/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * mutants - which accesses are done wrong, how, and which scenario notices
 *
 * Why:         each fence and each ordering is there for a reason, which a scenario shows by
 *              failing without it; where none does, the table says why not.
 * Use:         an access that has no row, or a row that has no access, is told with the row to
 *              write: the first scenario that notices, or none.
 * Concurrency: one OS thread
 * Not here:    how a mutant is done (memory.c), the table itself (mutants.c)
 */
#include <stdbool.h>
#include <stdint.h>

#include "tests/explore/explorer.h"

/* Calls say() for each row and each mistake of the table. folder: where the sources are. thorough:
 * also that mutants which are said to change nothing are noticed by no scenario. */
void mutants_check(const char *folder, bool thorough, void (*say)(bool ok, const char *name));
