/* SPDX-License-Identifier: MIT */
/* The client's half of the data plane, against a server in a thread that does as a case likes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/atomic.h"
#include "tests/unit/ipc/fake_client.h"

static int set_up_plain(void **state)
{
    struct fixture *f;

    set_up(state);
    f = *state;
    set(&f->fake.mode, FAKE_WELCOME_PLAIN);
    open_client(f);
    return 0;
}

/* ---- what a shard that is as it should be does ---- */

static void a_call_brings_its_answer_whatever_its_size(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {0, 1, 16, 17, 32, 33, 4096, 4097, 300000};
    uint8_t *args = malloc(300000);

    assert_int_equal(sherd_client_plane(f->client), SHERD_PLANE_DATA);
    assert_int_equal(sherd_client_n_shards(f->client), FAKE_SHARDS);
    memset(args, 'x', 300000);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct sherd_request request = {
            .method = "t.echo", .args = args, .args_len = sizes[i], .answer_max = 300000};
        struct sherd_result result;
        assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
        assert_int_equal(result.end, SHERD_END_DONE);
        assert_int_equal(result.len, sizes[i]);
        assert_memory_equal(result.data, args, sizes[i]);
        sherd_result_deinit(&result);
    }
    free(args);
}

static void buffers_are_used_where_they_lie(void **state)
{
    struct fixture *f = *state;
    uint8_t *args = sherd_buffer_alloc(f->client, 10000);
    uint8_t *room = sherd_buffer_alloc(f->client, 10000);
    struct sherd_request request = {
        .method = "t.echo", .args = args, .args_len = 10000, .room = room, .room_len = 10000};
    struct sherd_result result;

    memset(args, 'a', 10000);
    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_ptr_equal(result.data, room);
    assert_null(result.owned);
    assert_memory_equal(room, args, 10000);
    request.args_len = 5; /* short ones come in the completion, and are put there all the same */
    args[0] = 'b';
    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_ptr_equal(result.data, room);
    assert_memory_equal(room, "baaaa", 5);
    sherd_buffer_free(f->client, args);
    sherd_buffer_free(f->client, room);
}

static void an_answer_comes_into_ordinary_memory_too(void **state)
{
    struct fixture *f = *state;
    uint8_t room[100];
    struct sherd_request request = {
        .method = "t.echo", .args = "123456789", .args_len = 9, .room = room, .room_len = 8};
    struct sherd_result result;

    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_int_equal(result.end, SHERD_END_FAILED);
    assert_int_equal(result.error, -ENOBUFS);
    request.room_len = 9;
    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_ptr_equal(result.data, room);
    assert_memory_equal(room, "123456789", 9);
}

static void ten_thousand_end_once_each_through_a_window_of_sixteen(void **state)
{
    struct fixture *f = *state;

    for (uint32_t i = 0; i < 10000; i++)
        submit(f, &(struct sherd_request){
                      .method = "t.ping", .shard = i % FAKE_SHARDS, .flags = SHERD_TO_SHARD});
    assert_int_equal(sherd_client_in_flight(f->client), 10000);
    process_until(f, 10000);
    assert_int_equal(sherd_client_in_flight(f->client), 0);
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    assert_int_equal(f->n_ended, 10000);
}

static void ends_are_fetched_with_what_belongs_to_them(void **state)
{
    struct fixture *f = *state;
    struct sherd_request requests[100];
    uint64_t ids[100];
    void *opaques[100];
    unsigned n_got = 0;

    for (uintptr_t i = 0; i < 100; i++) {
        requests[i] = (struct sherd_request){.method = "t.echo", .args = &ids[i], .args_len = 8};
        opaques[i] = (void *)i;
        ids[i] = i * 7;
    }
    uint64_t given[100];
    assert_int_equal(sherd_client_submit_many(f->client, requests, 100, NULL, opaques, given), 100);
    while (n_got < 100) {
        struct sherd_result results[13];
        int n = sherd_client_reap(f->client, results, 13, LONG);
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            uintptr_t which = (uintptr_t)results[i].opaque;
            assert_int_equal(results[i].id, given[which]);
            assert_int_equal(results[i].len, 8);
            assert_int_equal(*(uint64_t *)results[i].data, which * 7);
        }
        n_got += (unsigned)n;
    }
    struct sherd_result none;
    assert_int_equal(sherd_client_reap(f->client, &none, 1, LONG), 0);
}

static void a_handle_is_as_good_as_a_name(void **state)
{
    struct fixture *f = *state;
    uint32_t handle;
    struct sherd_result result;

    assert_int_equal(sherd_client_method(f->client, "t.ping", &handle), 0);
    struct sherd_request request = {.method_handle = handle};
    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_int_equal(result.end, SHERD_END_DONE);
    request.method_handle = 1000;
    assert_int_equal(sherd_client_call(f->client, &request, &result), -EINVAL);
}

static void what_there_is_not_ends_as_not_started(void **state)
{
    struct fixture *f = *state;
    struct sherd_result result;
    struct sherd_request request = {.method = "t.nothing"};

    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_int_equal(result.end, SHERD_END_NOT_STARTED);
    assert_int_equal(result.error, -ENOENT);
    sherd_result_deinit(&result);
    request =
        (struct sherd_request){.method = "t.ping", .shard = FAKE_SHARDS, .flags = SHERD_TO_SHARD};
    assert_int_equal(sherd_client_call(f->client, &request, &result), 0);
    assert_int_equal(result.end, SHERD_END_NOT_STARTED);
    sherd_result_deinit(&result);
    request = (struct sherd_request){.method = "t.ping", .reserved = {1}};
    assert_int_equal(sherd_client_call(f->client, &request, &result), -EINVAL);
}

static void a_request_is_cancelled_in_line_and_with_the_shard(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[40];

    set(&f->fake.hold, 1);
    for (int i = 0; i < 40; i++)
        ids[i] = submit(f, &(struct sherd_request){.method = "t.hold"});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    for (int i = 39; i >= 0; i--)
        assert_int_equal(sherd_client_cancel(f->client, ids[i]), 0);
    for (unsigned n = 0; n < 40; n = f->n_ended) {
        assert_true(sherd_client_process(f->client, LONG) > 0);
        assert_int_equal(f->last.end, SHERD_END_CANCELLED);
    }
    assert_int_equal(sherd_client_cancel(f->client, ids[0]), -ENOENT);
}

static void a_deadline_holds_in_line(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.hold, 1);
    for (int i = 0; i < 16; i++)
        submit(f, &(struct sherd_request){.method = "t.hold"});
    submit(f, &(struct sherd_request){.method = "t.ping", .timeout_ns = SECOND / 100});
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_EXPIRED);
    set(&f->fake.hold, 0);
    process_until(f, 17);
}

static void an_urgent_request_goes_before_those_in_line(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.hold, 1);
    for (int i = 0; i < 16; i++)
        submit(f, &(struct sherd_request){.method = "t.hold"});
    submit(f, &(struct sherd_request){.method = "t.echo", .args = "last", .args_len = 4});
    submit(f, &(struct sherd_request){
                  .method = "t.echo", .args = "next", .args_len = 4, .flags = SHERD_URGENT});
    uint64_t first = submit(f, &(struct sherd_request){.method = "t.ping"});
    sherd_client_cancel(f->client, first);
    set(&f->fake.hold, 0);
    process_until(f, 19);
    assert_memory_equal(f->data, "last", 4);
}

static void cancel_a_window_full(struct fixture *f, unsigned n_before)
{
    uint64_t ids[16];

    for (unsigned i = 0; i < 16; i++)
        ids[i] = submit(f, &(struct sherd_request){.method = "t.hold"});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(sherd_client_cancel(f->client, ids[i]), 0);
    process_until(f, n_before + 16);
    assert_int_equal(f->last.end, SHERD_END_CANCELLED);
}

/* That the shard has taken a cancel, only an end behind it would tell. */
static void cancels_that_nothing_has_ended_behind_keep_no_room_from_others(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.hold, 1);
    for (unsigned round = 0; round < 4; round++)
        cancel_a_window_full(f, round * 16);
    submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 65);
    assert_int_equal(f->last.end, SHERD_END_DONE);
}

static void urgent_requests_have_a_ring_for_a_few_of_them_and_their_cancels(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[12];

    submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 1);
    set(&f->fake.hold, 1);
    for (int i = 0; i < 12; i++)
        ids[i] = submit(f, &(struct sherd_request){.method = "t.hold", .flags = SHERD_URGENT});
    submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 2);
    assert_int_equal(atomic_load_relaxed(&f->fake.n_urgent), PLANE_URGENT_ENTRIES / 2);
    for (int i = 0; i < 12; i++)
        assert_int_equal(sherd_client_cancel(f->client, ids[i]), 0);
    process_until(f, 14);
    assert_int_equal(f->last.end, SHERD_END_CANCELLED);
    assert_int_equal(atomic_load_relaxed(&f->fake.n_urgent), PLANE_URGENT_ENTRIES);
    for (unsigned n = 15; n < 100; n++) {
        submit(f, &(struct sherd_request){.method = "t.ping", .flags = SHERD_URGENT});
        process_until(f, n);
    }
    assert_int_equal(atomic_load_relaxed(&f->fake.n_urgent), PLANE_URGENT_ENTRIES + 85);
}

static void where_there_are_no_urgent_rings_urgent_requests_go_with_the_others(void **state)
{
    struct fixture *f = *state;

    for (unsigned n = 1; n < 30; n++) {
        submit(f, &(struct sherd_request){.method = "t.ping", .flags = SHERD_URGENT});
        process_until(f, n);
    }
    assert_int_equal(atomic_load_relaxed(&f->fake.n_urgent), 0);
}

static void what_does_not_wait_is_refused_where_the_window_is_full(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.hold, 1);
    for (int i = 0; i < 16; i++)
        submit(f, &(struct sherd_request){.method = "t.hold"});
    submit(f, &(struct sherd_request){.method = "t.ping", .flags = SHERD_REFUSE});
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_NOT_STARTED);
    assert_int_equal(f->last.error, -EAGAIN);
    assert_true(f->last.retry_us > 0);
    set(&f->fake.hold, 0);
    process_until(f, 17);
}

static void a_data_area_full_of_buffers_says_so(void **state)
{
    struct fixture *f = *state;
    size_t len = 1024 * 1024;

    while (len >= 64)
        if (!sherd_buffer_alloc(f->client, len))
            len /= 2;
    submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_NOT_STARTED);
    assert_int_equal(f->last.error, -ENOBUFS);
    submit(f, &(struct sherd_request){.method = "t.ping", .answer_max = SHERD_ANSWER_SMALL});
    process_until(f, 2);
    assert_int_equal(f->last.end, SHERD_END_DONE);
}

static void more_than_the_data_area_holds_waits_for_its_turn(void **state)
{
    struct fixture *f = *state;
    uint8_t *args = calloc(1, 300000);

    for (int i = 0; i < 30; i++)
        submit(f, &(struct sherd_request){
                      .method = "t.echo", .args = args, .args_len = 300000, .answer_max = 300000});
    process_until(f, 30);
    assert_int_equal(f->last.len, 300000);
    assert_int_equal(
        sherd_client_submit(f->client,
            &(struct sherd_request){.method = "t.echo", .answer_max = 1 << 24}, on_done, f, NULL),
        -EMSGSIZE);
    free(args);
}

/* ---- sleeping and waking ---- */

static bool is_readable(int fd, int timeout_ms)
{
    return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, timeout_ms) == 1;
}

static void the_fd_is_readable_when_an_end_has_come(void **state)
{
    struct fixture *f = *state;
    int fd = sherd_client_fd(f->client);

    assert_int_equal(sherd_client_process(f->client, 0), 0);
    assert_false(is_readable(fd, 0));
    for (unsigned i = 0; i < 200; i++) {
        set(&f->fake.hold, 1);
        submit(f, &(struct sherd_request){.method = "t.hold"});
        sherd_client_flush(f->client);
        if (is_readable(fd, 0))
            sherd_client_process(f->client, 0);
        set(&f->fake.hold, 0);
        while (f->n_ended == i) {
            assert_true(is_readable(fd, 20000));
            assert_true(sherd_client_process(f->client, 0) >= 0);
        }
    }
    while (is_readable(fd, 0))
        assert_int_equal(sherd_client_process(f->client, 0), 0);
}

static void a_shard_that_sleeps_is_rung_for_each_batch_once(void **state)
{
    struct fixture *f = *state;

    sherd_client_close(f->client);
    set(&f->fake.sleeps, 1);
    f->client = NULL;
    open_client(f); /* itself rings for the table of methods */
    uint32_t before = atomic_load_relaxed(&f->fake.n_rung);
    for (int i = 0; i < 10; i++)
        submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 10);
    /* It may have been awake still, and found them before it was rung. */
    while (atomic_load_relaxed(&f->fake.n_rung) == before)
        sched_yield();
    assert_int_equal(atomic_load_relaxed(&f->fake.n_rung) - before, 1);
}

static void *wake(void *opaque)
{
    sherd_client_wake(opaque);
    return NULL;
}

static void another_thread_ends_a_wait(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    set(&f->fake.hold, 1);
    submit(f, &(struct sherd_request){.method = "t.hold"});
    pthread_create(&thread, NULL, wake, f->client);
    assert_int_equal(sherd_client_process(f->client, LONG), 0);
    pthread_join(thread, NULL);
}

/* The other side sleeps between two pings, so whoever did not look that long would sleep too. */
static uint32_t wakes_of_pings(struct fixture *f, int64_t spin_ns, unsigned n)
{
    struct sherd_client_options options = options_with(LONG);

    sherd_client_close(f->client);
    f->n_ended = 0;
    set(&f->fake.sleeps, 1);
    options.spin_ns = spin_ns;
    assert_int_equal(sherd_client_open(&options, &f->client, NULL), 0);
    submit(f, &(struct sherd_request){.method = "t.ping"});
    process_until(f, 1);
    uint32_t before = atomic_load_relaxed(&f->fake.n_woken);
    for (unsigned i = 2; i <= n; i++) {
        submit(f, &(struct sherd_request){.method = "t.ping"});
        process_until(f, i);
    }
    return atomic_load_relaxed(&f->fake.n_woken) - before;
}

static void who_spins_gets_the_same_and_sleeps_over_nothing(void **state)
{
    assert_true(wakes_of_pings(*state, 0, 1000) > 0);
    assert_int_equal(wakes_of_pings(*state, 1000 * SECOND, 1000), 0);
}

/* ---- ends of connections ---- */

static void what_was_out_is_in_doubt_and_what_was_in_line_goes_on_elsewhere(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer = sherd_buffer_alloc(f->client, 5000);

    memset(buffer, 'k', 5000);
    set(&f->fake.hold, 1);
    for (int i = 0; i < 16; i++)
        submit(f, &(struct sherd_request){.method = "t.hold"});
    assert_int_equal(sherd_client_process(f->client, 0), 0);
    for (int i = 0; i < 5; i++)
        submit(f, &(struct sherd_request){
                      .method = "t.echo", .args = buffer, .args_len = 5000, .answer_max = 5000});
    set(&f->fake.hang_up, 1);
    process_until(f, 16);
    assert_int_equal(f->last.end, SHERD_END_IN_DOUBT);
    assert_int_equal(f->last.error, -EOWNERDEAD);
    process_until(f, 21);
    assert_int_equal(f->last.end, SHERD_END_DONE);
    assert_int_equal(f->last.len, 5000);
    assert_int_equal(buffer[4999], 'k');
    assert_int_equal(atomic_load_relaxed(&f->fake.n_hellos), 2);
    sherd_buffer_free(f->client, buffer);
}

static void where_nobody_comes_back_all_ends_and_later_it_goes_on(void **state)
{
    struct fixture *f = *state;
    struct sherd_client_options options = options_with(0);

    sherd_client_close(f->client);
    assert_int_equal(sherd_client_open(&options, &f->client, NULL), 0);
    set(&f->fake.mode, FAKE_REFUSE_USER);
    set(&f->fake.hang_up, 1);
    submit(f, &(struct sherd_request){.method = "t.hold"});
    set(&f->fake.hold, 1);
    int r;
    while ((r = sherd_client_process(f->client, LONG)) >= 0 && f->n_ended == 0)
        ;
    submit(f, &(struct sherd_request){.method = "t.ping"});
    while (r >= 0)
        r = sherd_client_process(f->client, LONG);
    assert_int_equal(r, -EPERM);
    assert_string_equal(sherd_client_error_text(f->client), "not you");
    sherd_client_process(f->client, 0);
    assert_int_equal(sherd_client_in_flight(f->client), 0);
    set(&f->fake.mode, FAKE_HONEST);
    set(&f->fake.hold, 0);
    struct sherd_result result;
    assert_int_equal(
        sherd_client_call(f->client, &(struct sherd_request){.method = "t.ping"}, &result), 0);
    assert_int_equal(result.end, SHERD_END_DONE);
}

static void an_open_without_an_answer_is_asked_once_more(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.mode, FAKE_DEAF_OPEN);
    open_client(f);
    assert_true(atomic_load_relaxed(&f->fake.n_opens) >= 2);
    assert_int_equal(atomic_load_relaxed(&f->fake.n_hellos), 1);
}

static void who_is_refused_is_told_why(void **state)
{
    struct fixture *f = *state;
    struct sherd_client_options options = options_with(0);
    char *error;

    set(&f->fake.mode, FAKE_REFUSE_USER);
    assert_int_equal(sherd_client_open(&options, &f->client, &error), -EPERM);
    assert_non_null(strstr(error, "not you"));
    free(error);
    set(&f->fake.mode, FAKE_REFUSE_BUSY);
    options.wait_ns = SECOND / 20;
    assert_int_equal(sherd_client_open(&options, &f->client, NULL), -EAGAIN);
}

/* ---- a server that breaks the rules ---- */

static void a_welcome_that_makes_no_sense_is_refused(void **state)
{
    struct fixture *f = *state;
    static const enum fake_mode modes[] = {
        FAKE_WELCOME_ENTRIES, FAKE_WELCOME_TOTAL, FAKE_WELCOME_NO_FD, FAKE_WELCOME_SHORT};
    struct sherd_client_options options = options_with(0);

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        set(&f->fake.mode, modes[i]);
        assert_int_equal(sherd_client_open(&options, &f->client, NULL), -EPROTO);
    }
}

static void completions_that_make_no_sense_end_the_connection_and_every_request_once(void **state)
{
    struct fixture *f = *state;
    static const enum fake_mode modes[] = {FAKE_END_UNKNOWN, FAKE_END_KIND, FAKE_END_TWICE};

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        f->n_ended = 0;
        set(&f->fake.hold, 1);
        /* Before the requests: the fake serves them as soon as they stand in the ring. */
        set(&f->fake.mode, modes[i]);
        for (int n = 0; n < 3; n++)
            submit(f, &(struct sherd_request){.method = n == 1 ? "t.ping" : "t.hold"});
        int r;
        while ((r = sherd_client_process(f->client, LONG)) > 0)
            ;
        assert_int_equal(r, -EPROTO);
        assert_int_equal(f->n_ended, 3);
        set(&f->fake.mode, FAKE_HONEST);
        set(&f->fake.hold, 0);
        submit(f, &(struct sherd_request){.method = "t.ping"});
        process_until(f, 4);
        assert_int_equal(f->last.end, SHERD_END_DONE);
    }
}

static void an_answer_longer_than_its_room_is_not_believed(void **state)
{
    struct fixture *f = *state;

    set(&f->fake.mode, FAKE_END_LONG);
    submit(f, &(struct sherd_request){.method = "t.echo", .args = "x", .args_len = 1});
    process_until(f, 1);
    assert_int_equal(f->last.end, SHERD_END_FAILED);
    assert_int_equal(f->last.error, -EPROTO);
    assert_int_equal(f->last.len, 0);
}

int main(void)
{
#define OPENED(f) cmocka_unit_test_setup_teardown(f, set_up_open, tear_down)
    const struct CMUnitTest tests[] = {
        OPENED(a_call_brings_its_answer_whatever_its_size),
        OPENED(buffers_are_used_where_they_lie),
        OPENED(an_answer_comes_into_ordinary_memory_too),
        OPENED(ten_thousand_end_once_each_through_a_window_of_sixteen),
        OPENED(ends_are_fetched_with_what_belongs_to_them),
        OPENED(a_handle_is_as_good_as_a_name),
        OPENED(what_there_is_not_ends_as_not_started),
        OPENED(a_request_is_cancelled_in_line_and_with_the_shard),
        OPENED(a_deadline_holds_in_line),
        OPENED(an_urgent_request_goes_before_those_in_line),
        OPENED(cancels_that_nothing_has_ended_behind_keep_no_room_from_others),
        OPENED(urgent_requests_have_a_ring_for_a_few_of_them_and_their_cancels),
        cmocka_unit_test_setup_teardown(
            where_there_are_no_urgent_rings_urgent_requests_go_with_the_others, set_up_plain,
            tear_down),
        OPENED(what_does_not_wait_is_refused_where_the_window_is_full),
        OPENED(a_data_area_full_of_buffers_says_so),
        OPENED(more_than_the_data_area_holds_waits_for_its_turn),
        OPENED(the_fd_is_readable_when_an_end_has_come),
        OPENED(a_shard_that_sleeps_is_rung_for_each_batch_once),
        OPENED(another_thread_ends_a_wait),
        OPENED(who_spins_gets_the_same_and_sleeps_over_nothing),
        OPENED(what_was_out_is_in_doubt_and_what_was_in_line_goes_on_elsewhere),
        OPENED(where_nobody_comes_back_all_ends_and_later_it_goes_on),
        cmocka_unit_test_setup_teardown(
            an_open_without_an_answer_is_asked_once_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_is_refused_is_told_why, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_welcome_that_makes_no_sense_is_refused, set_up, tear_down),
        OPENED(completions_that_make_no_sense_end_the_connection_and_every_request_once),
        OPENED(an_answer_longer_than_its_room_is_not_believed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
