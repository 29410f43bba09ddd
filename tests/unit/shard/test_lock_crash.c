/* SPDX-License-Identifier: MIT */
/*
 * Holders, waiters and the home of a lock die at their k-th store to the segment, for every k up to
 * a few rounds of locking: nobody is in there with another, who comes after one that died in there
 * is told, everybody gets in, and no record of the lock is left.
 *
 * Some k are tried; SHERD_CRASH_POINTS=N tries N, spread evenly.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_sleep.h"
#include "shard/lock.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_SHARDS    3
#define HOME        2 /* it locks too */
#define N_ROUNDS    4
#define N_STORES    160 /* of one that dies, at most: more than its rounds take */
#define N_SAMPLES   12
#define DEADLINE_NS (INT64_C(60) * 1000000000)

enum { WORD_OVER, WORD_INSIDE = 8, WORD_WRONG };

static const struct shard_mutex mutex = {.id = 3, .home = HOME};

static struct {
    const uint8_t *base; /* NULL: none */
    uint64_t bytes;
    uint64_t left;
} fuse;

static pid_t test_pid;

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)address;

    (void)file;
    (void)line;
    if (!fuse.base || at < fuse.base || at >= fuse.base + fuse.bytes ||
        (access != ATOMIC_STORE && access != ATOMIC_RMW) || getpid() == test_pid)
        return;
    if (--fuse.left == 0)
        kill(getpid(), SIGKILL);
}

/* ---- rounds ---- */

struct maker {
    struct rig_end *end;
    bool over;
};

static void coroutine_fn go_round(struct rig_end *end)
{
    struct rig_board *board = end->rig->board;
    uint64_t self = (uint64_t)getpid() << 8 | (end->peer + 1);
    int r = shard_mutex_lock(end->mesh, &mutex, INT64_MAX);
    uint64_t before = atomic_exchange(&board->words[WORD_INSIDE], self);

    if ((r != 0 && r != -EOWNERDEAD) || (r == 0 && before))
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
    if (r == -EOWNERDEAD)
        shard_mutex_consistent(end->mesh, &mutex);
    co_sleep_ns(1000);
    if (atomic_exchange(&board->words[WORD_INSIDE], 0) != self)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
    shard_mutex_unlock(end->mesh, &mutex);
}

static void coroutine_fn rounds_entry(void *opaque)
{
    struct maker *maker = opaque;

    for (uint32_t round = 0; round < N_ROUNDS; round++)
        go_round(maker->end);
    maker->over = true;
}

static bool is_over(void *opaque)
{
    return ((struct maker *)opaque)->over;
}

static void rounds_body(struct rig_end *end)
{
    struct maker maker = {.end = end};

    aio_co_enter(end->ctx, coroutine_create(rounds_entry, &maker));
    rig_poll_until(end, is_over, &maker);
    atomic_store(&end->rig->board->words[WORD_OVER + end->peer], 1);
    rig_serve(end);
}

/* ---- the supervisor ---- */

static bool has_died(const struct rig *rig, uint32_t peer)
{
    siginfo_t info = {0};

    assert_int_equal(
        waitid(P_PID, (id_t)rig->ends[peer].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0;
}

static bool a_record_is_left(const struct rig *rig)
{
    for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
        if (atomic_load_acquire(&segment_locks(&rig->seg, HOME)[idx].word) & LOCK_HELD)
            return true;
    return false;
}

static bool all_is_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_SHARDS; peer++)
        if (!atomic_load(&rig->board->words[WORD_OVER + peer]))
            return false;
    return rig_slots_in_use(rig) == 0 && !a_record_is_left(rig);
}

/* Whether it died. */
static bool dies_at(uint32_t doomed, uint64_t stores)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    bool died = false;
    struct rig rig;

    test_pid = getpid();
    rig_open(&rig, N_SHARDS, &rig_nothing);
    fuse.base = rig.seg.base;
    fuse.bytes = rig.seg.bytes;
    fuse.left = stores;
    rig_fork(&rig, doomed, rounds_body);
    fuse.base = NULL;
    for (uint32_t peer = 0; peer < N_SHARDS; peer++)
        if (peer != doomed)
            rig_fork(&rig, peer, rounds_body);
    while (!all_is_over(&rig)) {
        if (!died && has_died(&rig, doomed)) {
            died = true;
            rig_join(&rig, doomed);
            rig_bury(&rig, doomed, false);
            atomic_store(&rig.board->words[WORD_OVER + doomed], 0);
            rig_fork(&rig, doomed, rounds_body);
        }
        if (aio_clock_ns() > deadline_ns)
            fail_msg("shard %u dies at its store %llu: somebody never gets in, or out", doomed,
                (unsigned long long)stores);
        sched_yield();
    }
    if (atomic_load(&rig.board->words[WORD_WRONG]) || !rig_balances(&rig))
        fail_msg("shard %u dies at its store %llu: two were in there, or the accounts are wrong",
            doomed, (unsigned long long)stores);
    rig_close(&rig);
    return died;
}

static void dies_everywhere(uint32_t doomed)
{
    const char *text = getenv("SHERD_CRASH_POINTS");
    uint32_t n_samples = text ? (uint32_t)atoi(text) : N_SAMPLES, n_died = 0;

    for (uint32_t i = 0; i < n_samples; i++)
        n_died += dies_at(doomed, 1 + (uint64_t)N_STORES * i / n_samples);
    print_message("%u deaths\n", n_died);
    assert_true(n_died > n_samples / 4);
}

static void one_that_holds_or_waits_may_die_at_any_store(void **state)
{
    (void)state;
    dies_everywhere(0);
}

static void the_home_may_die_at_any_store(void **state)
{
    (void)state;
    dies_everywhere(HOME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_holds_or_waits_may_die_at_any_store),
        cmocka_unit_test(the_home_may_die_at_any_store),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
