/* SPDX-License-Identifier: MIT */
/*
 * Deaths while a death is being mended. One of three dies in the middle of its work, and then
 *
 *   its replacement    at each store that it makes before its first turn is over
 *   one of its peers   at each store from the moment it is told
 *   the supervisor     at each store of its mending: then nobody mends anything, and what waits for
 *                      the dead is ended by those who wait
 *
 * is killed as well. Only stores are places to die at: to die at a load is to die after the store
 * before it. Some of them are tried; SHERD_CRASH_POINTS=N tries N, spread evenly.
 */
#include "shard/estate.h"
#include "tests/unit/shard/recovery_fixture.h"

/* Born with a fuse that is out once its first turn is over. */
static void recover_and_work(struct rig_end *end)
{
    aio_poll(end->ctx, false);
    atomic_store(&end->rig->board->words[WORD_STORES], fuse.n_made);
    put_out_fuse();
    atomic_store(&end->rig->board->words[WORD_RECOVERED], 1);
    work(end);
}

/* ---- the replacement dies ---- */

/* Returns how many stores the replacement made until its first turn was over: 0 where it died. */
static uint64_t replacement_dies_at(uint64_t stores)
{
    uint32_t n_deaths = 0;
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    struct rig rig;
    char what[64];

    snprintf(
        what, sizeof(what), "a replacement dies at its store %llu", (unsigned long long)stores);
    open_rig(&rig);
    start_all(&rig, middle(stores));
    rig_fork(&rig, WITNESS, work);
    while (n_deaths == 0 || !all_is_over(&rig)) {
        if (has_died(&rig, DOOMED)) {
            bury(&rig, DOOMED);
            if (n_deaths++ == 0)
                light_fuse(&rig, stores);
            rig_fork(&rig, DOOMED, n_deaths == 1 ? recover_and_work : work);
            put_out_fuse();
        }
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    uint64_t n_made = n_deaths == 1 ? atomic_load(&rig.board->words[WORD_STORES]) : 0;
    check_and_close(&rig, what);
    return n_made;
}

static void a_replacement_may_die_at_any_store_of_its_recovery(void **state)
{
    uint64_t n = replacement_dies_at(0);
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    assert_true(n > 20);
    for (uint32_t i = 0; i < n_samples; i++)
        n_died += replacement_dies_at(sample(i, n_samples, n)) == 0;
    print_message("%llu stores of a replacement, %u deaths\n", (unsigned long long)n, n_died);
    assert_true(n_died > n_samples / 2);
}

/* ---- a peer dies while it judges ---- */

static void work_on_a_fuse(struct rig_end *end)
{
    fuse.when_armed = true;
    work(end);
}

static bool witness_dies_at(uint64_t stores)
{
    bool dead[2] = {false, false};
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    struct rig rig;
    char what[64];

    snprintf(what, sizeof(what), "a peer dies %llu stores after it was told",
        (unsigned long long)stores);
    open_rig(&rig);
    light_fuse(&rig, stores);
    fuse.when_armed = true;
    rig_fork(&rig, WITNESS, work_on_a_fuse);
    start_all(&rig, middle(stores));
    while (!dead[DOOMED] || !all_is_over(&rig)) {
        for (uint32_t peer = 0; peer < 2; peer++)
            if (!dead[peer] && has_died(&rig, peer)) {
                dead[peer] = true;
                atomic_store(&rig.board->words[WORD_ARMED], 1);
                bury(&rig, peer);
                rig_fork(&rig, peer, work);
            }
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    check_and_close(&rig, what);
    return dead[WITNESS];
}

static void a_peer_may_die_at_any_store_while_it_judges(void **state)
{
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    for (uint32_t i = 0; i < n_samples; i++)
        n_died += witness_dies_at(sample(i, n_samples, 120));
    print_message("%u deaths while judging\n", n_died);
    assert_true(n_died > n_samples / 2);
}

/* ---- the supervisor dies ---- */

static struct rig_end *ends_of_supervisor;

/* As death.c and birth.c have it, up to the fork. */
static void mend(struct rig *rig)
{
    const struct segment *seg = &rig->seg;

    estate_mend(seg, DOOMED);
    estate_pass_on(seg, DOOMED, PEER_DYING);
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        if (peer != DOOMED && ends_of_supervisor[peer].running)
            estate_tell(seg, DOOMED, peer, rig->bells[peer]);
    estate_prepare(seg, DOOMED);
}

/* Returns how many stores it took: 0 where the supervisor died at one. */
static uint64_t mend_in_a_child(struct rig *rig, uint64_t stores)
{
    int status;
    pid_t pid;

    fflush(NULL);
    ends_of_supervisor = rig->ends;
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        light_fuse(rig, stores);
        mend(rig);
        atomic_store(&rig->board->words[WORD_STORES], fuse.n_made);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 0 : atomic_load(&rig->board->words[WORD_STORES]);
}

/* Those who live have ended all that they had asked; what the dead one had asked is nobody's. */
static bool living_are_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        if (peer != DOOMED && atomic_load(&rig->board->words[WORD_OVER + peer]) == 0)
            return false;
    return true;
}

static uint64_t supervisor_dies_at(uint64_t stores)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    uint64_t n_made;
    struct rig rig;
    char what[64];

    snprintf(
        what, sizeof(what), "the supervisor dies at its store %llu", (unsigned long long)stores);
    open_rig(&rig);
    start_all(&rig, middle(stores));
    rig_fork(&rig, WITNESS, work);
    while (!has_died(&rig, DOOMED)) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
    rig_join(&rig, DOOMED);
    atomic_store_release(&segment_control(&rig.seg, DOOMED)->pid, 0);
    n_made = mend_in_a_child(&rig, stores);
    atomic_store(&rig.board->words[WORD_ORPHANED], 1);
    while (!living_are_over(&rig)) {
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    check_and_close(&rig, what);
    return n_made;
}

static void without_a_supervisor_the_living_end_what_they_asked_wherever_it_died(void **state)
{
    uint64_t n = supervisor_dies_at(0);
    uint32_t n_samples = samples_wanted(), n_died = 0;

    (void)state;
    assert_true(n > 4);
    for (uint32_t i = 0; i < n_samples && i < n; i++)
        n_died += supervisor_dies_at(sample(i, n_samples < n ? n_samples : (uint32_t)n, n)) == 0;
    print_message("%llu stores of the supervisor, %u deaths\n", (unsigned long long)n, n_died);
    assert_true(n_died > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replacement_may_die_at_any_store_of_its_recovery),
        cmocka_unit_test(a_peer_may_die_at_any_store_while_it_judges),
        cmocka_unit_test(without_a_supervisor_the_living_end_what_they_asked_wherever_it_died),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
