/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_inside - what a coroutine is made of, for the files of runtime/ alone
 *
 * It lies at the top of its own stack. Fields are grouped by who writes them. The home thread of
 * the context it runs in writes most; they pass to another thread with the coroutine itself,
 * through a list that the one pushes to (read-modify-write) and the other takes whole.
 */
#include "runtime/atomic.h"
#include "runtime/context.h"
#include "runtime/coroutine.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/coroutine_stack.h"

struct co_registry;

/* One of the two stacks that a coroutine switches between. */
struct co_side {
    void *position; /* where to go on, for co_switch() */
    struct co_sanitize sanitize;
};

/* Coroutines in order of waking, linked by next. */
struct co_list {
    Coroutine *first;
    Coroutine **last; /* valid where first is not NULL */
};

struct Coroutine {
    /* Any thread, by compare-and-swap: who has taken the right to enter it, NULL nobody. The string
     * is the caller's name. Whoever holds it also writes next. */
    const char *scheduled;
    Coroutine *next;

    /* The thread that runs it. */
    struct co_side inside;  /* its own stack */
    struct co_side outside; /* the stack that entered it */
    AioContext *ctx;        /* where it runs or last ran, NULL: never in a context */
    AioContext *move_to;    /* once its switch is complete, schedule it there */
    struct co_list woken;   /* to enter when it has yielded */
    struct CoScope *scope;  /* the innermost it is in, or NULL */
    uint32_t locks_held;
    bool entered; /* from coroutine_enter() to its yield or end */
    bool ended;
    bool counted;                 /* as created, in some context */
    struct co_registry *registry; /* where it is counted alive, or NULL */
    uint32_t registry_slot;
    uint64_t registry_id;
    struct co_entry *listed; /* its entry there, or NULL */

    /* Constant. */
    CoroutineEntry *entry;
    void *opaque;
    const char *name;
    uint64_t created_ns; /* CLOCK_MONOTONIC */
    struct co_stack stack;
};

/* Takes the right to enter co for site; aborts, naming both, where somebody has it. Context: any
 * thread. */
void co_claim(Coroutine *co, const char *site);

/* Gives it back, just before co is entered. Context: owner loop. */
void co_unclaim(Coroutine *co);
