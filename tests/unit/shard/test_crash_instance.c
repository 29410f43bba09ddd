/* SPDX-License-Identifier: MIT */
/*
 * A whole instance, in which one process dies at the k-th store of each point in the source that
 * stores to the segment: a shard, the gateway, or the supervisor; under load, while a death is
 * being mended, a replacement's too, and while orders are carried out.
 * All that was asked for ends once, and as it may; the accounts balance; nothing is left taken; and
 * the instance serves the next round as if nothing had happened. Without a supervisor the others
 * leave, and the next start serves.
 *
 * A first round without a death finds the points. The k are spread over the hits seen then:
 * SHERD_CRASH_POINTS=N tries N of them, SHERD_CRASH_AT="file:line" that point alone. With the
 * argument --points nobody dies at any; they are printed, each with the role of who would
 * (check-crash-points).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/shard/crash_instance.h"
#include "tests/unit/shard/scratch_dir.h"

#define N_WORKERS 4u /* each waits for most of its time */

/* What waits for longer hangs, or waits for what only makes up for something lost. */
#define HANG_NS INT64_C(2000000000)

/* What workers tell. */
struct tally {
    _Atomic uint32_t n_points, n_met, n_deaths;
    _Atomic int64_t longest_ns, longest_idle_ns;
};

typedef void stir_fn(struct crash_instance *instance);

/* Who dies, and at which points. */
struct plan {
    enum fuse_role role;
    const char *file; /* in these files; NULL: all */
    /* Those that are met with this and not with the other; either may be NULL, and both the same:
     * all. */
    stir_fn *stir, *known;
    uint32_t n_hits; /* of each point, that are tried */
};

struct worker {
    struct crash_instance instance;
    struct plan plan;
    struct tally *tally;
    uint32_t number;
};

typedef void worker_fn(struct worker *worker);

static uint32_t n_samples(const struct worker *worker)
{
    const char *text = getenv("SHERD_CRASH_POINTS");

    return text ? (uint32_t)atoi(text) : worker->plan.n_hits;
}

static bool is_wanted(const struct worker *worker, const struct fuse_point *point)
{
    const char *at = getenv("SHERD_CRASH_AT");
    char name[256];

    snprintf(name, sizeof(name), "%s:%d", point->file, point->line);
    return (!worker->plan.file || strstr(name, worker->plan.file)) && (!at || strstr(name, at));
}

/* The i-th of n hits that are spread over all; the same as the one before, where there are
 * fewer. */
static uint64_t hit_of_sample(const struct fuse_point *point, uint32_t i, uint32_t n)
{
    return n < 2 ? 1 + point->n_hits / 2 : 1 + (point->n_hits - 1) * i / (n - 1);
}

static void raise_to(_Atomic int64_t *most, int64_t ns)
{
    int64_t seen = atomic_load(most);

    while (ns > seen && !atomic_compare_exchange_weak(most, &seen, ns))
        continue;
}

static void note_longest(struct worker *worker)
{
    raise_to(&worker->tally->longest_ns, worker->instance.longest_ns);
    raise_to(&worker->tally->longest_idle_ns, worker->instance.longest_idle_ns);
}

/* ---- the points ---- */

static void count_round(struct crash_instance *instance, void (*stir)(struct crash_instance *))
{
    instance->stir = stir;
    instance->fuse->counts = true;
    crash_instance_round(instance, "no death on the fuse", stir != NULL);
    crash_instance_wait_until_quiet(instance);
    instance->fuse->counts = false;
}

/* The supervisor's begin with its start. Returns the first that is to be tried. */
static uint32_t find_points(struct worker *worker)
{
    struct crash_instance *instance = &worker->instance;
    uint32_t first = 0;

    instance->fuse->counts = worker->plan.role == FUSE_SUPERVISOR;
    crash_instance_start(instance);
    if (worker->plan.stir != worker->plan.known) {
        count_round(instance, worker->plan.known);
        first = instance->fuse->n_points[worker->plan.role];
    }
    count_round(instance, worker->plan.stir);
    return first;
}

/* Each worker meets them in an order of its own. */
static bool is_its_own(const struct worker *worker, const struct fuse_point *point)
{
    return (uint32_t)point->line % N_WORKERS == worker->number && is_wanted(worker, point);
}

/* ---- a shard, the gateway ---- */

static bool dies_at(struct worker *worker, const struct fuse_point *point, uint64_t hit)
{
    struct crash_instance *instance = &worker->instance;
    char what[256];

    snprintf(what, sizeof(what), "%s at hit %llu of %s:%d",
        worker->plan.role == FUSE_SHARD ? "shard" : "gateway", (unsigned long long)hit, point->file,
        point->line);
    fuse_arm(instance->fuse, worker->plan.role, point, hit);
    instance->stir = worker->plan.stir;
    if (!crash_instance_round(instance, what, true))
        return false;
    instance->stir = NULL;
    crash_instance_round(instance, what, false);
    return true;
}

typedef bool death_fn(struct worker *worker, const struct fuse_point *point, uint64_t hit);

/* Of the points that are this worker's, from the first on, at some of the hits of each. */
static void at_each_point(struct worker *worker, uint32_t first, death_fn *dies)
{
    const struct fuse *fuse = worker->instance.fuse;
    uint32_t n = n_samples(worker);

    for (uint32_t i = first; i < fuse->n_points[worker->plan.role]; i++) {
        const struct fuse_point *point = &fuse->points[worker->plan.role][i];
        uint64_t last = 0;
        uint32_t n_died = 0;

        if (!is_its_own(worker, point))
            continue;
        for (uint32_t k = 0; k < n; k++) {
            uint64_t hit = hit_of_sample(point, k, n);
            if (hit != last)
                n_died += dies(worker, point, hit);
            last = hit;
        }
        atomic_fetch_add(&worker->tally->n_points, 1);
        atomic_fetch_add(&worker->tally->n_met, n_died > 0);
        atomic_fetch_add(&worker->tally->n_deaths, n_died);
    }
    note_longest(worker);
}

static void die_at_each_point(struct worker *worker)
{
    struct crash_instance *instance = &worker->instance;
    uint32_t first = find_points(worker);

    at_each_point(worker, first, dies_at);
    instance->stir = NULL;
    crash_instance_stop(instance);
}

/* ---- the supervisor ---- */

static bool supervisor_dies_at(struct worker *worker, const struct fuse_point *point, uint64_t hit)
{
    struct crash_instance *instance = &worker->instance;
    char what[256];
    bool died;

    snprintf(what, sizeof(what), "supervisor at hit %llu of %s:%d", (unsigned long long)hit,
        point->file, point->line);
    atomic_store(&instance->board->may_die, true);
    atomic_store(&instance->board->may_be_orphans, true);
    instance->stir = worker->plan.stir;
    fuse_arm(instance->fuse, FUSE_SUPERVISOR, point, hit);
    crash_instance_start(instance);
    crash_instance_begin_round(instance);
    died = crash_instance_wait_for_death(instance);
    if (died) {
        crash_instance_wait_for_orphans(instance, what);
        crash_instance_start(instance);
    }
    atomic_store(&instance->board->may_be_orphans, false);
    instance->stir = NULL;
    crash_instance_round(instance, what, !died);
    crash_instance_stop(instance);
    return died;
}

static void die_as_supervisor(struct worker *worker)
{
    struct crash_instance *instance = &worker->instance;
    uint32_t first = find_points(worker);

    instance->stir = NULL;
    crash_instance_stop(instance);
    at_each_point(worker, first, supervisor_dies_at);
}

/* ---- workers ---- */

static pid_t fork_worker(struct worker worker, worker_fn *work, const char *dir)
{
    char name[32];
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid != 0)
        return pid;
    snprintf(name, sizeof(name), "worker-%u", worker.number);
    crash_instance_prepare(&worker.instance, dir, name);
    work(&worker);
    crash_instance_discard(&worker.instance);
    fflush(NULL);
    _exit(0);
}

static uint32_t wait_for_workers(const pid_t *pids, uint32_t n)
{
    uint32_t n_failed = 0;

    for (uint32_t number = 0; number < n; number++) {
        int status;
        assert_int_equal(waitpid(pids[number], &status, 0), pids[number]);
        n_failed += status != 0;
    }
    return n_failed;
}

static void run_plan(void **state, struct plan plan)
{
    worker_fn *work = plan.role == FUSE_SUPERVISOR ? die_as_supervisor : die_at_each_point;
    struct tally *tally =
        mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[N_WORKERS];

    assert_true(tally != MAP_FAILED);
    for (uint32_t number = 0; number < N_WORKERS; number++)
        pids[number] = fork_worker(
            (struct worker){.plan = plan, .tally = tally, .number = number}, work, *state);
    uint32_t n_failed = wait_for_workers(pids, N_WORKERS);
    print_message("  %u points, %u of them met again, %u deaths; the longest round with one took "
                  "%.1f ms, and %.1f ms while processors were free\n",
        tally->n_points, tally->n_met, tally->n_deaths, (double)tally->longest_ns / 1e6,
        (double)tally->longest_idle_ns / 1e6);
    assert_int_equal(n_failed, 0);
    assert_true(tally->longest_idle_ns < HANG_NS);
    assert_true(tally->n_met * 2 >= tally->n_points);
    munmap(tally, sizeof(*tally));
}

/* ---- the cases ---- */

/* X(name, the plan) */
#define PLANS(X)                                                                                   \
    X(a_shard_that_dies_at_any_store_loses_nothing_and_leaves_nothing, FUSE_SHARD, NULL, NULL,     \
        NULL, 5)                                                                                   \
    /* Between the bytes of a message, the word that publishes it, and the tail. */                \
    X(a_sender_killed_between_payload_and_tail_has_sent_all_or_nothing, FUSE_SHARD,                \
        "runtime/ring.c", NULL, NULL, 12)                                                          \
    X(a_replacement_that_dies_while_it_begins_is_replaced, FUSE_SHARD, NULL,                       \
        crash_instance_kill_doomed, NULL, 2)                                                       \
    X(a_shard_that_dies_when_it_is_to_be_restarted_is_replaced, FUSE_SHARD, "shard/member.c",      \
        crash_instance_give_orders, NULL, 2)                                                       \
    X(a_gateway_that_dies_at_any_store_loses_nothing_and_leaves_nothing, FUSE_GATEWAY, NULL, NULL, \
        NULL, 5)                                                                                   \
    X(a_gateway_that_dies_while_orders_are_carried_out_is_replaced, FUSE_GATEWAY, NULL,            \
        crash_instance_give_orders, NULL, 2)                                                       \
    X(a_supervisor_that_dies_while_it_mends_leaves_nobody_waiting, FUSE_SUPERVISOR, NULL,          \
        crash_instance_kill_doomed, crash_instance_kill_doomed, 2)                                 \
    X(a_supervisor_that_dies_while_it_follows_orders_leaves_nobody_waiting, FUSE_SUPERVISOR, NULL, \
        crash_instance_give_orders, crash_instance_kill_doomed, 2)

#define X(name, ...)                                 \
    static void name(void **state)                   \
    {                                                \
        run_plan(state, (struct plan){__VA_ARGS__}); \
    }
PLANS(X)
#undef X

/* ---- without deaths on the fuse ---- */

static void print_points(struct worker *worker)
{
    static const char *const roles[] = {"shard", "gateway", "supervisor"};
    struct crash_instance *instance = &worker->instance;

    find_points(worker);
    instance->stir = NULL;
    crash_instance_stop(instance);
    for (uint32_t role = 0; role < N_FUSE_ROLES; role++)
        for (uint32_t i = 0; i < instance->fuse->n_points[role]; i++)
            printf("%s %s:%d\n", roles[role], instance->fuse->points[role][i].file,
                instance->fuse->points[role][i].line);
}

static void print_all_points(void **state)
{
    static const struct plan plans[] = {
        {.role = FUSE_SUPERVISOR, .stir = crash_instance_kill_doomed},
        {.role = FUSE_SUPERVISOR, .stir = crash_instance_give_orders},
    };
    pid_t pids[2];

    for (uint32_t i = 0; i < 2; i++)
        pids[i] = fork_worker((struct worker){.plan = plans[i], .number = i}, print_points, *state);
    assert_int_equal(wait_for_workers(pids, 2), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

/* A pattern picks cases. */
int main(int argc, char **argv)
{
    const struct CMUnitTest print[] = {CASE(print_all_points)};
    const struct CMUnitTest tests[] = {
#define X(name, ...) CASE(name),
        PLANS(X)
#undef X
    };

    if (argc > 1 && strcmp(argv[1], "--points") == 0)
        return cmocka_run_group_tests(print, NULL, NULL);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
