/* SPDX-License-Identifier: MIT */
/*
 * What a call to another process costs, and a coroutine's move there, both sides awake, against two
 * bare rings between the same two cores in the same run.
 *
 * Both sides poll without ever sleeping, in processes of their own, on the first two cores this
 * process may use; the bare rings take their turn before each round of calls, in the same two.
 *
 * bench_mesh [one] [many] [move]: these alone, for a profile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/portable.h"
#include "tests/bench/bare_rings.h"
#include "tests/bench/compare.h"
#include "tests/bench/two_cpus.h"
#include "tests/unit/shard/mesh_rig.h"

#define ROUNDS      15
#define ONE_BY_ONE  100000
#define MANY        1000000
#define MANY_FLIGHT 128

static struct bare_rings *bare;

/* ---- calls ---- */

struct figures {
    double one[ROUNDS], many[ROUNDS];
    double move[ROUNDS]; /* one way; of the bare rings half a round trip */
};

struct caller {
    struct rig_end *end;
    uint32_t left, busy;
};

static uint32_t method;

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static void coroutine_fn call_until_done(void *opaque)
{
    struct caller *caller = opaque;

    while (caller->left > 0) {
        struct call_answer answer;

        caller->left--;
        if (shard_call(caller->end->mesh,
                &(struct call_request){.target = 1, .method = method, .deadline_ns = INT64_MAX},
                &answer) != 0)
            abort();
        call_answer_deinit(&answer);
    }
    caller->busy--;
}

static double calls_ns(struct rig_end *end, uint32_t n, uint32_t in_flight)
{
    struct caller caller = {.end = end, .left = n};
    int64_t begin_ns = aio_clock_ns();

    for (uint32_t i = 0; i < in_flight; i++) {
        caller.busy++;
        coroutine_enter(coroutine_create(call_until_done, &caller));
    }
    while (caller.busy > 0)
        aio_poll(end->ctx, false);
    return (double)(aio_clock_ns() - begin_ns) / n;
}

/* ---- moves ---- */

struct hopper {
    uint32_t left;
    uint32_t done;
};

static struct hopper *hopper; /* shared */

static void coroutine_fn hop(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    for (; hopper->left > 0; hopper->left--)
        if (shard_co_move(&mesh, 1) != 0 || shard_co_move(&mesh, 0) != 0)
            abort();
    atomic_store_release(&hopper->done, 1);
}

static double move_ns(struct rig_end *end, uint32_t n)
{
    int64_t begin_ns = aio_clock_ns();

    *hopper = (struct hopper){.left = n};
    if (portable_start(end->mesh, hop, NULL, "hop", NULL) != 0)
        abort();
    while (!atomic_load_acquire(&hopper->done))
        aio_poll(end->ctx, false);
    return (double)(aio_clock_ns() - begin_ns) / n / 2;
}

static void serve_awake(struct rig_end *end)
{
    two_cpus_pin(1);
    while (!atomic_load(&end->rig->board->leave)) {
        aio_poll(end->ctx, false);
        bare_rings_echo(bare);
    }
}

static struct figures *figures;
static struct {
    bool one, many, move;
} wanted;

static double bare_ns(uint32_t n, uint32_t in_flight)
{
    int64_t begin_ns = aio_clock_ns();

    bare_rings_run(bare, n, in_flight);
    return (double)(aio_clock_ns() - begin_ns) / n;
}

static void measure_bare(uint32_t round)
{
    bare_rings_start(bare);
    bare_ns(ONE_BY_ONE / 100, 1);
    figures[0].one[round] = bare_ns(ONE_BY_ONE, 1);
    figures[0].many[round] = bare_ns(MANY, MANY_FLIGHT);
    figures[0].move[round] = figures[0].one[round] / 2;
    bare_rings_stop(bare);
}

static void call_awake(struct rig_end *end)
{
    two_cpus_pin(0);
    calls_ns(end, ONE_BY_ONE / 10, 1);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        measure_bare(i);
        if (wanted.one)
            figures[1].one[i] = calls_ns(end, ONE_BY_ONE, 1);
        if (wanted.many)
            figures[1].many[i] = calls_ns(end, MANY, MANY_FLIGHT);
        if (wanted.move)
            figures[1].move[i] = move_ns(end, ONE_BY_ONE);
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_row(
    const char *what, double *ours, double *theirs, const struct compare_goal *goal)
{
    double ratios[ROUNDS];

    for (uint32_t i = 0; i < ROUNDS; i++)
        ratios[i] = ours[i] / theirs[i];
    qsort(ratios, ROUNDS, sizeof *ratios, ascending);
    qsort(ours, ROUNDS, sizeof *ours, ascending);
    qsort(theirs, ROUNDS, sizeof *theirs, ascending);
    printf("%-26s %7.1f ns (least %.1f)   bare rings %7.1f ns (least %.1f)   ratio %.2f (least "
           "%.2f)  ",
        what, ours[ROUNDS / 2], ours[0], theirs[ROUNDS / 2], theirs[0], ratios[ROUNDS / 2],
        ratios[0]);
    compare_judge(goal, ours[ROUNDS / 2], ratios[ROUNDS / 2]);
}

static const struct service_method methods[] = {
    {.name = "nothing", .flags = SERVICE_IDEMPOTENT, .help = "does nothing", .run = run_nothing},
};
static const struct service bench_service = {.abi = SERVICE_ABI,
    .name = "bench",
    .help = "for a benchmark",
    .methods = methods,
    .n_methods = 1};

static bool is_wanted(char **names, const char *name)
{
    bool any = false;

    for (; *names; names++) {
        if (strcmp(*names, name) == 0)
            return true;
        any = true;
    }
    return !any;
}

int main(int argc, char **argv)
{
    static struct rig rig;

    (void)argc;
    wanted.one = is_wanted(argv + 1, "one");
    wanted.many = is_wanted(argv + 1, "many");
    wanted.move = is_wanted(argv + 1, "move");
    two_cpus_begin();
    bare = bare_rings_new();
    figures = two_cpus_memory(2 * sizeof *figures);
    hopper = two_cpus_memory(sizeof *hopper);
    rig_open(&rig, 2, &bench_service);
    rig_fork(&rig, 1, serve_awake);
    rig_fork(&rig, 0, call_awake);
    rig_join(&rig, 0);
    rig_close(&rig);
    if (wanted.one)
        print_row("call, 1 in flight", figures[1].one, figures[0].one,
            &(struct compare_goal){.most_ns = 550, .most_ratio = 2.0});
    if (wanted.many)
        print_row("call, 128 in flight", figures[1].many, figures[0].many,
            &(struct compare_goal){.most_ns = 62.5, .most_ratio = 2.6}); /* 16 M/s */
    if (wanted.move)
        print_row("shard_co_move(), one way", figures[1].move, figures[0].move,
            &(struct compare_goal){.most_ns = 400});
    return compare_end();
}
