/* SPDX-License-Identifier: MIT */
/* Locks between shards of which some die: holder, waiter, home. */
#include "tests/unit/shard/lock_fixture.h"

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "nothing", .run = run_nothing, .help = "does nothing"}};

static const struct service lock_service = {
    .abi = SERVICE_ABI, .name = "locks", .help = "for tests", .methods = methods, .n_methods = 1};

static void a_dead_holders_lock_passes_on_marked_until_it_is_consistent(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    rig_kill(&rig, 0, false);
    assert_int_equal(outcome(&rig, b), -EOWNERDEAD);
    assert_int_equal(do_now(&rig, b, UNLOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, c, LOCK, 1, HOME), -EOWNERDEAD);
    assert_int_equal(do_now(&rig, c, CONSISTENT, 1, HOME), 0);
    assert_int_equal(do_now(&rig, c, CONSISTENT, 1, HOME), -EINVAL);
    assert_int_equal(do_now(&rig, c, UNLOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, b, LOCK, 1, HOME), 0);
    rig_close(&rig);
}

static void a_free_lock_stays_marked_when_its_home_dies(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    rig_kill(&rig, 0, false);
    assert_int_equal(do_now(&rig, b, LOCK, 1, HOME), -EOWNERDEAD);
    assert_int_equal(do_now(&rig, b, UNLOCK, 1, HOME), 0);
    rig_kill(&rig, HOME, false);
    start_shard(&rig, HOME);
    assert_int_equal(do_now(&rig, b, LOCK, 1, HOME), -EOWNERDEAD);
    rig_close(&rig);
}

static void holders_and_waiters_outlive_the_home(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, (struct who){0, 1}, LOCK, 2, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    stand_in_line(&rig, b2, 1, HOME, 40);
    rig_kill(&rig, HOME, false);
    assert_int_equal(outcome(&rig, b2), -ETIMEDOUT); /* with nobody there to be told */
    order(&rig, c, LOCK, 1, HOME, 0);
    assert_int_equal(do_now(&rig, (struct who){0, 1}, UNLOCK, 2, HOME), 0);
    start_shard(&rig, HOME);
    assert_int_equal(do_now(&rig, (struct who){0, 2}, TRY, 1, HOME), -EBUSY);
    assert_int_equal(do_now(&rig, (struct who){0, 2}, LOCK, 2, HOME), 0);
    assert_false(has_outcome(&rig, b));
    assert_false(has_outcome(&rig, c));
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    struct who first = c, second = b; /* whichever asked the replacement first */
    while (!has_outcome(&rig, b) && !has_outcome(&rig, c))
        sched_yield();
    if (has_outcome(&rig, b)) {
        first = b;
        second = c;
    }
    assert_int_equal(outcome(&rig, first), 0);
    assert_false(has_outcome(&rig, second));
    assert_int_equal(do_now(&rig, first, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, second), 0);
    rig_close(&rig);
}

static void a_dead_waiter_is_passed_over(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    stand_in_line(&rig, c, 1, HOME, 0);
    rig_kill(&rig, 1, false);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    int r = outcome(&rig, c);
    /* Where it was granted before its death was judged, it died with it. */
    assert_true(r == 0 || r == -EOWNERDEAD);
    rig_close(&rig);
}

static void holder_and_home_may_die_together(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, at_home, LOCK, 2, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    stand_in_line(&rig, c, 2, HOME, 0);
    rig_kill(&rig, HOME, false);
    rig_kill(&rig, 0, false);
    start_shard(&rig, 0);
    start_shard(&rig, HOME);
    assert_int_equal(outcome(&rig, b), -EOWNERDEAD);
    assert_int_equal(outcome(&rig, c), -EOWNERDEAD);
    rig_close(&rig);
}

static void a_home_given_up_ends_every_wait(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    rig_kill(&rig, HOME, false);
    order(&rig, c, LOCK, 1, HOME, 0);
    rig_bury(&rig, HOME, true);
    assert_int_equal(outcome(&rig, b), -EHOSTDOWN);
    assert_int_equal(outcome(&rig, c), -EHOSTDOWN);
    assert_int_equal(do_now(&rig, b2, LOCK, 1, HOME), -EHOSTDOWN);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    rig_close(&rig);
}

/* Which methods wait for what others hold, so that it could not finish else. */
static void a_home_that_is_to_be_restarted_still_hears_of_locks(void **state)
{
    struct peer_control *control;
    struct rig rig;

    (void)state;
    open_shards(&rig);
    control = segment_control(&rig.seg, HOME);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    order(&rig, at_home, LOCK, 1, HOME, 0);
    atomic_store_release(&control->state, PEER_RESTARTING);
    assert_int_equal(do_now(&rig, c, LOCK, 2, HOME), 0);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, at_home), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    rig_kill(&rig, HOME, false); /* it has left */
    atomic_store_release(&control->state, PEER_UP);
    start_shard(&rig, HOME);
    assert_int_equal(outcome(&rig, b), -EOWNERDEAD);
    assert_int_equal(do_now(&rig, c, UNLOCK, 2, HOME), 0);
    rig_close(&rig);
}

static void a_table_of_garbage_is_taken_over(void **state)
{
    struct rig rig;
    struct lock_record *records;
    uint64_t seed = 88172645463325252u;

    (void)state;
    open_shards(&rig);
    rig_kill(&rig, HOME, false);
    records = segment_locks(&rig.seg, HOME);
    for (uint64_t *at = (uint64_t *)records; at < (uint64_t *)(records + SEGMENT_LOCKS); at++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        *at = seed;
    }
    for (uint32_t i = 0; i < 8; i++) /* the same lock, held by one far away and by the living */
        records[i] = (struct lock_record){.word = LOCK_USED | LOCK_HELD,
            .id = 101,
            .holders[0] = {.peer = i % 2 ? UINT32_MAX : 1, .incarnation = 9}};
    start_shard(&rig, HOME);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), -EOWNERDEAD);
    assert_int_equal(do_now(&rig, a, CONSISTENT, 1, HOME), 0);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, b, LOCK, 1, HOME), 0);
    rig_close(&rig);
}

/* ---- never two ---- */

struct round_maker {
    struct rig_end *end;
    uint64_t rounds;
    bool over;
};

/* The word inside names who is in; one who died in there left it, which the next is told. */
static void coroutine_fn rounds_entry(void *opaque)
{
    struct round_maker *maker = opaque;
    struct rig_board *board = maker->end->rig->board;
    struct mesh *mesh = maker->end->mesh;
    const struct shard_mutex mutex = {.id = 1, .home = HOME};
    uint64_t self = (uint64_t)(uintptr_t)maker << 8 | (maker->end->peer + 1);

    while (atomic_load(&board->words[WORD_ROUNDS]) < atomic_load(&board->words[WORD_ENOUGH])) {
        int r = shard_mutex_lock(mesh, &mutex, INT64_MAX);
        uint64_t other = atomic_exchange(&board->words[WORD_INSIDE], self);
        if ((r != 0 && r != -EOWNERDEAD) || (r == 0 && other))
            atomic_fetch_add(&board->words[WORD_WRONG], 1);
        if (r == -EOWNERDEAD)
            shard_mutex_consistent(mesh, &mutex);
        uint64_t rounds = atomic_load(&board->words[WORD_ROUNDS]);
        if (rounds % 3 == 0)
            co_sleep_ns(1000);
        atomic_store(&board->words[WORD_ROUNDS], rounds + 1); /* no addition: alone in here */
        if (atomic_exchange(&board->words[WORD_INSIDE], 0) != self)
            atomic_fetch_add(&board->words[WORD_WRONG], 1);
        shard_mutex_unlock(mesh, &mutex);
    }
    maker->over = true;
}

static bool makers_are_over(void *opaque)
{
    const struct round_maker *makers = opaque;

    return makers[0].over && makers[1].over;
}

/* A wait for many rounds is many waits for a few. */
static bool it_goes_on(void *opaque)
{
    struct round_maker *makers = opaque;
    uint64_t rounds = atomic_load(&makers->end->rig->board->words[WORD_ROUNDS]);

    return makers_are_over(makers) || rounds >= makers->rounds + 1000;
}

static void rounds_body(struct rig_end *end)
{
    struct round_maker makers[2] = {{.end = end}, {.end = end}};

    for (int i = 0; i < 2; i++)
        aio_co_enter(end->ctx, coroutine_create(rounds_entry, &makers[i]));
    while (!makers_are_over(makers)) {
        makers->rounds = atomic_load(&end->rig->board->words[WORD_ROUNDS]);
        rig_poll_until(end, it_goes_on, makers);
    }
    rig_serve(end);
}

/* SHERD_LOCK_ROUNDS: how many rounds, 3,000 where it is not set. */
static uint64_t rounds_wanted(void)
{
    const char *text = getenv("SHERD_LOCK_ROUNDS");

    return text ? strtoull(text, NULL, 10) : 3000;
}

static void a_lock_never_has_two_holders_whoever_dies(void **state)
{
    struct rig rig;
    uint64_t n = rounds_wanted(), rounds = 0;
    uint32_t victim = 0;

    (void)state;
    rig_open(&rig, N_SHARDS, &lock_service);
    atomic_store(&rig.board->words[WORD_ENOUGH], n);
    for (uint32_t shard = 0; shard < N_SHARDS; shard++)
        rig_fork(&rig, shard, rounds_body);
    for (uint32_t deaths = 1; deaths <= 40; deaths++) {
        rounds += n / 41;
        rig_wait_word(&rig, WORD_ROUNDS, rounds);
        victim = deaths % 3 ? (victim + 1) % N_SHARDS : HOME;
        rig_kill(&rig, victim, false);
        if (deaths % 8 == 0) {
            uint32_t second = (victim + 1) % N_SHARDS;
            rig_kill(&rig, second, false);
            rig_fork(&rig, second, rounds_body);
        }
        rig_fork(&rig, victim, rounds_body);
    }
    rig_wait_word(&rig, WORD_ROUNDS, n);
    assert_int_equal(atomic_load(&rig.board->words[WORD_WRONG]), 0);
    rig_close(&rig);
}

/* ---- judged late ---- */

static int ask_home(struct lock_home *home, uint32_t from, uint32_t incarnation, enum lock_op op)
{
    return lock_home_serve(
        home, from, &(struct lock_args){.id = 1, .token = 1, .op = op, .incarnation = incarnation});
}

static void what_a_replacement_asked_before_its_predecessor_was_judged_is_its_own(void **state)
{
    struct lock_home *home;
    struct rig_end end;
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &rig_nothing);
    rig_begin(&rig, 0, &end);
    assert_int_equal(lock_home_new(end.mesh, &home), 0);
    segment_control(&rig.seg, 1)->incarnation = 3;
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_ACQUIRE), LOCK_GRANTED);
    lock_home_judge(home, 1, 2, false); /* seen before 3 was born */
    lock_home_judge(home, 1, 2, true);
    lock_home_judge(home, 1, 3, false);
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_ACQUIRE), LOCK_GRANTED);
    lock_home_judge(home, 1, 3, true);
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_TRY), LOCK_GRANTED_MARKED);
    lock_home_judge(home, 1, 4, false);
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_RELEASE), LOCK_RELEASED);
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_TRY), LOCK_GRANTED_MARKED);
    assert_int_equal(ask_home(home, 1, 3, LOCK_OP_RELEASE_WHOLE), LOCK_RELEASED);
    lock_home_free(home);
    rig_finish(&end);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_holders_lock_passes_on_marked_until_it_is_consistent),
        cmocka_unit_test(a_free_lock_stays_marked_when_its_home_dies),
        cmocka_unit_test(holders_and_waiters_outlive_the_home),
        cmocka_unit_test(a_dead_waiter_is_passed_over),
        cmocka_unit_test(holder_and_home_may_die_together),
        cmocka_unit_test(a_home_given_up_ends_every_wait),
        cmocka_unit_test(a_home_that_is_to_be_restarted_still_hears_of_locks),
        cmocka_unit_test(a_table_of_garbage_is_taken_over),
        cmocka_unit_test(a_lock_never_has_two_holders_whoever_dies),
        cmocka_unit_test(what_a_replacement_asked_before_its_predecessor_was_judged_is_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
