/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * services_fixture - a folder, and a context of each engine to run coroutines in, for each case
 *
 * Why:         what a service answers does not depend on the engine, and no case may leave an fd.
 * Use:         static void a_case(void **state) { struct fixture *f = *state; … }
 *              int main(void) { return FIXTURE_RUN(cases); } with cases[] of FIXTURE_CASE(a_case)
 * Lifetime:    setup makes both; teardown drops them and compares the open fds.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/coroutine.h"

#define FIXTURE_DEADLINE_NS (60 * 1000000000LL)

struct fixture {
    AioContext *ctx;
    char *dir;
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

static inline char *new_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline char *new_text(const char *format, ...)
{
    va_list args;
    char *text;
    va_start(args, format);
    assert_true(vasprintf(&text, format, args) >= 0);
    va_end(args);
    return text;
}

/* The real path of a new folder. */
static inline char *new_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *made = new_text("%s/sherd-unit-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(made));
    char *real = realpath(made, NULL);
    assert_non_null(real);
    free(made);
    return real;
}

static inline int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static inline void remove_folder(char *dir)
{
    assert_int_equal(nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

/* The initial state is the engine, kept in a pointer. */
static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct aio_config config = {.engine = (enum aio_engine)(uintptr_t)*state};
    f->n_fds = count_fds();
    f->dir = new_folder();
    assert_int_equal(aio_context_new(&config, &f->ctx), 0);
    aio_context_set_current(f->ctx);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    aio_context_set_current(NULL);
    aio_context_unref(f->ctx);
    remove_folder(f->dir);
    assert_int_equal(count_fds(), f->n_fds);
    free(f);
    return 0;
}

/* ---- files ---- */

/* DIR/name; free() it. */
static inline char *in_dir(const struct fixture *f, const char *name)
{
    return new_text("%s/%s", f->dir, name);
}

static inline void make_dir(const struct fixture *f, const char *name)
{
    char *path = in_dir(f, name);
    assert_int_equal(mkdir(path, 0755), 0);
    free(path);
}

static inline void make_file(
    const struct fixture *f, const char *name, const void *data, size_t len)
{
    char *path = in_dir(f, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    free(path);
}

/* target is taken as it is where it begins with / or ., else as DIR/target. */
static inline void make_link(const struct fixture *f, const char *name, const char *target)
{
    char *path = in_dir(f, name);
    char *to = strchr("/.", target[0]) ? strdup(target) : in_dir(f, target);
    assert_int_equal(symlink(to, path), 0);
    free(to);
    free(path);
}

/* ---- coroutines ---- */

static inline void fail_late(void *opaque)
{
    (void)opaque;
    fail_msg("the coroutine did not come to its end");
}

/* Turns the loop until *n_left is 0. */
static inline void run_until_none_left(struct fixture *f, const uint32_t *n_left)
{
    AioTimer deadline;
    aio_timer_init(f->ctx, &deadline, fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + FIXTURE_DEADLINE_NS);
    while (*n_left > 0)
        aio_poll(f->ctx, true);
    timer_del(&deadline);
}

struct body_run {
    void (*body)(void *opaque);
    void *opaque;
    uint32_t n_left;
};

static inline void body_entry(void *opaque)
{
    struct body_run *run = opaque;
    run->body(run->opaque);
    run->n_left--;
}

/* Runs body(opaque) in a coroutine to its end. */
static inline void run_co(struct fixture *f, void (*body)(void *opaque), void *opaque)
{
    struct body_run run = {body, opaque, 1};
    Coroutine *co = coroutine_create(body_entry, &run);
    assert_non_null(co);
    coroutine_enter(co);
    run_until_none_left(f, &run.n_left);
}

/* ---- engines ---- */

#define FIXTURE_CASE(f)                              \
    {                                                \
#f, f, fixture_setup, fixture_teardown, NULL \
    }

/* Runs each case on each engine that this kernel lets us have. */
static inline int fixture_run(const char *group, const struct CMUnitTest *cases, size_t n_cases)
{
    static const enum aio_engine engines[] = {
        AIO_ENGINE_THREADS, AIO_ENGINE_LINUX_AIO, AIO_ENGINE_IO_URING};
    const size_t n_engines = sizeof(engines) / sizeof(engines[0]);
    struct CMUnitTest *all = calloc(n_engines * n_cases, sizeof(*all));
    size_t n = 0;
    for (size_t e = 0; e < n_engines; e++) {
        struct aio_config config = {.engine = engines[e]};
        AioContext *probe;
        if (aio_context_new(&config, &probe) < 0)
            continue;
        aio_context_unref(probe);
        for (size_t i = 0; i < n_cases; i++, n++) {
            all[n] = cases[i];
            all[n].name = new_text("%s (%s)", cases[i].name, aio_engine_name(engines[e]));
            all[n].initial_state = (void *)(uintptr_t)engines[e];
        }
    }
    int failed = _cmocka_run_group_tests(group, all, n, NULL, NULL);
    while (n > 0)
        free((void *)all[--n].name);
    free(all);
    return failed;
}

#define FIXTURE_RUN(cases) fixture_run(#cases, cases, sizeof(cases) / sizeof((cases)[0]))
