/* SPDX-License-Identifier: MIT */
/*
 * CoRwlock: who gets it when, against a reference that is nothing but two arrays. Its source is
 * compiled in here, with the hook on, in place of the library's, so that a case can come in before
 * any access to its word.
 */
#define SHERD_ATOMIC_HOOK
#include "runtime/co_rwlock.c"

#include <errno.h>

#include "tests/unit/runtime/co_actor.h"

static CoRwlock lock;

/* -1: a writer. */
static int n_owners(void)
{
    return lock.word & WRITER ? -1 : (int)(lock.word & ~CONTENDED);
}

static int coroutine_fn read_lock(struct actor *actor)
{
    return co_rwlock_rdlock(&lock);
}

static int coroutine_fn write_lock(struct actor *actor)
{
    return co_rwlock_wrlock(&lock);
}

static int coroutine_fn unlock(struct actor *actor)
{
    co_rwlock_unlock(&lock);
    return 0;
}

static int coroutine_fn upgrade(struct actor *actor)
{
    return co_rwlock_upgrade(&lock);
}

static int coroutine_fn downgrade(struct actor *actor)
{
    co_rwlock_downgrade(&lock);
    return 0;
}

static void readers_share_it_and_a_writer_does_not(void **state)
{
    struct actor a[4];

    co_rwlock_init(&lock);
    actors_start(a, 4);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], read_lock);
    assert_false(a[0].is_busy || a[1].is_busy);
    actor_do(&a[2], write_lock);
    assert_true(a[2].is_busy);
    actor_do(&a[0], unlock);
    assert_true(a[2].is_busy);
    actor_do(&a[1], unlock);
    assert_false(a[2].is_busy);
    actor_do(&a[3], read_lock);
    assert_true(a[3].is_busy);
    actor_do(&a[2], unlock);
    assert_false(a[3].is_busy);
    actor_do(&a[3], unlock);
    actors_stop(a, 4);
    co_rwlock_deinit(&lock);
}

static void a_reader_queues_behind_a_writer_that_waits(void **state)
{
    struct actor a[3];

    co_rwlock_init(&lock);
    actors_start(a, 3);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], write_lock);
    actor_do(&a[2], read_lock);
    assert_true(a[1].is_busy && a[2].is_busy);
    actor_do(&a[0], unlock);
    assert_true(!a[1].is_busy && a[2].is_busy);
    actor_do(&a[1], unlock);
    assert_false(a[2].is_busy);
    actor_do(&a[2], unlock);
    actors_stop(a, 3);
    co_rwlock_deinit(&lock);
}

static void an_upgrade_lets_who_came_before_write_first(void **state)
{
    struct actor a[2];

    co_rwlock_init(&lock);
    actors_start(a, 2);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], write_lock);
    actor_do(&a[0], upgrade);
    assert_true(a[0].is_busy && !a[1].is_busy);
    actor_do(&a[1], unlock);
    assert_false(a[0].is_busy);
    assert_ptr_equal(lock.writer, a[0].co);
    actor_do(&a[0], unlock);
    actors_stop(a, 2);
    co_rwlock_deinit(&lock);
}

static void two_readers_that_upgrade_write_one_after_the_other(void **state)
{
    struct actor a[2];

    co_rwlock_init(&lock);
    actors_start(a, 2);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], read_lock);
    actor_do(&a[0], upgrade);
    assert_true(a[0].is_busy);
    actor_do(&a[1], upgrade);
    assert_true(!a[0].is_busy && a[1].is_busy);
    actor_do(&a[0], unlock);
    assert_false(a[1].is_busy);
    actor_do(&a[1], unlock);
    actors_stop(a, 2);
    co_rwlock_deinit(&lock);
}

/* The bug of the field: only the first of the queued readers was woken, or none. */
static void a_downgrade_releases_all_queued_readers_up_to_the_next_writer(void **state)
{
    struct actor a[5];

    co_rwlock_init(&lock);
    actors_start(a, 5);
    actor_do(&a[0], write_lock);
    actor_do(&a[1], read_lock);
    actor_do(&a[2], read_lock);
    actor_do(&a[3], write_lock);
    actor_do(&a[4], read_lock);
    actor_do(&a[0], downgrade);
    assert_false(a[0].is_busy || a[1].is_busy || a[2].is_busy);
    assert_true(a[3].is_busy && a[4].is_busy);
    for (int i = 0; i < 5; i++)
        actor_do(&a[i], unlock);
    actors_stop(a, 5);
    co_rwlock_deinit(&lock);
}

static void readers_behind_a_writer_that_gives_up_get_it(void **state)
{
    struct actor a[3];

    co_rwlock_init(&lock);
    actors_start(a, 3);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], write_lock);
    actor_do(&a[2], read_lock);
    actor_cancel(&a[1]);
    assert_int_equal(a[1].result, -ECANCELED);
    assert_false(a[2].is_busy);
    actor_do(&a[0], unlock);
    actor_do(&a[2], unlock);
    actors_stop(a, 3);
    co_rwlock_deinit(&lock);
}

static void an_upgrade_that_gives_up_holds_nothing(void **state)
{
    struct actor a[2];

    co_rwlock_init(&lock);
    actors_start(a, 2);
    actor_do(&a[0], read_lock);
    actor_do(&a[1], read_lock);
    actor_do(&a[0], upgrade);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    actor_do(&a[1], unlock);
    assert_int_equal(n_owners(), 0);
    actors_stop(a, 2); /* neither ends with a lock counted */
    co_rwlock_deinit(&lock);
}

/* ---- at each access ---- */

static int before_access; /* of the word, counted down to the one before which the writer unlocks */
static struct actor *unlocker;

/* What the writer's unlock does in another thread while somebody has the lock's own lock. */
void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    if (address != &lock.word || before_access == 0 || --before_access > 0)
        return;
    if (lock.word != WRITER)
        return;
    lock.writer = NULL;
    change_quickly(&lock, WRITER, 0);
    unlocker->co->locks_held--;
    unlocker = NULL;
}

/* Whether taking it made so many accesses. An unlock that can't be quick waits for the lock. */
static bool take_with_unlock_before(struct actor *a, ActorFunc *call, int access)
{
    co_rwlock_init(&lock);
    actor_do(&a[1], write_lock);
    unlocker = &a[1];
    before_access = access;
    actor_do(&a[0], call);
    bool came_in = before_access == 0;
    before_access = 0;
    if (unlocker)
        actor_do(unlocker, unlock);
    assert_false(a[0].is_busy);
    actor_do(&a[0], unlock);
    assert_int_equal(lock.word, 0);
    co_rwlock_deinit(&lock);
    return came_in;
}

static void an_unlock_before_any_access_of_who_comes_to_wait_lets_it_in(void **state)
{
    ActorFunc *const calls[] = {read_lock, write_lock};
    struct actor a[2];

    actors_start(a, 2);
    for (int i = 0; i < 2; i++) {
        int n_accesses = 0;

        while (take_with_unlock_before(a, calls[i], n_accesses + 1))
            n_accesses++;
        assert_in_range(n_accesses, 3, 20);
    }
    actors_stop(a, 2);
}

/* ---- against a reference ---- */

#define N_ACTORS 6
#define N_STEPS  300

enum has { NOTHING, READS, WRITES, WAITS_TO_READ, WAITS_TO_WRITE };

struct model {
    enum has has[N_ACTORS];
    int queue[N_ACTORS];
    int n_queued;
};

static int model_count(const struct model *m, enum has has)
{
    int n = 0;

    for (int i = 0; i < N_ACTORS; i++)
        n += m->has[i] == has;
    return n;
}

static void model_leave_queue(struct model *m, int place)
{
    m->n_queued--;
    memmove(&m->queue[place], &m->queue[place + 1], sizeof(int) * (size_t)(m->n_queued - place));
}

static void model_serve(struct model *m)
{
    while (m->n_queued > 0 && model_count(m, WRITES) == 0) {
        int first = m->queue[0];

        if (m->has[first] == WAITS_TO_WRITE && model_count(m, READS) > 0)
            return;
        m->has[first] = m->has[first] == WAITS_TO_WRITE ? WRITES : READS;
        model_leave_queue(m, 0);
    }
}

static void model_wait(struct model *m, int id, enum has waits)
{
    m->has[id] = waits;
    m->queue[m->n_queued++] = id;
    model_serve(m);
}

static void model_set(struct model *m, int id, enum has has)
{
    m->has[id] = has;
    model_serve(m);
}

static void model_cancel(struct model *m, int id)
{
    int place = 0;

    while (m->queue[place] != id)
        place++;
    model_leave_queue(m, place);
    model_set(m, id, NOTHING);
}

/* One step of an actor, by what it has. */
static void step(struct chance *chance, struct model *m, struct actor *actor)
{
    bool coin = chance_below(chance, 2);

    switch (m->has[actor->id]) {
    case NOTHING:
        model_wait(m, actor->id, coin ? WAITS_TO_READ : WAITS_TO_WRITE);
        actor_do(actor, coin ? read_lock : write_lock);
        break;
    case READS:
        if (coin)
            model_set(m, actor->id, NOTHING);
        else
            model_wait(m, actor->id, WAITS_TO_WRITE);
        actor_do(actor, coin ? unlock : upgrade);
        break;
    case WRITES:
        model_set(m, actor->id, coin ? NOTHING : READS);
        actor_do(actor, coin ? unlock : downgrade);
        break;
    default:
        if (!coin)
            return;
        model_cancel(m, actor->id);
        actor_cancel(actor);
        assert_model(*chance, actor->result == -ECANCELED);
    }
}

static void check(const struct chance *chance, const struct model *m, const struct actor *actors)
{
    for (int i = 0; i < N_ACTORS; i++) {
        bool waits = m->has[i] == WAITS_TO_READ || m->has[i] == WAITS_TO_WRITE;

        assert_model(*chance, actors[i].is_busy == waits);
        assert_model(*chance, (lock.writer == actors[i].co) == (m->has[i] == WRITES));
    }
    int n_expected = model_count(m, WRITES) ? -1 : model_count(m, READS);
    assert_model(*chance, n_owners() == n_expected);
}

static void let_go(const struct chance *chance, struct model *m, struct actor *actors, int id)
{
    if (actors[id].is_busy) {
        model_cancel(m, id);
        actor_cancel(&actors[id]);
    } else if (m->has[id] != NOTHING) {
        model_set(m, id, NOTHING);
        actor_do(&actors[id], unlock);
    }
    check(chance, m, actors);
}

static void random_steps_end_as_the_reference_says(void **state)
{
    struct actor actors[N_ACTORS];

    for_seeds(chance, 30)
    {
        struct model m = {.n_queued = 0};

        co_rwlock_init(&lock);
        actors_start(actors, N_ACTORS);
        for (int i = 0; i < N_STEPS; i++) {
            step(&chance, &m, &actors[chance_below(&chance, N_ACTORS)]);
            check(&chance, &m, actors);
        }
        for (int i = 0; i < N_ACTORS; i++)
            let_go(&chance, &m, actors, i);
        actors_stop(actors, N_ACTORS);
        co_rwlock_deinit(&lock);
    }
}

/* ---- between threads ---- */

static struct {
    int n_readers;
    int n_writers;
    int n_wrong;
    uint64_t value; /* under the lock */
    int n_written;
} shared;

static void look_around(int n_readers_most, int n_writers_most)
{
    if (atomic_load_acquire(&shared.n_readers) > n_readers_most ||
        atomic_load_acquire(&shared.n_writers) > n_writers_most)
        atomic_add_seq(&shared.n_wrong, 1);
}

static void coroutine_fn write_once(struct chance *chance)
{
    atomic_add_seq(&shared.n_writers, 1);
    look_around(0, 1);
    shared.value++;
    if (chance_below(chance, 4) == 0)
        co_sleep_ns(0);
    atomic_add_seq(&shared.n_writers, -1);
    atomic_add_seq(&shared.n_written, 1);
}

static void coroutine_fn read_once(struct chance *chance)
{
    atomic_add_seq(&shared.n_readers, 1);
    uint64_t value = shared.value;
    if (chance_below(chance, 4) == 0)
        co_sleep_ns(0);
    look_around(N_THREADS * N_COROUTINES, 0);
    if (shared.value != value)
        atomic_add_seq(&shared.n_wrong, 1);
    atomic_add_seq(&shared.n_readers, -1);
}

static void coroutine_fn read_and_write(void *opaque)
{
    struct chance chance = {.state = (uint64_t)number() + 1};

    for (int i = 0; i < 150; i++) {
        CoScope scope;
        bool writes = chance_below(&chance, 3) == 0;

        co_scope_begin(&scope, NULL, aio_clock_ns() + (int64_t)chance_below(&chance, 100000));
        int r = writes ? co_rwlock_wrlock(&lock) : co_rwlock_rdlock(&lock);
        co_scope_end(&scope);
        if (r < 0)
            continue;
        if (writes)
            write_once(&chance);
        else
            read_once(&chance);
        if (!writes && chance_below(&chance, 4) == 0 && co_rwlock_upgrade(&lock) == 0)
            write_once(&chance);
        else if (writes && chance_below(&chance, 2) == 0)
            co_rwlock_downgrade(&lock);
        co_rwlock_unlock(&lock);
    }
    thread_done();
}

static void between_threads_a_writer_is_alone(void **state)
{
    memset(&shared, 0, sizeof shared);
    co_rwlock_init(&lock);
    run_in_threads(read_and_write, NULL);
    assert_int_equal(shared.n_wrong, 0);
    assert_int_equal(shared.value, shared.n_written);
    assert_int_equal(n_owners(), 0);
    co_rwlock_deinit(&lock);
}

/* ---- broken contracts ---- */

static void begin_with(struct actor *actor, ActorFunc *call)
{
    co_rwlock_init(&lock);
    actor_start(actor);
    if (call)
        actor_do(actor, call);
}

static void unlock_what_nobody_has(void)
{
    struct actor a;

    begin_with(&a, NULL);
    actor_do(&a, unlock);
}

static void unlock_what_another_writes(void)
{
    struct actor a[2];

    begin_with(&a[0], write_lock);
    actor_start(&a[1]);
    actor_do(&a[1], unlock);
}

static void write_twice(void)
{
    struct actor a;

    begin_with(&a, write_lock);
    actor_do(&a, write_lock);
}

static void upgrade_what_is_not_read(void)
{
    struct actor a;

    begin_with(&a, write_lock);
    actor_do(&a, upgrade);
}

static void downgrade_what_is_not_written(void)
{
    struct actor a;

    begin_with(&a, read_lock);
    actor_do(&a, downgrade);
}

static void end_with_it(void)
{
    struct actor a;

    begin_with(&a, read_lock);
    actor_stop(&a);
}

static void mistakes_with_a_rwlock_abort(void **state)
{
    assert_bug(unlock_what_nobody_has, "unlocks a CoRwlock that it does not hold");
    assert_bug(unlock_what_another_writes, "unlocks a CoRwlock that it does not hold");
    assert_bug(write_twice, "coroutine test waits in co_rwlock_wrlock for itself");
    assert_bug(upgrade_what_is_not_read, "upgrades a CoRwlock that it does not read");
    assert_bug(downgrade_what_is_not_written, "downgrades a CoRwlock that it does not write");
    assert_bug(end_with_it, "ended with 1 locks held");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest cases[] = {
        CASE(readers_share_it_and_a_writer_does_not),
        CASE(a_reader_queues_behind_a_writer_that_waits),
        CASE(an_upgrade_lets_who_came_before_write_first),
        CASE(two_readers_that_upgrade_write_one_after_the_other),
        CASE(a_downgrade_releases_all_queued_readers_up_to_the_next_writer),
        CASE(readers_behind_a_writer_that_gives_up_get_it),
        CASE(an_upgrade_that_gives_up_holds_nothing),
        CASE(an_unlock_before_any_access_of_who_comes_to_wait_lets_it_in),
        CASE(random_steps_end_as_the_reference_says),
        CASE(between_threads_a_writer_is_alone),
        CASE(mistakes_with_a_rwlock_abort),
    };

    take_arguments(argc, argv);
    return cmocka_run_group_tests(cases, NULL, NULL);
}
