/* SPDX-License-Identifier: MIT */
/* What a shard's replacement makes of what the dead one had under way for its clients. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/blame.h"
#include "tests/unit/plane/plane_rig.h"

#define DEADLINE_NS (INT64_C(60) * 1000000000)

enum {
    ECHO,
    DIE,
    ROOM,
    ROOM_ONCE,
    NAP,
    DIE_ONCE,
    DIE_LATER,
    ASK_TO_DIE,
    DIE_LATER_AGAIN,
    SENT,
    SENT_ONCE
};

/* Words of the board. */
enum { OPENED, STARTED, MAY_DIE };

static struct rig rig;
static struct client one, other;
static bool opens_one = true; /* else its end came while nobody lived */

static int coroutine_fn run_echo(struct service_call *call)
{
    return service_reply(call, "echo", 4);
}

static int coroutine_fn run_die(struct service_call *call)
{
    (void)call;
    kill(getpid(), SIGKILL);
    return 0;
}

/* As if a disk were writing into it. */
static int coroutine_fn run_room(struct service_call *call)
{
    void *room;
    int r = service_reply_room(call, 4096, &room);

    if (r < 0)
        return r;
    if (atomic_fetch_add(&rig.board->words[STARTED], 1) == 0)
        return service_sleep_ns(call, INT64_MAX);
    memset(room, 'r', 4096);
    return service_reply_done(call, 4096);
}

/* As if a disk were reading what the arguments are. */
static int coroutine_fn run_sent(struct service_call *call)
{
    if (atomic_fetch_add(&rig.board->words[STARTED], 1) == 0)
        return service_sleep_ns(call, INT64_MAX);
    return 0;
}

static int coroutine_fn run_nap(struct service_call *call)
{
    atomic_fetch_add(&rig.board->words[STARTED], 1);
    return service_sleep_ns(call, INT64_MAX);
}

/* On the CPU all the time. */
static int coroutine_fn run_die_later(struct service_call *call)
{
    atomic_fetch_add(&rig.board->words[STARTED], 1);
    while (!atomic_load(&rig.board->words[MAY_DIE]))
        sched_yield();
    return run_die(call);
}

static int coroutine_fn run_ask_to_die(struct service_call *call)
{
    void *data;
    size_t len;

    return service_call_shard(call, 1, "test.die_once", NULL, 0, &data, &len);
}

static const struct service_method methods[] = {
    [ECHO] = {"echo", run_echo, SERVICE_IDEMPOTENT, ""},
    [DIE] = {"die", run_die, SERVICE_IDEMPOTENT, ""},
    [ROOM] = {"room", run_room, SERVICE_IDEMPOTENT, ""},
    [ROOM_ONCE] = {"room_once", run_room, 0, ""},
    [NAP] = {"nap", run_nap, SERVICE_IDEMPOTENT, ""},
    [DIE_ONCE] = {"die_once", run_die, 0, ""},
    [DIE_LATER] = {"die_later", run_die_later, 0, ""},
    [ASK_TO_DIE] = {"ask_to_die", run_ask_to_die, 0, ""},
    [DIE_LATER_AGAIN] = {"die_later_again", run_die_later, SERVICE_IDEMPOTENT, ""},
    [SENT] = {"sent", run_sent, SERVICE_IDEMPOTENT | SERVICE_IN_PLACE, ""},
    [SENT_ONCE] = {"sent_once", run_sent, SERVICE_IN_PLACE, ""},
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = SENT_ONCE + 1};

static void serve(struct rig_end *end)
{
    struct plane *plane = plane_rig_new(end);

    if ((opens_one && client_open(&one, plane) < 0) || client_open(&other, plane) < 0)
        _exit(2);
    plane_recover(plane);
    atomic_store(&rig.board->words[OPENED], 1);
    rig_serve(end);
    _exit(0);
}

static void start(void)
{
    atomic_store(&rig.board->words[OPENED], 0);
    rig_fork(&rig, 0, serve);
    rig_wait_word(&rig, OPENED, 1);
}

static int set_up_shards(uint32_t n_shards)
{
    rig_open(&rig, n_shards, &service);
    client_make(&one, &rig, 0, 1, 16, 65536);
    client_make(&other, &rig, 0, 2, 16, 65536);
    opens_one = true;
    start();
    if (n_shards > 1)
        rig_fork(&rig, 1, rig_serve);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return set_up_shards(1);
}

static int set_up_two(void **state)
{
    (void)state;
    return set_up_shards(2);
}

static int tear_down(void **state)
{
    (void)state;
    rig_close(&rig);
    client_free(&one);
    client_free(&other);
    return 0;
}

static struct plane_completion await(struct client *client)
{
    int64_t until_ns = aio_clock_ns() + DEADLINE_NS;
    struct plane_completion c;

    while (!client_pop(client, &c)) {
        assert_true(aio_clock_ns() < until_ns);
        sched_yield();
    }
    return c;
}

/* With memory that a disk is then at, which a method takes where it lies. */
static void call_with_memory(uint32_t method)
{
    struct plane_submission *entry = client_next(&one);

    entry->method = (uint16_t)method;
    if (method == SENT || method == SENT_ONCE) {
        entry->args_off = 8192;
        entry->args_len = 4096;
    } else {
        entry->room_off = 4096;
        entry->room_len = 4096;
    }
    client_push(&one);
}

static const struct client_lane *row_of(const struct client *client)
{
    return segment_client_lane(&rig.seg, 0, client->grant.client);
}

/* ---- cases ---- */

static void no_end_is_told_before_the_dead_ones_io_is_over(void **state)
{
    static const struct {
        uint32_t method, end;
    } cases[] = {{ROOM, CALL_END_DONE}, {ROOM_ONCE, CALL_END_IN_DOUBT}, {SENT, CALL_END_DONE},
        {SENT_ONCE, CALL_END_IN_DOUBT}};
    struct plane_completion c;

    (void)state;
    for (int i = 0; i < 4; i++) {
        atomic_store(&rig.board->words[STARTED], 0);
        call_with_memory(cases[i].method);
        rig_wait_word(&rig, STARTED, 1);
        rig_kill(&rig, 0, false);
        start();
        client_call(&one, ECHO);
        c = await(&one);
        assert_int_equal(c.end, CALL_END_DONE); /* the one that came later goes first */
        assert_int_equal(c.len, 4);
        assert_false(client_pop(&one, &c));
        rig_quiet(&rig, 0);
        c = await(&one);
        assert_int_equal(c.end, cases[i].end);
        assert_int_equal(c.error, cases[i].end == CALL_END_DONE ? 0 : -EOWNERDEAD);
    }
}

static uint32_t crashes_of(const struct client *client)
{
    return blame_crashes(&rig.seg, origin_of_client(0, client->grant.client, 1));
}

/* Nobody waits for the crashes so far. */
static void forgive(void)
{
    for (uint32_t i = 0; i < SEGMENT_CLIENT_USERS; i++)
        segment_client_users(&rig.seg)[i].until_ns = 0;
}

static void crash_shard_0(void)
{
    rig_join(&rig, 0);
    rig_note_crash(&rig, 0);
    forgive();
    rig_bury(&rig, 0, false);
    start();
}

static void await_cut(const struct client *client)
{
    int64_t until_ns = aio_clock_ns() + DEADLINE_NS;

    while (atomic_load_acquire(&segment_part(&rig.seg, 0)->clients_cut) == 0) {
        assert_true(aio_clock_ns() < until_ns);
        sched_yield();
    }
    assert_int_equal(segment_part(&rig.seg, 0)->clients_cut, 1);
    assert_int_equal(row_of(client)->state, CLIENT_LANE_CUT);
    assert_int_equal(row_of(client)->reason, CUT_POISON);
}

static void who_crashes_three_shards_is_cut_off_and_another_is_served(void **state)
{
    struct plane_completion c;

    (void)state;
    client_call(&one, DIE);
    for (uint32_t crash = 1; crash <= 3; crash++) {
        crash_shard_0();
        client_call(&other, ECHO);
        assert_int_equal(crashes_of(&one), crash);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(await(&other).end, CALL_END_DONE);
    await_cut(&one);
    c = await(&one); /* which it was told before */
    assert_int_equal(c.end, CALL_END_FAILED);
    assert_int_equal(c.error, -ENOTRECOVERABLE);
    assert_int_equal(segment_part(&rig.seg, 0)->n_poisoned, 1);
    assert_int_equal(row_of(&other)->state, CLIENT_LANE_OPEN);
}

/* Each heir is another process, and one was killed between two crashes. */
static void a_third_crash_is_told_from_a_second_whoever_dies_between(void **state)
{
    const struct crash_note *notes = segment_crash_notes(&rig.seg, 0);

    (void)state;
    atomic_store(&rig.board->words[MAY_DIE], 0);
    client_call(&one, DIE_LATER_AGAIN);
    for (uint32_t crash = 1; crash <= 3; crash++) {
        rig_wait_word(&rig, STARTED, 2 * crash - 1);
        rig_kill(&rig, 0, false); /* no crash */
        start();
        rig_wait_word(&rig, STARTED, 2 * crash);
        assert_int_equal(notes[0].n, crash - 1);
        atomic_store(&rig.board->words[MAY_DIE], 1);
        rig_join(&rig, 0);
        atomic_store(&rig.board->words[MAY_DIE], 0);
        rig_note_crash(&rig, 0);
        forgive();
        rig_bury(&rig, 0, false);
        start();
    }
    assert_int_equal(await(&one).error, -ENOTRECOVERABLE);
    assert_int_equal(notes[0].n, 3);
    assert_int_equal(notes[0].incarnations[1] - notes[0].incarnations[0], 2);
    assert_int_equal(atomic_load(&rig.board->words[STARTED]), 6);
    await_cut(&one);
}

static void what_it_has_under_way_delays_the_cut_for_a_moment_alone(void **state)
{
    (void)state;
    client_call(&one, DIE);
    for (uint32_t crash = 1; crash <= 2; crash++)
        crash_shard_0();
    rig_join(&rig, 0);
    client_call(&one, NAP); /* nobody begins it any more */
    rig_note_crash(&rig, 0);
    forgive();
    rig_bury(&rig, 0, false);
    start();
    await_cut(&one);
    assert_int_equal(atomic_load(&rig.board->words[STARTED]), 0);
}

static void nothing_of_a_user_is_begun_before_its_wait_is_over(void **state)
{
    struct client_user *users = segment_client_users(&rig.seg);
    uint32_t one_uid = segment_client(&rig.seg, one.grant.client)->uid;
    struct plane_submission *entry;
    struct plane_completion c;

    (void)state;
    client_call(&one, NAP); /* idempotent: begun again */
    rig_wait_word(&rig, STARTED, 1);
    client_call(&one, DIE_ONCE);
    rig_join(&rig, 0);
    rig_note_crash(&rig, 0);
    assert_int_equal(users[0].uid, one_uid);
    users[0].until_ns = INT64_MAX / 2;
    rig_bury(&rig, 0, false);
    start();
    assert_int_equal(await(&one).end, CALL_END_IN_DOUBT); /* that which crashed it */
    entry = client_next(&one);
    entry->method = ECHO;
    entry->flags = PLANE_ARGS_INLINE | PLANE_REFUSE;
    client_push(&one);
    c = await(&one);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -EAGAIN);
    assert_true(c.retry_us > 1000000);
    client_call(&other, ECHO); /* another user's */
    assert_int_equal(await(&other).end, CALL_END_DONE);
    client_call(&one, ECHO); /* waits in the ring, as it did not ask to be refused */
    client_call(&other, ECHO);
    assert_int_equal(await(&other).end, CALL_END_DONE);
    assert_false(client_pop(&one, &c));
    assert_int_equal(atomic_load(&rig.board->words[STARTED]), 1);
    rig_kill(&rig, 0, false); /* the wait outlives the shard */
    users[0].until_ns = (uint64_t)aio_clock_ns() + 100000000;
    start();
    assert_int_equal(await(&one).end, CALL_END_DONE);
    assert_true(aio_clock_ns() >= (int64_t)users[0].until_ns);
    rig_wait_word(&rig, STARTED, 2);
}

static void call_afar(uint32_t method)
{
    struct plane_submission *entry = client_next(&one);

    entry->method = (uint16_t)method;
    entry->flags = PLANE_ARGS_INLINE;
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = 1;
    client_push(&one);
}

static void shard_1_crashes(void)
{
    rig_join(&rig, 1);
    rig_note_crash(&rig, 1);
    forgive();
    rig_bury(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
}

/* All three crashes are of shard 1; the request came to shard 0. */
static void crash_thrice_by(void (*call)(uint32_t method), uint32_t method, int error)
{
    struct plane_completion c;

    for (uint32_t crash = 1; crash <= 3; crash++) {
        call(method);
        shard_1_crashes();
        assert_int_equal(crashes_of(&one), crash);
        c = await(&one); /* it is told each time, also before it is cut off */
        assert_int_equal(c.error, error);
        client_call(&other, ECHO);
        assert_int_equal(await(&other).end, CALL_END_DONE);
        if (crash < 3)
            assert_int_equal(row_of(&one)->state, CLIENT_LANE_OPEN);
    }
    await_cut(&one);
}

static void who_crashes_another_shard_is_cut_off_at_the_third(void **state)
{
    (void)state;
    crash_thrice_by(call_afar, DIE_ONCE, -EOWNERDEAD);
}

static void call_here(uint32_t method)
{
    client_call(&one, method);
}

static void a_call_within_its_request_is_its_own_too(void **state)
{
    (void)state;
    crash_thrice_by(call_here, ASK_TO_DIE, -EOWNERDEAD);
}

static void one_that_is_run_again_in_another_shard_counts_each_time(void **state)
{
    (void)state;
    call_afar(DIE);
    for (uint32_t crash = 1; crash <= 3; crash++) {
        shard_1_crashes();
        assert_int_equal(crashes_of(&one), crash);
    }
    assert_int_equal(await(&one).error, -ENOTRECOVERABLE);
    await_cut(&one);
    client_call(&other, ECHO);
    assert_int_equal(await(&other).end, CALL_END_DONE);
}

static void to_cancel_it_before_does_not_help(void **state)
{
    struct plane_submission *entry;

    (void)state;
    call_afar(DIE_LATER);
    rig_wait_word(&rig, STARTED, 1);
    entry = client_next(&one);
    entry->id = entry->route = 0;
    entry->flags = PLANE_CANCEL;
    client_push(&one);
    assert_int_equal(await(&one).end, CALL_END_CANCELLED);
    atomic_store(&rig.board->words[MAY_DIE], 1);
    shard_1_crashes();
    assert_int_equal(crashes_of(&one), 1);
}

static void a_death_that_is_no_crash_counts_for_nobody(void **state)
{
    (void)state;
    client_call(&one, NAP);
    rig_wait_word(&rig, STARTED, 1);
    rig_kill(&rig, 0, false);
    start();
    rig_wait_word(&rig, STARTED, 2); /* it runs again */
    assert_int_equal(crashes_of(&one), 0);
}

static void a_client_whose_end_came_while_nobody_lived_leaves_nothing(void **state)
{
    (void)state;
    client_call(&one, NAP);
    rig_wait_word(&rig, STARTED, 1);
    rig_kill(&rig, 0, false);
    opens_one = false;
    start();
    client_call(&other, ECHO);
    await(&other);
    assert_int_equal(row_of(&one)->state, CLIENT_LANE_NONE);
    for (uint32_t n = 0; n < rig.seg.geometry.n_ledger; n++)
        if ((segment_ledger(&rig.seg, 0, n)->word & 0xff) != LEDGER_FREE)
            assert_int_equal(segment_ledger(&rig.seg, 0, n)->client, 2);
}

static void a_cut_client_stays_cut_off(void **state)
{
    int64_t until_ns = aio_clock_ns() + DEADLINE_NS;
    struct plane_submission *entry = client_next(&one);

    (void)state;
    entry->flags = 0xff;
    client_push(&one);
    while (atomic_load_acquire(&row_of(&one)->state) != CLIENT_LANE_CUT)
        assert_true(aio_clock_ns() < until_ns);
    rig_kill(&rig, 0, false);
    start();
    client_call(&other, ECHO);
    await(&other);
    assert_int_equal(row_of(&one)->state, CLIENT_LANE_CUT);
}

#define CASE(name)        cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define CASE_OF_TWO(name) cmocka_unit_test_setup_teardown(name, set_up_two, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(no_end_is_told_before_the_dead_ones_io_is_over),
        CASE(who_crashes_three_shards_is_cut_off_and_another_is_served),
        CASE(a_third_crash_is_told_from_a_second_whoever_dies_between),
        CASE(what_it_has_under_way_delays_the_cut_for_a_moment_alone),
        CASE(nothing_of_a_user_is_begun_before_its_wait_is_over),
        CASE_OF_TWO(a_call_within_its_request_is_its_own_too),
        CASE_OF_TWO(who_crashes_another_shard_is_cut_off_at_the_third),
        CASE_OF_TWO(one_that_is_run_again_in_another_shard_counts_each_time),
        CASE_OF_TWO(to_cancel_it_before_does_not_help),
        CASE(a_death_that_is_no_crash_counts_for_nobody),
        CASE(a_client_whose_end_came_while_nobody_lived_leaves_nothing),
        CASE(a_cut_client_stays_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
