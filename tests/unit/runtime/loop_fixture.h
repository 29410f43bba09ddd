/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * loop_fixture - a fresh context for each case, on each way to wait that this kernel offers
 *
 * Why:         what a context promises does not depend on its monitor, and no case may leave an fd.
 * Use:         static void a_case(void **state) { struct loop *loop = *state; … }
 *              int main(void) { return LOOP_RUN(cases); } with cases[] of LOOP_CASE(a_case)
 * Beware:      a blocking aio_poll() may return early with nothing done: a signal does that, and so
 *              does the kernel when it takes apart a ring that an earlier case has closed. Loop.
 * Lifetime:    setup makes the context and makes it the thread's current one; teardown drops it and
 *              compares the open fds.
 */
#include <dirent.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/aio.h"
#include "runtime/context.h"

#define LOOP_DEADLINE_NS (60 * 1000000000LL)
#define LOOP_MS          1000000LL

struct loop {
    AioContext *ctx;
    enum aio_engine engine; /* io_uring where that is the monitor, else the thread pool */
    enum aio_monitor monitor;
    int n_fds;
};

static inline int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static inline AioContext *new_monitored_context(enum aio_engine engine, enum aio_monitor monitor)
{
    struct aio_config config = {.engine = engine, .monitor = monitor};
    AioContext *ctx = NULL;

    assert_int_equal(aio_context_new(&config, &ctx), 0);
    return ctx;
}

static inline AioContext *new_context(enum aio_engine engine)
{
    return new_monitored_context(engine, AIO_MONITOR_AUTO);
}

/* The initial state is the monitor, kept in a pointer. */
static inline int loop_setup(void **state)
{
    struct loop *loop = calloc(1, sizeof *loop);

    loop->monitor = (enum aio_monitor)(uintptr_t)*state;
    loop->engine = loop->monitor == AIO_MONITOR_IO_URING ? AIO_ENGINE_IO_URING : AIO_ENGINE_THREADS;
    loop->n_fds = count_fds();
    loop->ctx = new_monitored_context(loop->engine, loop->monitor);
    aio_context_set_current(loop->ctx);
    *state = loop;
    return 0;
}

static inline int loop_teardown(void **state)
{
    struct loop *loop = *state;

    aio_context_set_current(NULL);
    aio_context_unref(loop->ctx);
    assert_int_equal(count_fds(), loop->n_fds);
    free(loop);
    return 0;
}

static inline void loop_fail_late(void *opaque)
{
    fail_msg("the state waited for did not come");
}

/* Turns the loop until *done; fails where that takes too long. */
static inline void loop_until(struct loop *loop, const bool *done)
{
    AioTimer deadline;

    aio_timer_init(loop->ctx, &deadline, loop_fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + LOOP_DEADLINE_NS);
    while (!atomic_load_acquire(done))
        aio_poll(loop->ctx, true);
    timer_del(&deadline);
}

/* Until ctx, another thread's, is about to sleep or asleep. */
static inline void wait_for_sleep(const AioContext *ctx)
{
    while (atomic_load_acquire(&ctx->bell.words->notify_me) == 0)
        sched_yield();
}

/* Callbacks that most cases need. */
static inline void count_call(void *opaque)
{
    (*(int *)opaque)++;
}

static inline void set_flag(void *opaque)
{
    atomic_store_release((bool *)opaque, true);
}

#define LOOP_CASE(f)                           \
    {                                          \
#f, f, loop_setup, loop_teardown, NULL \
    }

/* Runs each case on each monitor: on io_uring where this kernel lets us. */
static inline int loop_run(const char *group, const struct CMUnitTest *cases, size_t n_cases)
{
    static const enum aio_monitor monitors[] = {
        AIO_MONITOR_PPOLL, AIO_MONITOR_EPOLL, AIO_MONITOR_IO_URING};
    struct aio_config uring = {.engine = AIO_ENGINE_IO_URING};
    AioContext *probe;
    size_t n_monitors = 2;

    if (aio_context_new(&uring, &probe) == 0) {
        aio_context_unref(probe);
        n_monitors = 3;
    }
    struct CMUnitTest *all = calloc(n_monitors * n_cases, sizeof *all);
    char **names = calloc(n_monitors * n_cases, sizeof *names);
    size_t n = 0;

    for (size_t m = 0; m < n_monitors; m++) {
        for (size_t i = 0; i < n_cases; i++, n++) {
            if (asprintf(&names[n], "%s (%s)", cases[i].name, aio_monitor_name(monitors[m])) < 0)
                abort();
            all[n] = cases[i];
            all[n].name = names[n];
            all[n].initial_state = (void *)(uintptr_t)monitors[m];
        }
    }
    int failed = _cmocka_run_group_tests(group, all, n, NULL, NULL);

    while (n > 0)
        free(names[--n]);
    free(names);
    free(all);
    return failed;
}

#define LOOP_RUN(cases) loop_run(#cases, cases, sizeof(cases) / sizeof((cases)[0]))
