/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * random_run - a program that does random things to the runtime and compares it with a model
 *
 * Why:         what nobody thought of. The same seed does the same again, in one thread to the
 *              step.
 * Use:         int main(int argc, char **argv) { return random_main(argc, argv, &run); }
 *              where run.once() does so many steps with such dice on such a monitor, and says
 *              random_check(run, condition, "what") where the model knows better.
 * Command:     PROGRAM                    the short form: some seeds on every monitor
 *              PROGRAM --seed N           that seed alone
 *              PROGRAM --steps N          so many steps a run
 *              PROGRAM --seed N --runs M  seeds N to N + M - 1
 *              A failure prints seed, monitor and step, and aborts.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/aio.h"

/* ---- dice ---- */

struct dice {
    uint64_t state;
};

static inline uint64_t dice_roll(struct dice *dice)
{
    uint64_t z = (dice->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 0 to n - 1. */
static inline uint32_t dice_below(struct dice *dice, uint32_t n)
{
    return (uint32_t)(dice_roll(dice) % n);
}

static inline bool dice_one_in(struct dice *dice, uint32_t n)
{
    return dice_below(dice, n) == 0;
}

/* ---- one run ---- */

struct random_run {
    uint64_t seed;
    uint64_t n_steps;
    struct aio_config config;
    const char *monitor;
    uint64_t step; /* where it is; kept by once(), for the report */
};

#define random_check(run, condition, ...)                                  \
    do {                                                                   \
        if (!(condition))                                                  \
            random_fail(run, __FILE__, __LINE__, #condition, __VA_ARGS__); \
    } while (0)

__attribute__((noreturn, format(printf, 5, 6))) static inline void random_fail(
    const struct random_run *run, const char *file, int line, const char *condition,
    const char *format, ...)
{
    va_list args;

    fprintf(stderr, "%s:%d: not true: %s\nseed %llu, %s, step %llu: ", file, line, condition,
        (unsigned long long)run->seed, run->monitor, (unsigned long long)run->step);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nto repeat: --seed %llu --steps %llu\n", (unsigned long long)run->seed,
        (unsigned long long)run->n_steps);
    abort();
}

/* ---- the program ---- */

struct random_program {
    void (*once)(struct random_run *run);
    uint32_t short_runs;
    uint64_t short_steps;
};

static const struct random_monitor {
    const char *name;
    struct aio_config config;
} random_monitors[] = {
    {"ppoll", {.engine = AIO_ENGINE_THREADS, .monitor = AIO_MONITOR_PPOLL}},
    {"epoll", {.engine = AIO_ENGINE_THREADS, .monitor = AIO_MONITOR_EPOLL}},
    {"io_uring", {.engine = AIO_ENGINE_IO_URING}},
};
#define N_RANDOM_MONITORS (sizeof random_monitors / sizeof random_monitors[0])

/* Not where this kernel has no such thing for us. */
static inline void random_run_on(const struct random_program *program,
    const struct random_monitor *monitor, uint64_t seed, uint64_t n_steps)
{
    struct random_run run = {
        .seed = seed, .n_steps = n_steps, .config = monitor->config, .monitor = monitor->name};
    AioContext *probe;

    if (aio_context_new(&monitor->config, &probe) < 0)
        return;
    aio_context_unref(probe);
    program->once(&run);
}

static inline int random_usage(const char *name)
{
    fprintf(stderr, "usage: %s [--seed N] [--runs N] [--steps N]\n", name);
    return 2;
}

static inline int random_main(int argc, char **argv, const struct random_program *program)
{
    uint64_t seed = 1, n_runs = program->short_runs, n_steps = program->short_steps;

    for (int i = 1; i < argc; i += 2) {
        char *end = NULL;
        uint64_t n = i + 1 < argc ? strtoull(argv[i + 1], &end, 10) : 0;

        if (!end || *end || end == argv[i + 1])
            return random_usage(argv[0]);
        if (strcmp(argv[i], "--seed") == 0)
            seed = n, n_runs = 1;
        else if (strcmp(argv[i], "--runs") == 0)
            n_runs = n;
        else if (strcmp(argv[i], "--steps") == 0)
            n_steps = n;
        else
            return random_usage(argv[0]);
    }
    for (uint64_t i = 0; i < n_runs; i++)
        for (size_t m = 0; m < N_RANDOM_MONITORS; m++)
            random_run_on(program, &random_monitors[m], seed + i, n_steps);
    return 0;
}
