/* SPDX-License-Identifier: MIT */
/*
 * A whole instance, in which one process dies at the k-th store of each point in the source that
 * stores to the segment: a shard, the gateway, or the supervisor while it mends a shard's death.
 * All that was asked for ends once, and as it may; the accounts balance; nothing is left taken; and
 * the instance serves the next round as if nothing had happened. Without a supervisor the others
 * leave, and the next start serves.
 *
 * A first round without a death finds the points. The k are spread over the hits seen then:
 * SHERD_CRASH_POINTS=N tries N of them, SHERD_CRASH_AT="file:line" that point alone.
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

/* What workers tell. */
struct tally {
    _Atomic uint32_t n_points, n_met, n_deaths;
    _Atomic int64_t longest_ns, longest_idle_ns;
};

struct worker {
    struct crash_instance instance;
    struct tally *tally;
    uint32_t number;
    enum fuse_role role;
    const char *file; /* its points alone; "": all */
};

typedef void worker_fn(struct worker *worker);

static uint32_t n_samples(uint32_t otherwise)
{
    const char *text = getenv("SHERD_CRASH_POINTS");

    return text ? (uint32_t)atoi(text) : otherwise;
}

static bool is_wanted(const struct worker *worker, const struct fuse_point *point)
{
    const char *at = getenv("SHERD_CRASH_AT");
    char name[256];

    snprintf(name, sizeof(name), "%s:%d", point->file, point->line);
    return strstr(name, worker->file) && (!at || strstr(name, at));
}

/* The i-th of n hits that are spread over all; the same as the one before, where there are fewer. */
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

/* ---- a shard, the gateway ---- */

static void find_points(struct crash_instance *instance)
{
    instance->fuse->counts = true;
    crash_instance_round(instance, "no death", false);
    instance->fuse->counts = false;
}

static bool dies_at(struct worker *worker, const struct fuse_point *point, uint64_t hit)
{
    struct crash_instance *instance = &worker->instance;
    uint32_t before = instance->n_deaths;
    char what[256];

    snprintf(what, sizeof(what), "%s at hit %llu of %s:%d",
        worker->role == FUSE_SHARD ? "shard" : "gateway", (unsigned long long)hit, point->file,
        point->line);
    fuse_arm(instance->fuse, worker->role, point, hit);
    crash_instance_round(instance, what, true);
    if (instance->n_deaths == before)
        return false;
    crash_instance_round(instance, what, false);
    return true;
}

typedef bool death_fn(struct worker *worker, const struct fuse_point *point, uint64_t hit);

/* Of the points that are this worker's, at n_samples of the hits of each. */
static void at_each_point(struct worker *worker, uint32_t n, death_fn *dies)
{
    const struct fuse *fuse = worker->instance.fuse;

    for (uint32_t i = worker->number; i < fuse->n_points[worker->role]; i += N_WORKERS) {
        const struct fuse_point *point = &fuse->points[worker->role][i];
        uint64_t last = 0;
        uint32_t n_died = 0;

        if (!is_wanted(worker, point))
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

    crash_instance_start(instance);
    find_points(instance);
    at_each_point(worker, n_samples(worker->file[0] ? 12 : 5), dies_at);
    crash_instance_stop(instance);
}

/* ---- the supervisor ---- */

/* A round in which the doomed shard is killed. */
static void find_points_of_mending(struct crash_instance *instance)
{
    crash_instance_start(instance);
    atomic_store(&instance->board->may_die, true);
    instance->fuse->counts = true;
    crash_instance_kill(instance, CRASH_DOOMED);
    crash_instance_round(instance, "no death of the supervisor", true);
    instance->fuse->counts = false;
    crash_instance_stop(instance);
}

static bool supervisor_dies_at(struct worker *worker, const struct fuse_point *point, uint64_t hit)
{
    struct crash_instance *instance = &worker->instance;
    char what[256];
    bool died;

    snprintf(what, sizeof(what), "supervisor at hit %llu of %s:%d", (unsigned long long)hit,
        point->file, point->line);
    crash_instance_start(instance);
    atomic_store(&instance->board->may_die, true);
    atomic_store(&instance->board->may_be_orphans, true);
    fuse_arm(instance->fuse, FUSE_SUPERVISOR, point, hit);
    crash_instance_begin_round(instance);
    crash_instance_kill(instance, CRASH_DOOMED);
    died = crash_instance_wait_for_death(instance);
    if (died) {
        crash_instance_wait_for_orphans(instance, what);
        crash_instance_start(instance);
    }
    atomic_store(&instance->board->may_be_orphans, false);
    crash_instance_round(instance, what, !died);
    crash_instance_stop(instance);
    return died;
}

static void die_at_each_point_of_mending(struct worker *worker)
{
    find_points_of_mending(&worker->instance);
    at_each_point(worker, n_samples(2), supervisor_dies_at);
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
    _exit(0);
}

static void run_workers(void **state, worker_fn *work, enum fuse_role role, const char *file)
{
    struct tally *tally =
        mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[N_WORKERS];
    uint32_t n_failed = 0;

    assert_true(tally != MAP_FAILED);
    for (uint32_t number = 0; number < N_WORKERS; number++)
        pids[number] = fork_worker(
            (struct worker){.tally = tally, .number = number, .role = role, .file = file}, work,
            *state);
    for (uint32_t number = 0; number < N_WORKERS; number++) {
        int status;
        assert_int_equal(waitpid(pids[number], &status, 0), pids[number]);
        n_failed += status != 0;
    }
    print_message("  %u points, %u of them met again, %u deaths; the longest round with one took "
                  "%.1f ms, and %.1f ms while processors were free\n",
        tally->n_points, tally->n_met, tally->n_deaths, (double)tally->longest_ns / 1e6,
        (double)tally->longest_idle_ns / 1e6);
    assert_int_equal(n_failed, 0);
    assert_true(tally->n_met > tally->n_points / 2);
    munmap(tally, sizeof(*tally));
}

static void a_shard_that_dies_at_any_store_loses_nothing_and_leaves_nothing(void **state)
{
    run_workers(state, die_at_each_point, FUSE_SHARD, "");
}

static void a_gateway_that_dies_at_any_store_loses_nothing_and_leaves_nothing(void **state)
{
    run_workers(state, die_at_each_point, FUSE_GATEWAY, "");
}

static void a_supervisor_that_dies_while_it_mends_leaves_nobody_waiting(void **state)
{
    run_workers(state, die_at_each_point_of_mending, FUSE_SUPERVISOR, "");
}

/* Between the bytes of a message, the word that publishes it, and the tail that counts it. */
static void a_sender_killed_between_payload_and_tail_has_sent_all_or_nothing(void **state)
{
    run_workers(state, die_at_each_point, FUSE_SHARD, "runtime/ring.c");
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

/* A pattern picks cases. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(a_shard_that_dies_at_any_store_loses_nothing_and_leaves_nothing),
        CASE(a_sender_killed_between_payload_and_tail_has_sent_all_or_nothing),
        CASE(a_gateway_that_dies_at_any_store_loses_nothing_and_leaves_nothing),
        CASE(a_supervisor_that_dies_while_it_mends_leaves_nobody_waiting),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
