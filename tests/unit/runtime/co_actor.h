/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_actor - coroutines that do one call each when told, for tests of what coroutines wait for
 *
 * Use:   struct actor a; actor_start(&a);
 *        actor_do(&a, lock_it);           runs lock_it(&a) in a's coroutine, in a scope of a.token
 *        a.is_busy, or a.result           it waits, or it returned this
 *        actor_cancel(&a);                ends the wait
 *        actor_stop(&a);
 *        run_in_threads(entry) runs entry in coroutines of several threads; number() counts them.
 * Random cases take seeds from for_seeds(); --seed N repeats one, and a failure names it.
 */
#include <stdlib.h>

#include "tests/unit/runtime/case_context.h"
#include "tests/unit/runtime/death.h"

#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/context.h"
#include "runtime/coroutine.h"

/* ---- actors ---- */

struct actor;
typedef int ActorFunc(struct actor *actor); /* coroutine_fn */

struct actor {
    int id;
    uint64_t arg; /* the test's */
    int result;   /* of the last call that ended */
    bool is_busy;
    ActorFunc *call;
    CoCancel token;
    Coroutine *co;
};

static inline void coroutine_fn actor_run(void *opaque)
{
    struct actor *actor = opaque;
    CoScope scope;

    for (;;) {
        coroutine_yield();
        if (!actor->call)
            return;
        co_scope_begin(&scope, &actor->token, CO_NO_DEADLINE);
        actor->result = actor->call(actor);
        co_scope_end(&scope);
        actor->is_busy = false;
    }
}

static inline void actor_start(struct actor *actor)
{
    co_cancel_init(&actor->token);
    actor->is_busy = false;
    actor->co = entered(coroutine_create_full(actor_run, actor, "test", 0));
}

/* Tells an actor that is not busy to make a call; it runs until it waits or is done, and others
 * until they wait again. */
static inline void actor_do(struct actor *actor, ActorFunc *call)
{
    actor->call = call;
    actor->is_busy = true;
    coroutine_enter(actor->co);
    settle();
}

/* Ends what the actor waits for. Its token is a new one afterwards. */
static inline void actor_cancel(struct actor *actor)
{
    co_cancel(&actor->token); /* where it was called before, this does nothing */
    settle();
    co_cancel_deinit(&actor->token);
    co_cancel_init(&actor->token);
}

static inline void actor_stop(struct actor *actor)
{
    actor->call = NULL;
    coroutine_enter(actor->co);
    co_cancel_deinit(&actor->token);
}

static inline void actors_start(struct actor *actors, int n)
{
    for (int i = 0; i < n; i++) {
        actors[i].id = i;
        actor_start(&actors[i]);
    }
}

static inline void actors_stop(struct actor *actors, int n)
{
    for (int i = 0; i < n; i++)
        actor_stop(&actors[i]);
}

/* ---- chance ---- */

static uint64_t only_seed; /* 0: all */

struct chance {
    uint64_t seed;
    uint64_t state;
};

static inline uint64_t chance_below(struct chance *chance, uint64_t n)
{
    chance->state = chance->state * 6364136223846793005u + 1442695040888963407u;
    return (chance->state >> 33) % n;
}

/* Seeds from 1 to n, or the one of --seed. */
#define for_seeds(chance, n)                                                           \
    for (struct chance chance = {.seed = only_seed ? only_seed : 1, .state = 0};       \
         chance.seed <= (only_seed ? only_seed : (n)) && (chance.state = chance.seed); \
         chance.seed++)

/* Within a random case, in place of assert_true(). */
#define assert_model(chance, condition)                                      \
    do {                                                                     \
        if (!(condition)) {                                                  \
            print_error("--seed %llu\n", (unsigned long long)(chance).seed); \
            assert_true(condition);                                          \
        }                                                                    \
    } while (0)

static inline void take_arguments(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--seed") == 0)
        only_seed = strtoull(argv[2], NULL, 10);
}

/* ---- several threads ---- */

#define N_THREADS    3
#define N_COROUTINES 4 /* in each */

static int n_numbered;
static int n_ended;

/* 0, 1, … for each call; what tells coroutines apart. */
static inline int number(void)
{
    return atomic_add_seq(&n_numbered, 1);
}

/* Runs entry(opaque) in each coroutine until all have called thread_done() last. */
static inline void run_in_threads(CoroutineEntry *entry, void *opaque)
{
    struct loop_thread loops[N_THREADS];

    n_numbered = n_ended = 0;
    for (int i = 0; i < N_THREADS; i++)
        loop_thread_start(&loops[i]);
    for (int i = 0; i < N_THREADS * N_COROUTINES; i++) {
        Coroutine *co = coroutine_create_full(entry, opaque, "test", 0);

        assert_non_null(co);
        aio_co_schedule(loops[i % N_THREADS].ctx, co);
    }
    assert_true(poll_until(ctx, &n_ended, N_THREADS * N_COROUTINES));
    for (int i = 0; i < N_THREADS; i++)
        loop_thread_stop(&loops[i]);
}

static inline void thread_done(void)
{
    atomic_add_seq(&n_ended, 1);
}
