/* SPDX-License-Identifier: MIT */
/*
 * What coroutines cost, in ns, and as a part of what swapcontext() takes for the same in this run.
 * Each figure is the median of ROUNDS rounds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "runtime/aio.h"
#include "runtime/coroutine.h"

#define ROUNDS  9
#define REPEATS 1000000
#define MANY    4096

static AioContext *ctx;
static Coroutine *yielder;
static Coroutine *all[MANY];
static ucontext_t outside;
static ucontext_t inside;

static void coroutine_fn yield_forever(void *opaque)
{
    for (;;)
        coroutine_yield();
}

static void coroutine_fn do_nothing(void *opaque)
{
}

static void swap_forever(void)
{
    for (;;)
        swapcontext(&inside, &outside);
}

static void swap_there_and_back(void)
{
    for (int i = 0; i < REPEATS / 10; i++)
        swapcontext(&outside, &inside);
}

static void enter_and_yield(void)
{
    for (int i = 0; i < REPEATS; i++)
        coroutine_enter(yielder);
}

static void enter_and_yield_many(void)
{
    for (int i = 0; i < REPEATS; i++)
        coroutine_enter(all[i % MANY]);
}

static void create_run_end(void)
{
    for (int i = 0; i < REPEATS; i++)
        coroutine_enter(coroutine_create(do_nothing, NULL));
}

static void schedule_and_poll(void)
{
    for (int i = 0; i < REPEATS; i++) {
        aio_co_schedule(ctx, yielder);
        aio_poll(ctx, false);
    }
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

static double median_ns(void (*round)(void), int repeats)
{
    double ns[ROUNDS];

    for (int i = 0; i < ROUNDS; i++) {
        int64_t begin_ns = aio_clock_ns();

        round();
        ns[i] = (double)(aio_clock_ns() - begin_ns) / repeats;
    }
    qsort(ns, ROUNDS, sizeof *ns, compare);
    return ns[ROUNDS / 2];
}

static void measure(const char *what, void (*round)(void), double baseline_ns)
{
    double ns = median_ns(round, REPEATS);

    printf("%-44s %8.1f ns %8.3f\n", what, ns, ns / baseline_ns);
}

int main(void)
{
    static char stack[64 * 1024];

    if (aio_context_new(NULL, &ctx) != 0 || getcontext(&inside) != 0)
        return 1;
    aio_context_set_current(ctx);
    inside.uc_stack.ss_sp = stack;
    inside.uc_stack.ss_size = sizeof stack;
    makecontext(&inside, swap_forever, 0);
    double baseline_ns = median_ns(swap_there_and_back, REPEATS / 10);
    printf("%-44s %8.1f ns    ratio\n", "swapcontext there and back", baseline_ns);

    yielder = coroutine_create(yield_forever, NULL);
    if (!yielder)
        return 1;
    measure("enter and yield", enter_and_yield, baseline_ns);
    measure("create, run, end", create_run_end, baseline_ns);
    measure("schedule, poll, enter, yield", schedule_and_poll, baseline_ns);
    for (int i = 0; i < MANY; i++)
        if (!(all[i] = coroutine_create(yield_forever, NULL)))
            return 1;
    measure("enter and yield, 4,096 in turn", enter_and_yield_many, baseline_ns);
    return 0;
}
