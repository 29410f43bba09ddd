/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * mutant - one access of the source done wrong on purpose
 *
 * Why:         a scenario that would pass without a fence says nothing about the fence.
 * Use:         mutant_set() before a search; memory.c asks mutant_at() at each access
 * Concurrency: one OS thread
 * Not here:    which mutants there are and who must catch them (mutants.h)
 */
#include "runtime/atomic_shim.h"

#define MUTATIONS(X)                                     \
    X(drop, "the access is left out")                    \
    X(relax, "it orders nothing")                        \
    X(swap, "it happens after the thread's next access") \
    X(split, "a read-modify-write is a load, then a store, and others come between")

enum mutation {
    MUTATION_none,
#define X(name, help) MUTATION_##name,
    MUTATIONS(X)
#undef X
};

/* Line numbers are of the call's first and last line: compilers differ in which one __LINE__ is. */
struct mutant {
    enum mutation mutation;
    const char *file; /* its last part: "doorbell.c" */
    enum atomic_op op;
    int first_line;
    int last_line;
};

/* NULL: none. The mutant must outlive its use. */
void mutant_set(const struct mutant *mutant);
enum mutation mutant_at(const struct atomic_site *site);
/* Whether the mutated access was made since mutant_set(). */
bool mutant_was_met(void);
