/* SPDX-License-Identifier: MIT */
/* Locks between shards that live: order, deadlines, misuse, and what methods do with them. */
#include "tests/unit/shard/lock_fixture.h"

static int coroutine_fn run_lock_and_leave(struct service_call *call);
static int coroutine_fn run_lock_and_unlock(struct service_call *call);
static int coroutine_fn run_by_name(struct service_call *call);

enum { M_LOCK_AND_LEAVE, M_LOCK_AND_UNLOCK, M_BY_NAME, M_COUNT };

static const struct service_method methods[] = {
    [M_LOCK_AND_LEAVE] = {.name = "leave", .run = run_lock_and_leave, .help = "keeps a lock"},
    [M_LOCK_AND_UNLOCK] = {.name = "both", .run = run_lock_and_unlock, .help = "locks, unlocks"},
    [M_BY_NAME] = {.name = "name", .run = run_by_name, .help = "locks by name"},
};

static const struct service lock_service = {.abi = SERVICE_ABI,
    .name = "locks",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

/* ---- orders ---- */

static void one_holds_and_the_next_gets_it_when_it_lets_go(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, b, TRY, 1, HOME), -EBUSY);
    assert_int_equal(do_now(&rig, at_home, TRY, 1, HOME), -EBUSY);
    assert_int_equal(do_now(&rig, c, LOCK, 2, HOME), 0); /* another lock */
    stand_in_line(&rig, b, 1, HOME, 0);
    assert_false(has_outcome(&rig, b));
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, b), 0);
    order(&rig, at_home, LOCK, 1, HOME, 0);
    assert_int_equal(do_now(&rig, b, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, at_home), 0);
    stand_in_line(&rig, b, 1, HOME, 0);
    assert_int_equal(do_now(&rig, at_home, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, b), 0);
    rig_close(&rig);
}

static void misuse_is_told(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), -EPERM);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), -EDEADLK);
    assert_int_equal(do_now(&rig, a, CONSISTENT, 1, HOME), -EINVAL);
    assert_int_equal(do_now(&rig, (struct who){0, 1}, UNLOCK, 1, HOME), -EPERM);
    assert_int_equal(do_now(&rig, b, CONSISTENT, 1, HOME), -EPERM);
    assert_int_equal(do_now(&rig, a, LOCK, 1, 77), -ENODEV);
    rig_close(&rig);
}

static void who_asks_first_is_served_first(void **state)
{
    const struct who line[] = {{1, 0}, {2, 0}, {1, 1}, {0, 1}, {2, 1}, {0, 2}};
    size_t n = sizeof(line) / sizeof(line[0]);
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    for (size_t i = 0; i < n; i++)
        stand_in_line(&rig, line[i], 1, HOME, 0);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(outcome(&rig, line[i]), 0);
        for (size_t after = i + 1; after < n; after++)
            assert_false(has_outcome(&rig, line[after]));
        assert_int_equal(do_now(&rig, line[i], UNLOCK, 1, HOME), 0);
    }
    rig_close(&rig);
}

static void a_deadline_takes_the_waiter_out_of_the_line(void **state)
{
    struct rig rig;

    (void)state;
    open_shards(&rig);
    assert_int_equal(do_now(&rig, a, LOCK, 1, HOME), 0);
    stand_in_line(&rig, b, 1, HOME, 20);
    stand_in_line(&rig, c, 1, HOME, 0);
    assert_int_equal(outcome(&rig, b), -ETIMEDOUT);
    assert_int_equal(do_now(&rig, b, UNLOCK, 1, HOME), -EPERM);
    assert_int_equal(do_now(&rig, a, UNLOCK, 1, HOME), 0);
    assert_int_equal(outcome(&rig, c), 0);
    assert_int_equal(do_now(&rig, c, UNLOCK, 1, HOME), 0);
    assert_int_equal(do_now(&rig, b, LOCK, 1, HOME), 0);
    rig_close(&rig);
}

/* ---- served calls ---- */

static const struct shard_mutex served_mutex = {.id = 5, .home = 1};

static int coroutine_fn run_lock_and_leave(struct service_call *call)
{
    int r = shard_mutex_lock(call->mesh, &served_mutex, INT64_MAX);

    return service_reply(call, &r, sizeof(r));
}

static int coroutine_fn run_lock_and_unlock(struct service_call *call)
{
    int r = shard_mutex_lock(call->mesh, &served_mutex, INT64_MAX);

    if (r == 0)
        r = shard_mutex_unlock(call->mesh, &served_mutex);
    return r;
}

static struct rig *rig_of_test; /* for methods, which run in children of the test */

static int coroutine_fn run_by_name(struct service_call *call)
{
    int r = service_lock(call, "it");

    atomic_store(&rig_of_test->board->words[WORD_WRONG], (uint64_t)-r);
    if (r < 0)
        return r;
    if (service_lock(call, "it") != -EDEADLK || service_trylock(call, "it") != -EDEADLK ||
        service_lock_consistent(call, "it") != -EINVAL || service_unlock(call, "other") != -EPERM)
        return -EIO;
    return service_unlock(call, "it");
}

struct crowd {
    struct rig_end *end;
    struct mesh_call *calls;
    uint32_t n_calls, n_ended;
    bool over;
};

static struct crowd *crowd_of_end; /* of this process, which has one */

static void on_served(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    crowd_of_end->n_ended += answer->end == CALL_END_DONE;
}

static void coroutine_fn crowd_entry(void *opaque)
{
    struct crowd *crowd = opaque;
    struct mesh *mesh = crowd->end->mesh;
    struct rig *rig = crowd->end->rig;

    assert_int_equal(shard_mutex_lock(mesh, &served_mutex, INT64_MAX), 0);
    for (uint32_t i = 0; i < crowd->n_calls; i++) {
        crowd->calls[i] = (struct mesh_call){
            .target = 1, .method = M_LOCK_AND_UNLOCK, .deadline_ns = INT64_MAX, .done = on_served};
        assert_int_equal(mesh_call_start(mesh, &crowd->calls[i]), 0);
    }
    while (atomic_load_acquire(&segment_pair(&rig->seg, 0, 1)->slot_waits) == 0 ||
           atomic_load_acquire(&segment_pair(&rig->seg, 1, 0)->calls_started) < 8)
        co_sleep_ns(1000000);
    assert_int_equal(shard_mutex_unlock(mesh, &served_mutex), 0);
    while (crowd->n_ended < crowd->n_calls)
        co_sleep_ns(1000000);
    crowd->over = true;
}

static bool crowd_is_over(void *opaque)
{
    return ((struct crowd *)opaque)->over;
}

static void crowded_body(struct rig_end *end)
{
    struct crowd crowd = {.end = end, .n_calls = segment_call_slots(&end->rig->seg, 0, 1) + 8};

    crowd.calls = calloc(crowd.n_calls, sizeof(crowd.calls[0]));
    crowd_of_end = &crowd;
    aio_co_enter(end->ctx, coroutine_create(crowd_entry, &crowd));
    rig_poll_until(end, crowd_is_over, &crowd);
    free(crowd.calls);
    atomic_store(&end->rig->board->words[WORD_FREED], 1);
}

static void a_holder_lets_go_though_every_slot_is_held_by_one_that_waits_for_it(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &lock_service);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, crowded_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_FREED]), 1);
    rig_close(&rig);
}

static void coroutine_fn leaving_entry(void *opaque)
{
    struct crowd *crowd = opaque;
    struct mesh *mesh = crowd->end->mesh;
    const int expected[] = {0, -EOWNERDEAD};

    for (int i = 0; i < 2; i++) {
        struct call_answer answer;
        assert_int_equal(shard_call(mesh,
                             &(struct call_request){
                                 .target = 1, .method = M_LOCK_AND_LEAVE, .deadline_ns = INT64_MAX},
                             &answer),
            0);
        assert_int_equal(*(int *)answer.data, expected[i]);
        call_answer_deinit(&answer);
    }
    assert_int_equal(shard_mutex_lock(mesh, &served_mutex, INT64_MAX), -EOWNERDEAD);
    assert_true(shard_mutex_is_held_by(mesh, coroutine_self()));
    assert_int_equal(shard_mutex_unlock(mesh, &served_mutex), 0);
    assert_false(shard_mutex_is_held_by(mesh, coroutine_self()));
    crowd->over = true;
}

static void leaving_body(struct rig_end *end)
{
    struct crowd crowd = {.end = end};

    aio_co_enter(end->ctx, coroutine_create(leaving_entry, &crowd));
    rig_poll_until(end, crowd_is_over, &crowd);
    atomic_store(&end->rig->board->words[WORD_FREED], 1);
}

static void a_lock_that_a_method_leaves_behind_is_marked(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &lock_service);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, leaving_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_FREED]), 1);
    rig_close(&rig);
}

static void on_cancelled(struct mesh_call *call, const struct mesh_answer *answer)
{
    (void)call;
    assert_int_equal(answer->end, CALL_END_CANCELLED);
    crowd_of_end->n_ended++;
}

static void coroutine_fn cancelling_entry(void *opaque)
{
    struct crowd *crowd = opaque;
    struct mesh *mesh = crowd->end->mesh;
    struct rig *rig = crowd->end->rig;
    struct shard_mutex it = shard_mutex_named(mesh, "it", 2);
    struct mesh_call waits = {
        .target = 1, .method = M_BY_NAME, .deadline_ns = INT64_MAX, .done = on_cancelled};
    struct call_answer answer;
    const char *why = "";

    assert_int_equal(shard_mutex_lock(mesh, &it, INT64_MAX), 0);
    assert_int_equal(co_portable_check(&why), -EBUSY);
    assert_string_equal(why, "a lock between shards");
    assert_int_equal(mesh_call_start(mesh, &waits), 0);
    while (atomic_load_acquire(&segment_pair(&rig->seg, 1, 0)->calls_started) == 0)
        co_sleep_ns(1000000);
    mesh_call_cancel(mesh, &waits);
    while (atomic_load(&rig->board->words[WORD_WRONG]) != ECANCELED)
        co_sleep_ns(1000000);
    assert_int_equal(shard_mutex_unlock(mesh, &it), 0);
    assert_int_equal(
        shard_call(mesh,
            &(struct call_request){.target = 1, .method = M_BY_NAME, .deadline_ns = INT64_MAX},
            &answer),
        0);
    call_answer_deinit(&answer);
    crowd->over = crowd->n_ended == 1;
}

static void cancelling_body(struct rig_end *end)
{
    struct crowd crowd = {.end = end};

    crowd_of_end = &crowd;
    aio_co_enter(end->ctx, coroutine_create(cancelling_entry, &crowd));
    rig_poll_until(end, crowd_is_over, &crowd);
    atomic_store(&end->rig->board->words[WORD_FREED], 1);
}

static void a_method_locks_by_name_and_waits_no_longer_than_it_is_wanted(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &lock_service);
    rig_of_test = &rig;
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, cancelling_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_FREED]), 1);
    rig_close(&rig);
}

/* ---- the table ---- */

static void coroutine_fn hoarding_entry(void *opaque)
{
    struct crowd *crowd = opaque;
    struct mesh *mesh = crowd->end->mesh;

    for (uint32_t i = 0; i < SEGMENT_LOCKS; i++)
        assert_int_equal(
            shard_mutex_lock(mesh, &(struct shard_mutex){.id = i, .home = 1}, INT64_MAX), 0);
    assert_int_equal(
        shard_mutex_lock(mesh, &(struct shard_mutex){.id = SEGMENT_LOCKS, .home = 1}, INT64_MAX),
        -ENOSPC);
    assert_int_equal(shard_mutex_unlock(mesh, &(struct shard_mutex){.id = 7, .home = 1}), 0);
    assert_int_equal(
        shard_mutex_lock(mesh, &(struct shard_mutex){.id = SEGMENT_LOCKS, .home = 1}, INT64_MAX),
        0);
    lock_drop_all(mesh, coroutine_self());
    crowd->over = true;
}

static void hoarding_body(struct rig_end *end)
{
    struct crowd crowd = {.end = end};

    aio_co_enter(end->ctx, coroutine_create(hoarding_entry, &crowd));
    rig_poll_until(end, crowd_is_over, &crowd);
    atomic_store(&end->rig->board->words[WORD_FREED], 1);
}

static void a_full_table_is_told_and_has_room_again(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 2, &lock_service);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, hoarding_body);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_FREED]), 1);
    rig_close(&rig);
}

/* As shard 1 asks the home, which is this process; each time for another lock. */
static void as_many_stand_in_line_as_may_and_no_more(void **state)
{
    struct lock_args ask = {.op = LOCK_OP_ACQUIRE, .incarnation = 1};
    uint32_t n_granted = 0, n_in_line = 0;
    struct lock_home *home;
    struct rig_end end;
    struct rig rig;
    int r;

    (void)state;
    rig_open(&rig, 2, &lock_service);
    rig_begin(&rig, 0, &end);
    assert_int_equal(lock_home_new(end.mesh, &home), 0);
    do {
        ask.token++;
        ask.id = ask.token % SEGMENT_LOCKS;
        r = lock_home_serve(home, 1, &ask);
        n_granted += r == LOCK_GRANTED;
        n_in_line += r == LOCK_IN_LINE;
    } while (r >= 0);
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(n_granted, SEGMENT_LOCKS);
    assert_int_equal(n_in_line, LOCK_WAITERS_MAX);
    ask.op = LOCK_OP_RELEASE;
    ask.token = SEGMENT_LOCKS + 5; /* that stands in line */
    ask.id = 5;
    assert_int_equal(lock_home_serve(home, 1, &ask), LOCK_RELEASED);
    ask.op = LOCK_OP_ACQUIRE;
    assert_int_equal(lock_home_serve(home, 1, &ask), LOCK_IN_LINE);
    lock_home_judge(home, 1, 2, false); /* so that nobody holds any */
    lock_home_free(home);
    rig_finish(&end);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_holds_and_the_next_gets_it_when_it_lets_go),
        cmocka_unit_test(misuse_is_told),
        cmocka_unit_test(who_asks_first_is_served_first),
        cmocka_unit_test(a_deadline_takes_the_waiter_out_of_the_line),
        cmocka_unit_test(a_holder_lets_go_though_every_slot_is_held_by_one_that_waits_for_it),
        cmocka_unit_test(a_lock_that_a_method_leaves_behind_is_marked),
        cmocka_unit_test(a_method_locks_by_name_and_waits_no_longer_than_it_is_wanted),
        cmocka_unit_test(a_full_table_is_told_and_has_room_again),
        cmocka_unit_test(as_many_stand_in_line_as_may_and_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
