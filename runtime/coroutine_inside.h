/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_inside - what a coroutine is made of, for the files of runtime/ alone
 *
 * Why:         the switch, the schedule, the locks and the waits share its fields.
 * Use:         co_claim(co, __func__); who has the claim may co_schedule_claimed(ctx, co).
 * Concurrency: below
 * Lifetime:    a coroutine's; with its stack it goes back to a pool.
 * Not here:    what users call (runtime/coroutine.h)
 *
 * It lies at the top of its own stack, in the page that its first frames touch anyway. The home
 * thread of the context it runs in writes most fields; they pass to another thread with the
 * coroutine itself, through a list that the one pushes to (read-modify-write) and the other takes
 * whole.
 */
#include <assert.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/context.h"
#include "runtime/coroutine.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/coroutine_stack.h"

struct co_registry;

/* Coroutines in the order they were woken: a ring through next, known by its last. */
struct co_list {
    Coroutine *last; /* NULL: empty */
};

/* What the loop that entered a coroutine does once the switch back is complete. */
enum co_after { CO_AFTER_YIELD, CO_AFTER_MOVE, CO_AFTER_END, CO_AFTER_THEN };

struct Coroutine {
    /* ---- the cache line that each switch touches ---- */

    /* Any thread, by compare-and-swap: who has taken the right to enter it, NULL nobody. The string
     * is the caller's name. Whoever holds it also writes next. */
    const char *scheduled;

    /* The thread that runs it. */
    void *inside;            /* where its own stack goes on, for co_switch() */
    void *outside;           /* the stack that entered it */
    AioContext *ctx;         /* where it runs or last ran, at first where it was made; or NULL */
    struct co_list woken;    /* to enter when it is back */
    struct co_entry *listed; /* its entry in the registry, or NULL */
    uint64_t work;           /* coroutine_set_work()'s, 0 at first */
    bool entered;            /* from coroutine_enter() to its yield or end */
    bool begun;              /* entered at all */
    bool counted;            /* as created, in some context */
    uint8_t after;           /* enum co_after */
    uint32_t locks_held;

    /* ---- the rest ---- */

    Coroutine *next;
    AioContext *move_to;          /* with CO_AFTER_MOVE */
    struct CoScope *scope;        /* the innermost it is in, or NULL */
    struct co_registry *registry; /* where it is counted alive, or NULL */
    uint64_t registry_id;
    uint32_t registry_slot;
    uint32_t n_pins;                     /* reasons why it must not leave this process */
    const char *pinned_by;               /* the first of them */
    void (*then)(Coroutine *co, void *); /* with CO_AFTER_THEN */
    void *then_opaque;

    /* Constant. */
    const char *name;
    CoroutineEntry *entry;
    const void *begins_in; /* what tools show for it: entry, or what that calls at once */
    void *opaque;
    uint64_t created_ns; /* CLOCK_MONOTONIC */
    struct co_stack *stack;
    void (*ended)(Coroutine *co, void *); /* whose the stack is; NULL: the pool's */
    void *ended_opaque;

    struct co_sanitize own;     /* what a sanitizer knows of its stack */
    struct co_sanitize enterer; /* and of the one that entered it */
};

static_assert(offsetof(Coroutine, next) == 64, "one cache line for the switch");

/* Enters co in ctx, this thread's, and then whom it woke. Nobody holds the right to enter co. */
void co_enter_in(AioContext *ctx, Coroutine *co);

/* The same, but aborts where somebody holds it. */
void co_enter_unclaimed(AioContext *ctx, Coroutine *co);

/* Takes the right to enter co for site; aborts, naming both, where somebody has it. Context: any
 * thread. */
void co_claim(Coroutine *co, const char *site);

/* Gives it back, just before co is entered. Context: owner loop. */
void co_unclaim(Coroutine *co);

/* co_schedule.c: hands over a coroutine that is claimed, and whose switch is complete. Context: any
 * thread. */
void co_schedule_claimed(AioContext *ctx, Coroutine *co);

/* The running coroutine. Aborts, naming function, where there is none. */
static inline Coroutine *co_self_in(const char *function)
{
    Coroutine *self = coroutine_self();

    if (!self)
        bug("%s outside a coroutine", function);
    return self;
}

/* Puts co last. */
static inline void co_list_append(struct co_list *list, Coroutine *co)
{
    if (list->last) {
        co->next = list->last->next;
        list->last->next = co;
    } else {
        co->next = co;
    }
    list->last = co;
}
