/* SPDX-License-Identifier: MIT */
/* What is urgent is taken before what is not, nobody has more of a shard by it, and a cancel does
 * not wait behind what a quota keeps in a ring. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "tests/unit/plane/plane_rig.h"

enum { NOTE, NAP, SPIN, N_METHODS };

#define MOST 64u

static uint8_t order[MOST]; /* what note and spin were told, one after the other */
static uint32_t n_run;

static void note(const struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);

    assert_true(n_run < MOST);
    order[n_run++] = len ? args[0] : 0;
}

static int coroutine_fn run_note(struct service_call *call)
{
    note(call);
    return 0;
}

static int coroutine_fn run_nap(struct service_call *call)
{
    return service_sleep_ns(call, INT64_C(3600) * 1000000000);
}

/* Longer than a lane's share of a turn. */
static int coroutine_fn run_spin(struct service_call *call)
{
    int64_t until_ns = aio_clock_ns() + 2000000;

    note(call);
    while (aio_clock_ns() < until_ns)
        ;
    return 0;
}

static const struct service_method methods[] = {
    [NOTE] = {"note", run_note, SERVICE_IDEMPOTENT, ""},
    [NAP] = {"nap", run_nap, 0, ""},
    [SPIN] = {"spin", run_spin, 0, ""},
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = N_METHODS};

static int set_up(void **state)
{
    n_run = 0;
    *state = plane_bench_new(&service, 0);
    return 0;
}

static uint64_t push(struct client *client, uint32_t method, uint8_t what, bool urgent)
{
    struct plane_submission *entry = urgent ? client_next_urgent(client) : client_next(client);
    uint64_t id = entry->id;

    entry->method = (uint16_t)method;
    entry->flags = PLANE_ARGS_INLINE | (urgent ? PLANE_URGENT : 0);
    entry->args_len = 1;
    entry->inline_args[0] = what;
    urgent ? client_push_urgent(client) : client_push(client);
    return id;
}

/* Of the request with that id, which was pushed at that position of the normal ring. */
static bool push_cancel(struct client *client, uint64_t id, uint64_t position)
{
    struct plane_submission *entry = client_next(client);

    entry->id = id;
    entry->route = position;
    entry->flags = PLANE_CANCEL;
    return client_push(client);
}

/* The bench's client, with as many requests in flight. */
static void open_with(struct plane_bench *b, uint32_t max_in_flight)
{
    plane_drop(b->plane, 3, b->client.grant.generation);
    plane_bench_turn(b, 2);
    b->client.grant.generation++;
    b->client.grant.max_in_flight = max_in_flight;
    b->client.pushed = b->client.urgent_pushed = b->client.popped = 0;
    memset(b->client.base, 0, b->client.layout.lane_bytes);
    assert_int_equal(client_open(&b->client, b->plane), 0);
}

static void open_other(struct plane_bench *b, struct client *other)
{
    client_make(other, &b->rig, 0, 50, 16, 4096);
    assert_int_equal(client_open(other, b->plane), 0);
}

static void close_other(struct plane_bench *b, struct client *other)
{
    plane_drop(b->plane, 50, 1);
    while (plane_bench_row(b, other)->state != CLIENT_LANE_NONE)
        plane_bench_turn(b, 1);
    client_free(other);
}

/* ---- urgent ---- */

static void what_is_urgent_is_begun_before_what_was_pushed_earlier(void **state)
{
    struct plane_bench *b = *state;

    for (uint8_t i = 0; i < 8; i++)
        push(&b->client, NOTE, i, false);
    push(&b->client, NOTE, 100, true);
    push(&b->client, NOTE, 101, true);
    for (int i = 0; i < 10; i++)
        plane_bench_await(b, &b->client);
    assert_memory_equal(order, "\x64\x65\0\1\2\3\4\5\6\7", 10);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 8);
    assert_int_equal(plane_bench_row(b, &b->client)->urgent_head, 2);
    assert_int_equal(plane_bench_row(b, &b->client)->requests, 10);
}

static void what_is_urgent_does_not_wait_for_the_work_that_stands_in_the_ring(void **state)
{
    struct plane_bench *b = *state;

    for (uint8_t i = 0; i < 12; i++)
        push(&b->client, SPIN, i, false);
    while (n_run == 0)
        plane_bench_turn(b, 1);
    uint32_t n_before = n_run;
    push(&b->client, NOTE, 100, true);
    plane_bench_turn(b, 1);
    assert_true(n_before < 12);
    assert_int_equal(order[n_before], 100);
}

static void what_is_urgent_to_one_is_begun_before_what_another_has_pushed_earlier(void **state)
{
    struct plane_bench *b = *state;
    struct client other;

    open_other(b, &other);
    for (uint8_t i = 0; i < 4; i++)
        push(&b->client, NOTE, i, false);
    push(&other, NOTE, 100, true);
    plane_bench_await(b, &other);
    assert_int_equal(order[0], 100);
    close_other(b, &other);
}

static uint32_t n_run_of(uint8_t what)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < n_run; i++)
        n += order[i] == what;
    return n;
}

static void who_calls_all_of_it_urgent_has_no_more_of_the_shard_than_others(void **state)
{
    struct plane_bench *b = *state;
    struct client other;

    open_other(b, &other);
    for (int i = 0; i < 8; i++) {
        push(&b->client, SPIN, 1, true);
        push(&b->client, SPIN, 1, false);
        push(&other, SPIN, 2, false);
        push(&other, SPIN, 2, false);
    }
    while (n_run_of(1) < 12 && n_run_of(2) < 12) {
        plane_bench_turn(b, 1);
        /* A visit takes two of these: one is free, with the next its time is over. */
        assert_in_range(n_run_of(1), n_run_of(2) > 2 ? n_run_of(2) - 2 : 0, n_run_of(2) + 2);
    }
    while (n_run < 32)
        plane_bench_turn(b, 1);
    close_other(b, &other);
}

static void the_urgent_ring_is_for_what_is_urgent(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next_urgent(&b->client);

    entry->method = NOTE;
    entry->flags = PLANE_ARGS_INLINE;
    client_push_urgent(&b->client);
    plane_bench_turn(b, 2);
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_CUT);
    assert_int_equal(plane_bench_row(b, &b->client)->reason, CUT_FLAGS);
    assert_int_equal(n_run, 0);
}

static void an_urgent_one_waits_for_its_quota_as_others_do(void **state)
{
    struct plane_bench *b = *state;

    open_with(b, 2);
    uint64_t first = push(&b->client, NAP, 0, false);
    push(&b->client, NAP, 0, false);
    plane_bench_turn(b, 2);
    push(&b->client, NOTE, 100, true);
    plane_bench_turn(b, 20);
    assert_int_equal(n_run, 0);
    push_cancel(&b->client, first, 0);
    assert_int_equal(plane_bench_await(b, &b->client).id, first);
    assert_int_equal(plane_bench_await(b, &b->client).id, 1000);
    assert_int_equal(n_run, 1);
}

/* ---- cancels ---- */

static void a_cancel_of_what_runs_does_not_wait_behind_what_a_quota_keeps(void **state)
{
    struct plane_bench *b = *state;

    open_with(b, 1);
    uint64_t first = push(&b->client, NAP, 0, false);
    push(&b->client, NOTE, 1, false);
    push(&b->client, NOTE, 2, false);
    plane_bench_turn(b, 20);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 1);
    push_cancel(&b->client, first, 0);
    struct plane_completion c = plane_bench_await(b, &b->client);
    assert_int_equal(c.id, first);
    assert_int_equal(c.end, CALL_END_CANCELLED);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    assert_memory_equal(order, "\1\2", 2);
    plane_bench_turn(b, 2);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 4);
}

static void a_cancel_ends_what_a_quota_keeps_and_what_waits_behind_it(void **state)
{
    struct plane_bench *b = *state;

    open_with(b, 1);
    uint64_t first = push(&b->client, NAP, 0, false);
    uint64_t kept = push(&b->client, NOTE, 1, false), behind = push(&b->client, NOTE, 2, false);
    push(&b->client, NOTE, 3, false);
    plane_bench_turn(b, 20);
    push_cancel(&b->client, behind, 2);
    push_cancel(&b->client, kept, 1);
    for (uint64_t id = kept; id <= behind; id++) {
        struct plane_completion c = plane_bench_await(b, &b->client);
        assert_int_equal(c.id, id);
        assert_int_equal(c.end, CALL_END_CANCELLED);
        assert_int_equal(c.shard, UINT32_MAX);
    }
    plane_bench_turn(b, 20);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 3);
    push_cancel(&b->client, first, 0);
    assert_int_equal(plane_bench_await(b, &b->client).id, first);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    assert_memory_equal(order, "\3", 1);
}

static void a_mark_is_for_one_lap_and_for_the_request_of_that_id(void **state)
{
    struct plane_bench *b = *state;

    open_with(b, 1);
    uint64_t first = push(&b->client, NAP, 0, false);
    push(&b->client, NOTE, 1, false);
    plane_bench_turn(b, 20);
    push_cancel(&b->client, 77, 1); /* that is another one's place */
    push_cancel(&b->client, 77, UINT64_MAX);
    push_cancel(&b->client, 77, 1000);
    plane_bench_turn(b, 20);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 1);
    push_cancel(&b->client, first, 0);
    assert_int_equal(plane_bench_await(b, &b->client).id, first);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    for (uint8_t i = 0; i < 40; i++) {
        push(&b->client, NOTE, i, false);
        assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    }
}

static void on_time(void *opaque)
{
    (void)opaque;
}

static void a_client_whose_ring_waits_rings_for_a_cancel(void **state)
{
    struct plane_bench *b = *state;
    const struct plane_words *words;

    open_with(b, 1);
    words = plane_words_of(&b->client.layout, b->client.base, 0);
    uint64_t first = push(&b->client, NAP, 0, false);
    push(&b->client, NOTE, 1, false);
    plane_bench_turn(b, 20);
    while (!atomic_load_relaxed(&words->need_wakeup)) {
        AioTimer timer; /* has the shard sleep, and wake up */
        aio_timer_init(b->end.ctx, &timer, on_time, NULL);
        timer_mod_ns(&timer, aio_clock_ns() + 1000000);
        aio_poll(b->end.ctx, true);
        timer_del(&timer);
    }
    assert_true(push_cancel(&b->client, first, 0));
    aio_poll(b->end.ctx, true);
    assert_int_equal(plane_bench_await(b, &b->client).id, first);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, plane_bench_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_is_urgent_is_begun_before_what_was_pushed_earlier),
        CASE(what_is_urgent_does_not_wait_for_the_work_that_stands_in_the_ring),
        CASE(what_is_urgent_to_one_is_begun_before_what_another_has_pushed_earlier),
        CASE(who_calls_all_of_it_urgent_has_no_more_of_the_shard_than_others),
        CASE(the_urgent_ring_is_for_what_is_urgent),
        CASE(an_urgent_one_waits_for_its_quota_as_others_do),
        CASE(a_cancel_of_what_runs_does_not_wait_behind_what_a_quota_keeps),
        CASE(a_cancel_ends_what_a_quota_keeps_and_what_waits_behind_it),
        CASE(a_mark_is_for_one_lap_and_for_the_request_of_that_id),
        CASE(a_client_whose_ring_waits_rings_for_a_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
