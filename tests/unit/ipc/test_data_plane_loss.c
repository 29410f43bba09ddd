/* SPDX-License-Identifier: MIT */
/* What requests of the data plane end as when a shard says nothing of them any more, or not in
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "runtime/atomic.h"
#include "tests/unit/ipc/fake_client.h"

/* From now on nothing is taken out of a ring. */
static void stall(struct fixture *f)
{
    set(&f->fake.stalled, 1);
    while (atomic_load_acquire(&f->fake.is_stalled) == 0)
        sched_yield();
}

/* ---- connections that end ---- */

/* The fake takes nothing until the client has lost it. */
static void lose_all_that_is_out(struct fixture *f)
{
    set(&f->fake.hang_up, 1);
    while (atomic_load_relaxed(&f->fake.hang_up))
        sched_yield();
    set(&f->fake.stalled, 0);
}

static void what_may_run_twice_is_submitted_again_with_its_arguments(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer = sherd_buffer_alloc(f->client, 4000), args[3000], room[3000];

    memset(buffer, 'k', 4000);
    memset(args, 'a', sizeof(args));
    for (unsigned round = 1; round <= 3; round++) {
        stall(f);
        submit(f, &(struct sherd_request){.method = "t.echo", .args = "short", .args_len = 5});
        submit(f, &(struct sherd_request){.method = "t.echo",
                      .args = args,
                      .args_len = sizeof(args),
                      .room = room,
                      .room_len = sizeof(room)});
        submit(f, &(struct sherd_request){
                      .method = "t.echo", .args = buffer, .args_len = 4000, .answer_max = 4000});
        assert_int_equal(sherd_client_process(f->client, 0), 0);
        memset(args, 'b', 1); /* they were copied */
        memset(room, 0, sizeof(room));
        lose_all_that_is_out(f);
        process_until(f, 3 * round);
        memset(args, 'a', 1);
        assert_memory_equal(room, args, sizeof(room));
        assert_int_equal(f->last.end, SHERD_END_DONE);
        assert_int_equal(f->last.len, 4000);
        assert_memory_equal(f->data, buffer, 4000);
        assert_int_equal(atomic_load_relaxed(&f->fake.n_hellos), round + 1);
    }
    sherd_buffer_free(f->client, buffer);
}

static void what_is_submitted_again_keeps_its_deadline(void **state)
{
    struct fixture *f = *state;

    stall(f);
    submit(f, &(struct sherd_request){.method = "t.ping", .timeout_ns = SECOND / 20});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    set(&f->fake.mode, FAKE_REFUSE_BUSY);
    lose_all_that_is_out(f);
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_EXPIRED);
    set(&f->fake.mode, FAKE_HONEST);
}

static void a_client_that_is_cut_off_submits_nothing_again_that_may_have_run(void **state)
{
    struct fixture *f = *state;

    stall(f);
    set(&f->fake.cuts, 1);
    submit(f, &(struct sherd_request){.method = "t.ping"});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    lose_all_that_is_out(f);
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_IN_DOUBT);
}

static void who_was_lost_writes_to_nothing_of_the_user_s_any_more(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer = sherd_buffer_alloc(f->client, 4000), users[4000];

    assert_non_null(buffer);
    memset(users, 'u', sizeof(users));
    stall(f);
    struct plane_layout layout = f->fake.client.layout;
    uint8_t *all = f->fake.client.base; /* as a shard has it that does not know yet, or a disk */
    set(&f->fake.lingers, 1);
    submit(f, &(struct sherd_request){.method = "t.hold", .room = buffer, .room_len = 4000});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    lose_all_that_is_out(f);
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_IN_DOUBT);
    memcpy(buffer, users, sizeof(users));
    memset(all + layout.data_off, 'x', layout.data_bytes);
    assert_memory_equal(buffer, users, sizeof(users));
    submit(f, &(struct sherd_request){
                  .method = "t.echo", .args = buffer, .args_len = 4000, .answer_max = 4000});
    process_until(f, 2);
    set(&f->fake.lingers, 0); /* whom it lost is gone by now */
    assert_memory_equal(f->data, users, sizeof(users));
    sherd_buffer_free(f->client, buffer);
    munmap(all, layout.total_bytes);
}

static void count_ends(const struct sherd_result *result, void *opaque)
{
    ((unsigned *)opaque)[result->end]++;
}

/* Three that the shard has taken, and three that it has not. */
static void submit_taken_and_not(struct fixture *f, unsigned *ends)
{
    struct sherd_request request = {.method = "t.hold", .flags = SHERD_TO_SHARD, .shard = 0};

    set(&f->fake.hold, 1);
    for (int i = 0; i < 6; i++) {
        if (i == 3) {
            while (atomic_load_relaxed(&f->fake.n_taken) < 3)
                sched_yield();
            stall(f);
        }
        assert_int_equal(sherd_client_submit(f->client, &request, count_ends, ends, NULL), 0);
        assert_int_equal(sherd_client_process(f->client, 0), 0);
    }
}

static void what_a_shard_that_left_had_not_taken_goes_on_with_the_next(void **state)
{
    struct fixture *f = *state;
    unsigned ends[SHERD_END_IN_DOUBT + 1] = {};

    submit_taken_and_not(f, ends);
    set(&f->fake.leaves, 1);
    lose_all_that_is_out(f);
    set(&f->fake.hold, 0);
    while (sherd_client_in_flight(f->client) > 0)
        assert_true(sherd_client_process(f->client, LONG) > 0);
    assert_int_equal(ends[SHERD_END_IN_DOUBT], 3);
    assert_int_equal(ends[SHERD_END_DONE], 3);
}

static void what_a_shard_that_left_had_not_taken_is_not_started_where_none_comes(void **state)
{
    struct fixture *f = *state;
    unsigned ends[SHERD_END_IN_DOUBT + 1] = {};

    submit_taken_and_not(f, ends);
    set(&f->fake.leaves, 1);
    set(&f->fake.mode, FAKE_REFUSE_USER);
    lose_all_that_is_out(f);
    while (sherd_client_in_flight(f->client) > 0)
        sherd_client_process(f->client, LONG);
    assert_int_equal(ends[SHERD_END_IN_DOUBT], 3);
    assert_int_equal(ends[SHERD_END_NOT_STARTED], 3);
}

/* ---- shards that are given up ---- */

static void a_shard_that_is_given_up_ends_its_own_requests_alone(void **state)
{
    struct fixture *f = *state;
    unsigned ends[SHERD_END_IN_DOUBT + 1] = {}, others[SHERD_END_IN_DOUBT + 1] = {};
    struct sherd_request other = {.method = "t.hold", .flags = SHERD_TO_SHARD, .shard = 1};

    set(&f->fake.hold, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sherd_client_submit(f->client, &other, count_ends, others, NULL), 0);
    for (uint32_t n = 0; n < 3; n = atomic_load_relaxed(&f->fake.n_taken))
        assert_int_equal(sherd_client_process(f->client, SECOND / 1000), 0);
    set(&f->fake.n_taken, 0);
    submit_taken_and_not(f, ends);
    set(&f->fake.down, 1);
    while (sherd_client_in_flight(f->client) > 3)
        assert_true(sherd_client_process(f->client, LONG) > 0);
    assert_int_equal(ends[SHERD_END_IN_DOUBT], 3);
    assert_int_equal(ends[SHERD_END_NOT_STARTED], 3);
    /* Home was the shard that is gone. */
    set(&f->fake.stalled, 0);
    struct sherd_result result;
    assert_int_equal(
        sherd_client_call(f->client, &(struct sherd_request){.method = "t.ping"}, &result), 0);
    assert_int_equal(result.end, SHERD_END_DONE);
    assert_int_equal(result.shard, 1);
    set(&f->fake.hold, 0);
    while (sherd_client_in_flight(f->client) > 0)
        assert_true(sherd_client_process(f->client, LONG) > 0);
    assert_int_equal(others[SHERD_END_DONE], 3);
    assert_int_equal(atomic_load_relaxed(&f->fake.n_hellos), 1);
}

static void what_may_run_twice_goes_to_another_home_unless_it_names_its_shard(void **state)
{
    struct fixture *f = *state;
    unsigned bound[SHERD_END_IN_DOUBT + 1] = {};
    struct sherd_request here = {.method = "t.ping", .flags = SHERD_TO_SHARD, .shard = 0};

    stall(f);
    for (int i = 0; i < 20; i++) /* out, and in line */
        submit(f, &(struct sherd_request){.method = "t.echo", .args = "a", .args_len = 1});
    assert_int_equal(sherd_client_submit(f->client, &here, count_ends, bound, NULL), 0);
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    set(&f->fake.down, 1);
    while (bound[SHERD_END_NOT_STARTED] == 0)
        assert_true(sherd_client_process(f->client, LONG) > 0);
    set(&f->fake.stalled, 0);
    while (sherd_client_in_flight(f->client) > 0)
        assert_true(sherd_client_process(f->client, LONG) > 0);
    assert_int_equal(f->n_ended, 20);
    assert_int_equal(f->last.end, SHERD_END_DONE);
    assert_int_equal(f->last.shard, 1);
}

static void a_shard_that_is_there_again_is_used_again_from_the_beginning(void **state)
{
    struct fixture *f = *state;
    struct sherd_request here = {.method = "t.ping", .flags = SHERD_TO_SHARD, .shard = 0};
    struct sherd_result result;
    uint32_t end;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5 + round * 30; i++) {
            assert_int_equal(sherd_client_call(f->client, &here, &result), 0);
            assert_int_equal(result.end, SHERD_END_DONE);
        }
        set(&f->fake.down, 1);
        do {
            assert_int_equal(sherd_client_call(f->client, &here, &result), 0);
            end = result.end;
            sherd_result_deinit(&result);
        } while (end == SHERD_END_DONE || atomic_load_relaxed(&f->fake.n_closed) == 0);
        set(&f->fake.n_closed, 0);
        set(&f->fake.down, 0);
    }
    assert_int_equal(atomic_load_relaxed(&f->fake.n_hellos), 1);
}

/* ---- shards that stand still ---- */

static void a_deadline_holds_where_the_shard_stands_still(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer = sherd_buffer_alloc(f->client, 4096);
    struct sherd_request echo = {.method = "t.echo",
        .args = "late",
        .args_len = 4,
        .room = buffer,
        .room_len = 4096,
        .timeout_ns = SECOND / 50};

    set(&f->fake.hold, 1);
    stall(f);
    uint64_t id = submit(f, &echo);
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_EXPIRED);
    assert_int_equal(f->last.error, -ETIMEDOUT);
    assert_int_equal(sherd_client_in_flight(f->client), 0);
    assert_int_equal(sherd_client_cancel(f->client, id), -ENOENT);
    /* The room is the shard's still: another request waits for it, and a buffer that is freed is
     * nobody else's. */
    echo.args = "next";
    submit(f, &echo);
    process_until(f, 2);
    assert_int_equal(f->last.end, SHERD_END_EXPIRED);
    assert_int_equal(atomic_load_relaxed(&f->fake.n_served), 1); /* the table of methods */
    echo.timeout_ns = 0;
    submit(f, &echo);
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    set(&f->fake.stalled, 0);
    process_until(f, 3);
    assert_int_equal(f->last.end, SHERD_END_DONE);
    assert_memory_equal(f->data, "next", 4);
    while (atomic_load_relaxed(&f->fake.n_served) < 3)
        sched_yield();
    assert_int_equal(atomic_load_relaxed(&f->fake.n_served), 3); /* the second was never sent */
    sherd_buffer_free(f->client, buffer);
}

static void a_buffer_that_a_shard_may_still_write_to_is_nobody_else_s(void **state)
{
    struct fixture *f = *state;
    size_t len = 900 * 1024; /* of 1 MiB: there is one */
    uint8_t *buffer = sherd_buffer_alloc(f->client, len);

    assert_non_null(buffer);
    stall(f);
    submit(f, &(struct sherd_request){
                  .method = "t.ping", .room = buffer, .room_len = len, .timeout_ns = SECOND / 50});
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_EXPIRED);
    sherd_buffer_free(f->client, buffer);
    assert_null(sherd_buffer_alloc(f->client, len));
    set(&f->fake.stalled, 0);
    submit(f, &(struct sherd_request){.method = "t.ping"}); /* its end comes behind the other's */
    process_until(f, 2);
    buffer = sherd_buffer_alloc(f->client, len);
    assert_non_null(buffer);
    sherd_buffer_free(f->client, buffer);
}

static void a_cancel_ends_where_the_shard_stands_still(void **state)
{
    struct fixture *f = *state;

    stall(f);
    uint64_t id = submit(f, &(struct sherd_request){.method = "t.hold"});
    submit(f, &(struct sherd_request){.method = "t.hold", .timeout_ns = LONG});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    assert_int_equal(sherd_client_cancel(f->client, id), 0);
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_CANCELLED);
    assert_int_equal(sherd_client_in_flight(f->client), 1);
    set(&f->fake.stalled, 0);
    process_until(f, 2);
    assert_int_equal(f->last.end, SHERD_END_DONE);
}

static void ends_that_are_fetched_come_in_time_too(void **state)
{
    struct fixture *f = *state;
    struct sherd_result result;

    for (int i = 0; i < 3; i++) {
        stall(f);
        struct sherd_request request = {.method = "t.ping", .timeout_ns = SECOND / 100};
        assert_int_equal(sherd_client_submit(f->client, &request, NULL, NULL, NULL), 0);
        assert_int_equal(sherd_client_reap(f->client, &result, 1, LONG), 1);
        assert_int_equal(result.end, SHERD_END_EXPIRED);
        if (i > 0) /* before or behind its being forgotten */
            assert_int_equal(sherd_client_process(f->client, 0), 0);
        set(&f->fake.stalled, 0);
        request.timeout_ns = 0;
        assert_int_equal(sherd_client_submit(f->client, &request, NULL, NULL, NULL), 0);
        assert_int_equal(sherd_client_reap(f->client, &result, 1, LONG), 1);
        assert_int_equal(result.end, SHERD_END_DONE);
    }
}

int main(void)
{
#define OPENED(f) cmocka_unit_test_setup_teardown(f, set_up_open, tear_down)
    const struct CMUnitTest tests[] = {
        OPENED(what_may_run_twice_is_submitted_again_with_its_arguments),
        OPENED(what_is_submitted_again_keeps_its_deadline),
        OPENED(a_client_that_is_cut_off_submits_nothing_again_that_may_have_run),
        OPENED(who_was_lost_writes_to_nothing_of_the_user_s_any_more),
        OPENED(what_a_shard_that_left_had_not_taken_goes_on_with_the_next),
        OPENED(what_a_shard_that_left_had_not_taken_is_not_started_where_none_comes),
        OPENED(a_shard_that_is_given_up_ends_its_own_requests_alone),
        OPENED(what_may_run_twice_goes_to_another_home_unless_it_names_its_shard),
        OPENED(a_shard_that_is_there_again_is_used_again_from_the_beginning),
        OPENED(a_deadline_holds_where_the_shard_stands_still),
        OPENED(a_buffer_that_a_shard_may_still_write_to_is_nobody_else_s),
        OPENED(a_cancel_ends_where_the_shard_stands_still),
        OPENED(ends_that_are_fetched_come_in_time_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
