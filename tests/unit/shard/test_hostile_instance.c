/* SPDX-License-Identifier: MIT */
/*
 * A shard of a whole instance writes nonsense over all that it may write, while the others call
 * each other, and one of them is killed: nobody crashes, nobody hangs, each call of theirs is
 * answered. Wake-ups that it wipes out are found by the supervisor. Once it is dead its replacement
 * takes over what it made of its part, serves, and is served.
 *
 * Methods that move are left out: a word of theirs that says something else gives a stack to two.
 *
 * SHERD_HOSTILE_SECONDS says how long, SHERD_HOSTILE_SEED which sequence; it is printed.
 */
#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/ring.h"
#include "tests/unit/shard/crash_instance.h"
#include "tests/unit/shard/hostile_noise.h"
#include "tests/unit/shard/scratch_dir.h"

#define N_ROUNDS    50        /* before and after the deaths, */
#define ROUNDS_NS   300000000 /* or so long: a wake-up that is lost costs up to a second */
#define REPLACED_NS INT64_C(20000000000)

static uint64_t seed;

static void be_hostile(const struct child_env *env)
{
    struct noise noise = {.state = seed,
        .seg = env->segment,
        .self = env->peer,
        .n_methods = LOAD_METHODS,
        .bell_fds = env->bell_fds};

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the supervisor, however that ends */
    for (;;)
        noise_make(&noise);
}

static void serve(struct crash_instance *instance, const char *what)
{
    char text[64];

    snprintf(text, sizeof(text), "SHERD_HOSTILE_SEED=%" PRIu64 ", %s", seed, what);
    crash_instance_serve(instance, text);
}

static void serve_for_some_rounds(struct crash_instance *instance, const char *what)
{
    int64_t end_ns = aio_clock_ns() + ROUNDS_NS;

    for (int i = 0; i < N_ROUNDS && aio_clock_ns() < end_ns; i++)
        serve(instance, what);
}

static uint64_t n_unread(const struct segment *seg, uint32_t from, uint32_t to)
{
    uint64_t n = 0;

    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        n += ring_depth(segment_tail(seg, from, to, lane), segment_head(seg, from, to, lane),
            segment_ring_slots(seg, from, to, lane));
    return n;
}

/* The replacement is up, and has read what others could send to one that did not read, as have they
 * what its predecessor left them. */
static bool has_read_all(const struct segment *seg)
{
    uint64_t depth = 0;

    if (atomic_load_acquire(&segment_part(seg, CRASH_DOOMED)->incarnation) < 2)
        return false;
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        if (peer != CRASH_DOOMED)
            depth += n_unread(seg, peer, CRASH_DOOMED) + n_unread(seg, CRASH_DOOMED, peer);
    return depth == 0;
}

static void wait_for_its_replacement(const struct crash_instance *instance)
{
    int64_t end_ns = aio_clock_ns() + REPLACED_NS;

    while (!has_read_all(&instance->seg)) {
        assert_true(aio_clock_ns() < end_ns);
        sched_yield();
    }
}

static void run_once(struct crash_instance *instance)
{
    struct load_board *board = instance->board;

    instance->misbehave = be_hostile;
    atomic_store(&board->hostile, true);
    atomic_store(&board->shunned, CRASH_DOOMED + 1);
    crash_instance_start(instance);
    serve_for_some_rounds(instance, "hostile");
    atomic_store(&board->may_die, true);
    crash_instance_kill(instance, 0);
    serve(instance, "a death beside it");
    crash_instance_kill(instance, CRASH_DOOMED);
    serve(instance, "its death");
    wait_for_its_replacement(instance);
    atomic_store(&board->shunned, 0);
    serve(instance, "its replacement, and what it has left");
    atomic_store(&board->may_die, false);
    serve_for_some_rounds(instance, "beside its replacement");
    printf("SHERD_HOSTILE_SEED=%" PRIu64 ": %u wake-ups were lost, and found\n", seed,
        segment_supervisor(&instance->seg)->knocks);
    crash_instance_destroy(instance);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void an_instance_survives_a_shard_that_writes_nonsense(void **state)
{
    int64_t end_ns =
        aio_clock_ns() + (int64_t)from_environment("SHERD_HOSTILE_SECONDS", 2) * 1000000000;

    seed = from_environment("SHERD_HOSTILE_SEED", (uint64_t)aio_clock_ns() | 1);
    for (; aio_clock_ns() < end_ns; seed += 2) {
        struct crash_instance instance;
        pid_t pid;
        int status;

        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            crash_instance_prepare(&instance, *state, "hostile");
            run_once(&instance);
            crash_instance_discard(&instance);
            exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            an_instance_survives_a_shard_that_writes_nonsense, scratch_make, scratch_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
