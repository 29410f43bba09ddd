/* SPDX-License-Identifier: MIT */
/*
 * Shards are processes that do what the test says on the board: each has a few coroutines with a
 * word for its order and a word for what came of it.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_portable.h"
#include "runtime/co_sleep.h"
#include "shard/lock_inside.h"
#include "shard/serve.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_SHARDS    4
#define N_HANDS     4 /* coroutines a shard that take orders */
#define WORD_READY  (N_SHARDS * N_HANDS * 2)
#define WORD_INSIDE (WORD_READY + N_SHARDS)
#define WORD_ROUNDS (WORD_INSIDE + 1)
#define WORD_WRONG  (WORD_INSIDE + 2)
#define WORD_ENOUGH (WORD_INSIDE + 3)
#define WORD_FREED  (WORD_INSIDE + 5)

enum order { LOCK = 1, TRY, UNLOCK, CONSISTENT };

/* ---- shards that follow orders ---- */

struct hand {
    struct rig_end *end;
    uint32_t number;
    bool over;
};

static _Atomic uint64_t *order_word(struct rig *rig, uint32_t shard, uint32_t hand)
{
    return &rig->board->words[(shard * N_HANDS + hand) * 2];
}

static struct shard_mutex mutex_of(uint64_t order)
{
    return (struct shard_mutex){.id = 100 + (order >> 8 & 0xff), .home = order >> 16 & 0xff};
}

static int coroutine_fn follow(struct rig_end *end, uint64_t order)
{
    struct shard_mutex mutex = mutex_of(order);
    int64_t wait_ms = order >> 24 & 0xff;
    int64_t deadline_ns = wait_ms ? aio_clock_ns() + wait_ms * 1000000 : INT64_MAX;

    switch ((enum order)(order & 0xff)) {
    case LOCK:
        return shard_mutex_lock(end->mesh, &mutex, deadline_ns);
    case TRY:
        return shard_mutex_trylock(end->mesh, &mutex, deadline_ns);
    case UNLOCK:
        return shard_mutex_unlock(end->mesh, &mutex);
    case CONSISTENT:
        return shard_mutex_consistent(end->mesh, &mutex);
    }
    return -ENOSYS;
}

static void coroutine_fn hand_entry(void *opaque)
{
    struct hand *hand = opaque;
    struct rig *rig = hand->end->rig;
    _Atomic uint64_t *word = order_word(rig, hand->end->peer, hand->number);
    uint64_t seen = atomic_load(word);

    atomic_fetch_add(&rig->board->words[WORD_READY + hand->end->peer], 1);
    while (!atomic_load(&rig->board->leave)) {
        uint64_t order = atomic_load(word);
        if (order == seen) {
            co_sleep_ns(500000);
            continue;
        }
        seen = order;
        int r = follow(hand->end, order);
        atomic_store(word + 1, order >> 32 << 32 | (uint32_t)-r);
    }
    lock_drop_all(hand->end->mesh, coroutine_self());
    hand->over = true;
}

static bool hands_are_over(void *opaque)
{
    const struct hand *hands = opaque;
    uint32_t n = 0;

    for (uint32_t i = 0; i < N_HANDS; i++)
        n += hands[i].over;
    return n == N_HANDS;
}

static void obedient_body(struct rig_end *end)
{
    struct hand hands[N_HANDS];

    for (uint32_t i = 0; i < N_HANDS; i++) {
        hands[i] = (struct hand){.end = end, .number = i};
        aio_co_enter(end->ctx, coroutine_create(hand_entry, &hands[i]));
    }
    rig_poll_until(end, hands_are_over, hands);
}

/* ---- ordering ---- */

static void start_shard(struct rig *rig, uint32_t shard)
{
    uint64_t ready = atomic_load(&rig->board->words[WORD_READY + shard]);

    rig_fork(rig, shard, obedient_body);
    rig_wait_word(rig, WORD_READY + shard, ready + N_HANDS);
}

struct who {
    uint32_t shard;
    uint32_t hand;
};

static void order(
    struct rig *rig, struct who who, enum order what, uint32_t lock, uint32_t home, uint32_t ms)
{
    _Atomic uint64_t *word = order_word(rig, who.shard, who.hand);
    uint64_t number = (atomic_load(word) >> 32) + 1;

    atomic_store(word, number << 32 | (uint64_t)ms << 24 | home << 16 | lock << 8 | what);
}

static int outcome(struct rig *rig, struct who who)
{
    unsigned word = (who.shard * N_HANDS + who.hand) * 2;

    rig_wait_word(rig, word + 1, atomic_load(&rig->board->words[word]) >> 32 << 32);
    return -(int)(uint32_t)atomic_load(&rig->board->words[word + 1]);
}

static bool has_outcome(struct rig *rig, struct who who)
{
    unsigned word = (who.shard * N_HANDS + who.hand) * 2;

    return atomic_load(&rig->board->words[word]) >> 32 ==
           atomic_load(&rig->board->words[word + 1]) >> 32;
}

static int do_now(struct rig *rig, struct who who, enum order what, uint32_t lock, uint32_t home)
{
    order(rig, who, what, lock, home, 0);
    return outcome(rig, who);
}

/* Has someone of another shard ask for the lock, and waits until it stands in line. */
static void stand_in_line(
    struct rig *rig, struct who who, uint32_t lock, uint32_t home, uint32_t ms)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20) * 1000000000;
    uint64_t *started = &segment_pair(&rig->seg, home, who.shard)->calls_started;
    uint64_t before = atomic_load_acquire(started);

    order(rig, who, LOCK, lock, home, ms);
    while (atomic_load_acquire(started) == before && !has_outcome(rig, who)) {
        assert_true(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

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

static void open_shards(struct rig *rig)
{
    rig_open(rig, N_SHARDS, &lock_service);
    for (uint32_t shard = 0; shard < N_SHARDS; shard++)
        start_shard(rig, shard);
}

static const struct who a = {0, 0}, b = {1, 0}, b2 = {1, 1}, c = {2, 0}, at_home = {3, 0};
#define HOME 3

/* ---- cases ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_holds_and_the_next_gets_it_when_it_lets_go),
        cmocka_unit_test(misuse_is_told),
        cmocka_unit_test(who_asks_first_is_served_first),
        cmocka_unit_test(a_deadline_takes_the_waiter_out_of_the_line),
        cmocka_unit_test(a_dead_holders_lock_passes_on_marked_until_it_is_consistent),
        cmocka_unit_test(a_free_lock_stays_marked_when_its_home_dies),
        cmocka_unit_test(holders_and_waiters_outlive_the_home),
        cmocka_unit_test(a_dead_waiter_is_passed_over),
        cmocka_unit_test(holder_and_home_may_die_together),
        cmocka_unit_test(a_home_given_up_ends_every_wait),
        cmocka_unit_test(a_holder_lets_go_though_every_slot_is_held_by_one_that_waits_for_it),
        cmocka_unit_test(a_lock_that_a_method_leaves_behind_is_marked),
        cmocka_unit_test(a_method_locks_by_name_and_waits_no_longer_than_it_is_wanted),
        cmocka_unit_test(a_full_table_is_told_and_has_room_again),
        cmocka_unit_test(a_table_of_garbage_is_taken_over),
        cmocka_unit_test(a_lock_never_has_two_holders_whoever_dies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
