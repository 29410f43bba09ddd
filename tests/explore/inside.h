/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * inside - what the explorer's own files say to each other
 *
 *   search.c    which choice comes next, what was seen already
 *   run.c       one run: threads as fibers, who steps next
 *   memory.c    atomic accesses: what each load may return, who knows what
 *   plain.c     all other accesses, as the compiler's -fsanitize=thread reports them
 *   world.c     what stands for the kernel and the heap
 *   trace.c     the steps of a run, for people
 */
#include <string.h>

#include "runtime/atomic_shim.h"
#include "tests/explore/explorer.h"

#define MAX_FIBERS    (EXPLORER_MAX_THREADS + 1) /* the first one is begin() and end() */
#define MAX_LOCATIONS 512
#define SETUP         0

/* What a fiber has come to know. */
struct knowledge {
    uint32_t n;                   /* of seen[]: as many as there were locations; the others are 0 */
    uint16_t epochs[MAX_FIBERS];  /* by fiber: it comes after all that this one did until then */
    uint16_t seen[MAX_LOCATIONS]; /* by location: it can't see an older store than this one */
};

static inline void know_of(struct knowledge *k, uint32_t n)
{
    if (k->n >= n)
        return;
    memset(&k->seen[k->n], 0, (n - k->n) * sizeof k->seen[0]);
    k->n = n;
}

static inline uint16_t knows(const struct knowledge *k, uint32_t location)
{
    return location < k->n ? k->seen[location] : 0;
}

static inline void know(struct knowledge *k, uint32_t location, uint32_t position)
{
    know_of(k, location + 1);
    k->seen[location] = (uint16_t)position;
}

static inline void know_the_same(struct knowledge *k, const struct knowledge *from)
{
    k->n = from->n;
    memcpy(k->epochs, from->epochs, sizeof k->epochs);
    memcpy(k->seen, from->seen, from->n * sizeof k->seen[0]);
}

static inline void learn_stores(struct knowledge *k, const struct knowledge *from)
{
    know_of(k, from->n);
    for (size_t i = 0; i < from->n; i++)
        k->seen[i] = k->seen[i] < from->seen[i] ? from->seen[i] : k->seen[i];
}

static inline void learn(struct knowledge *k, const struct knowledge *from)
{
    learn_stores(k, from);
    for (size_t i = 0; i < MAX_FIBERS; i++)
        k->epochs[i] = k->epochs[i] < from->epochs[i] ? from->epochs[i] : k->epochs[i];
}

static inline uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash + 0x2545f4914f6cdd1d) * 0x9e3779b97f4a7c15 ^ value;
    hash *= 0xd6e8feb86659fd93;
    return hash ^ hash >> 32;
}

/* ---- search.c ---- */

/* Picks one of n (at least 2), the first one where nothing speaks against it. */
uint32_t search_choose(uint32_t n);
/* Whether a run has been in this state with as much budget, so that this one may end. */
bool search_was_here(uint64_t state, uint32_t budget);

/* ---- run.c ---- */

enum run_result { RUN_ENDED, RUN_CUT, RUN_FAILED };

enum run_result run_once(const struct scenario *scenario, const struct explorer_bounds *bounds);
const char *run_failure(void);
void run_catch_faults(void); /* from now on, for this process */
uint32_t run_steps(void);

uint32_t run_self(void);
const char *run_name(uint32_t fiber);
/* Before each step: others may step first. */
void run_point(void);
void run_point_at(const struct atomic_site *site); /* that is the step */
/* Waits for run_wake() of this key. */
void run_block(const void *key, const char *what);
void run_block_for_time(const void *key, const char *what); /* or until it is over */
void run_block_or_idle(const void *key, const char *what);  /* or until nothing else goes on */
/* Wakes one of those that wait, or all; how many. */
uint32_t run_wake(const void *key, uint32_t n);
void run_pause(void);
/* Takes one stale load off the budget; false where none is left. */
bool run_may_be_stale(void);
void run_spend_stale(void);
/* What the running fiber has seen goes into its history, which tells states apart. */
uint64_t run_note(uint64_t what);
void run_note_global(uint64_t difference);

/* ---- memory.c ---- */

void memory_reset(bool x86);
void memory_begin_fiber(uint32_t fiber); /* knows what begin() did */
void memory_end_fiber(uint32_t fiber);   /* end() knows what it did */
struct knowledge *memory_knowledge(uint32_t fiber);
/* A step that the kernel makes on a word of its own: adds, and returns the value before.
 * synchronises: who changes it next knows what those before knew. */
uint64_t memory_kernel_add(uint64_t *word, uint64_t n, bool synchronises);
void memory_kernel_fence(void);
/* The newest value. */
uint64_t memory_kernel_load(uint32_t *word);
/* Stores that a mutant holds back take effect now. */
void memory_settle(void);

/* ---- plain.c ---- */

void plain_reset(void);
void plain_ignore(const void *p, size_t bytes);
void plain_free(const void *p, size_t bytes);
/* The same for an atomic access. */
void plain_atomic(const volatile void *p, unsigned size, bool writes);
/* Whether storing these bytes there is no store (explorer_stored_again()). */
bool plain_stands_there(const volatile void *to, const void *from, size_t bytes);
/* Whether plain stores were made there since it was last asked. */
bool plain_take_dirty(const volatile void *p);

/* ---- world.c ---- */

void world_reset(void);

/* ---- trace.c ---- */

void trace_enable(bool on);
bool trace_enabled(void);
void trace_access(const struct atomic_site *site, uint64_t value, const char *note, ...)
    __attribute__((format(printf, 3, 4)));
void trace_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
