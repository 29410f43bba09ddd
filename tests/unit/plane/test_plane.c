/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/keymap.h"
#include "tests/unit/plane/plane_rig.h"

#define ENTRIES    16u
#define DATA_BYTES (64u * 1024)

/* ---- what the shards can do ---- */

enum { ECHO, SHARD, LARGE, NAP, ROOM, IN_PLACE, FAILING, HASHED, HASHED_IN_PLACE, STAYING };

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static int coroutine_fn run_first_byte(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len > 0);
}

static int coroutine_fn run_shard(struct service_call *call)
{
    uint32_t shard = service_shard(call);

    return service_reply(call, &shard, sizeof(shard));
}

static int coroutine_fn run_large(struct service_call *call)
{
    char bytes[1000];

    memset(bytes, 'l', sizeof(bytes));
    return service_reply(call, bytes, sizeof(bytes));
}

static int coroutine_fn run_nap(struct service_call *call)
{
    return service_sleep_ns(call, INT64_C(3600) * 1000000000);
}

static void *seen; /* by the last method that was given client memory */

static int coroutine_fn run_room(struct service_call *call)
{
    void *room;
    int r = service_reply_room(call, 8192, &room);

    if (r < 0)
        return r;
    seen = room;
    memset(room, 'r', 8192);
    return service_reply_done(call, 5000);
}

static int coroutine_fn run_in_place(struct service_call *call)
{
    size_t len;

    seen = (void *)(uintptr_t)service_args(call, &len);
    return service_reply(call, &len, sizeof(len));
}

static int coroutine_fn run_failing(struct service_call *call)
{
    return service_fail(call, -EIO, "it broke, in a way that takes more than a line to tell");
}

static uint8_t *changed_when_hashed; /* as a client may do it at any time */

/* All bytes together are in all shards. */
static uint64_t hash_of(uint8_t byte)
{
    return byte * UINT64_C(64);
}

static int by_first_byte(uint32_t method, const void *args, size_t len, uint64_t *ret_hash)
{
    if ((method != SHARD && method < HASHED) || !len)
        return -EINVAL;
    *ret_hash = hash_of(*(const uint8_t *)args);
    if (changed_when_hashed)
        *changed_when_hashed ^= 0xff;
    return 0;
}

static const struct service_method methods[] = {
    [ECHO] = {"echo", run_echo, SERVICE_IDEMPOTENT, ""},
    [SHARD] = {"shard", run_shard, SERVICE_IDEMPOTENT, ""},
    [LARGE] = {"large", run_large, SERVICE_IDEMPOTENT, ""},
    [NAP] = {"nap", run_nap, 0, ""},
    [ROOM] = {"room", run_room, 0, ""},
    [IN_PLACE] = {"in_place", run_in_place, SERVICE_IN_PLACE, ""},
    [FAILING] = {"failing", run_failing, 0, ""},
    [HASHED] = {"hashed", run_first_byte, 0, ""},
    [HASHED_IN_PLACE] = {"hashed_in_place", run_first_byte, SERVICE_IN_PLACE, ""},
    [STAYING] = {"staying", run_in_place, SERVICE_IN_PLACE | SERVICE_STAYS, ""},
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "test",
    .help = "",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0]),
    .hash = by_first_byte};

/* ---- one shard in this thread, one as another ---- */

static int set_up(void **state)
{
    *state = plane_bench_new(&service, 0);
    return 0;
}

static struct plane_completion await(struct plane_bench *b)
{
    return plane_bench_await(b, &b->client);
}

static struct client_lane *row_of(struct plane_bench *b)
{
    return segment_client_lane(&b->rig.seg, 0, 3);
}

/* ---- requests ---- */

static void a_request_is_served_and_its_answer_comes_with_its_end(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->id = 77;
    entry->method = ECHO;
    entry->flags = PLANE_ARGS_INLINE;
    entry->args_len = 5;
    memcpy(entry->inline_args, "hello", 5);
    client_push(&b->client);
    struct plane_completion c = await(b);

    assert_int_equal(c.id, 77);
    assert_int_equal(c.end, CALL_END_DONE);
    assert_int_equal(c.error, 0);
    assert_int_equal(c.shard, 0);
    assert_int_equal(c.len, 5);
    assert_memory_equal(c.inline_answer, "hello", 5);
}

static void rings_go_round(void **state)
{
    struct plane_bench *b = *state;

    for (uint32_t i = 0; i < 20 * ENTRIES; i++) {
        uint32_t n = i % ENTRIES + 1;
        uint64_t first = b->client.pushed;
        for (uint32_t k = 0; k < n; k++)
            client_call(&b->client, ECHO);
        for (uint32_t k = 0; k < n; k++)
            assert_int_equal(await(b).id, first + k);
    }
    assert_int_equal(row_of(b)->head, b->client.pushed);
    assert_int_equal(row_of(b)->tail, b->client.pushed);
    assert_int_equal(segment_part(&b->rig.seg, 0)->requests_in_flight, 0);
}

static void arguments_and_an_answer_lie_in_the_data_area(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    memset(client_data(&b->client, 100), 'a', 3000);
    entry->method = ECHO;
    entry->args_off = 100;
    entry->args_len = 3000;
    entry->room_off = 8001;
    entry->room_len = 3000;
    client_push(&b->client);
    struct plane_completion c = await(b);

    assert_int_equal(c.end, CALL_END_DONE);
    assert_int_equal(c.len, 3000);
    assert_memory_equal(client_data(&b->client, 8001), client_data(&b->client, 100), 3000);
}

static void an_answer_without_room_for_it_is_a_failure_that_says_so(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = LARGE;
    entry->room_len = 200;
    client_push(&b->client);
    struct plane_completion c = await(b);

    assert_int_equal(c.end, CALL_END_FAILED);
    assert_int_equal(c.error, -ENOBUFS);
    assert_non_null(strstr((char *)client_data(&b->client, 0), "1000 bytes"));
}

static void a_room_is_filled_where_it_lies_wherever_that_begins(void **state)
{
    struct plane_bench *b = *state;

    for (int aligned = 0; aligned < 2; aligned++) {
        struct plane_submission *entry = client_next(&b->client);
        uint64_t off = aligned ? 8192 : 8200;
        entry->method = ROOM;
        entry->room_off = off;
        entry->room_len = 8192;
        client_push(&b->client);
        struct plane_completion c = await(b);
        assert_int_equal(c.end, CALL_END_DONE);
        assert_int_equal(c.len, 5000);
        assert_int_equal(client_data(&b->client, off)[4999], 'r');
        *(uint8_t *)seen = 'X';
        assert_int_equal(client_data(&b->client, off)[0], 'X');
    }
}

static void a_method_that_takes_arguments_in_place_gets_the_clients_memory(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = IN_PLACE;
    entry->args_off = 1000;
    entry->args_len = 50000;
    client_push(&b->client);
    struct plane_completion c = await(b);
    size_t len;

    memcpy(&len, c.inline_answer, sizeof(len));
    assert_int_equal(len, 50000);
    *(uint8_t *)seen = 'Y';
    assert_int_equal(*client_data(&b->client, 1000), 'Y');
}

static void a_failure_brings_its_text_cut_where_there_is_no_room(void **state)
{
    struct plane_bench *b = *state;

    client_call(&b->client, FAILING);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_FAILED);
    assert_int_equal(c.error, -EIO);
    assert_int_equal(c.len, PLANE_INLINE_ANSWER);
    assert_memory_equal(c.inline_answer, "it broke, in a way that takes mo", PLANE_INLINE_ANSWER);

    struct plane_submission *entry = client_next(&b->client);
    entry->method = FAILING;
    entry->room_len = 4096;
    client_push(&b->client);
    c = await(b);
    assert_int_equal(c.len, strlen("it broke, in a way that takes more than a line to tell"));
}

static void a_method_that_is_none_ends_as_not_started(void **state)
{
    struct plane_bench *b = *state;

    client_call(&b->client, 999);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -ENOENT);
    assert_int_equal(c.shard, UINT32_MAX);
}

static void what_is_past_its_deadline_is_not_run(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = NAP;
    entry->flags = PLANE_ARGS_INLINE;
    entry->deadline_ns = (uint64_t)aio_clock_ns() - 1;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_EXPIRED);
    assert_int_equal(c.shard, UINT32_MAX);
}

static void a_deadline_ends_what_waits(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = NAP;
    entry->flags = PLANE_ARGS_INLINE;
    entry->deadline_ns = (uint64_t)aio_clock_ns() + 1000000;
    client_push(&b->client);
    assert_int_equal(await(b).end, CALL_END_EXPIRED);
}

static void a_cancel_of_what_has_ended_leaves_the_next_of_that_id_alone(void **state)
{
    struct plane_bench *b = *state;
    uint64_t id = client_call(&b->client, ECHO), position = id;
    struct plane_submission *entry;

    await(b);
    entry = client_next(&b->client);
    uint64_t again = entry->id; /* which is its position, too */
    entry->id = id;
    entry->method = NAP;
    entry->flags = PLANE_ARGS_INLINE;
    client_push(&b->client);
    for (uint64_t i = 0; i < 2; i++) {
        entry = client_next(&b->client);
        entry->id = id;
        entry->route = i == 0 ? position : again;
        entry->flags = PLANE_CANCEL;
        client_push(&b->client);
        client_call(&b->client, ECHO);
        struct plane_completion c = await(b);
        assert_int_equal(c.end, i == 0 ? CALL_END_DONE : CALL_END_CANCELLED);
    }
    assert_int_equal(await(b).end, CALL_END_DONE);
}

static void a_cancel_ends_the_request_of_that_id_and_has_no_end_of_its_own(void **state)
{
    struct plane_bench *b = *state;
    uint64_t id = client_call(&b->client, NAP);
    struct plane_submission *entry;

    client_call(&b->client, ECHO);
    await(b);
    entry = client_next(&b->client);
    entry->id = entry->route = id;
    entry->flags = PLANE_CANCEL;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.id, id);
    assert_int_equal(c.end, CALL_END_CANCELLED);
    client_call(&b->client, ECHO);
    await(b);
    assert_int_equal(row_of(b)->requests, 3);
    assert_int_equal(row_of(b)->tail, 3);
    assert_int_equal(row_of(b)->head, 4);
}

static uint32_t shard_that_answered(struct plane_bench *b, enum plane_route kind, uint64_t route)
{
    struct plane_submission *entry = client_next(&b->client);
    uint32_t shard;

    entry->method = SHARD;
    entry->flags = PLANE_ARGS_INLINE;
    entry->args_len = 1;
    entry->inline_args[0] = (uint8_t)(route / 64);
    entry->route_kind = (uint8_t)kind;
    entry->route = route;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_DONE);
    memcpy(&shard, c.inline_answer, sizeof(shard));
    assert_int_equal(c.shard, shard);
    return shard;
}

static void a_request_runs_where_its_route_says(void **state)
{
    struct plane_bench *b = *state;

    uint32_t homes = 0;

    for (uint32_t byte = 0; byte < 256; byte += 17) {
        uint64_t hash = hash_of((uint8_t)byte);
        uint32_t home = keymap_shard(keymap_slot(hash), 2);
        homes |= 1u << home;
        assert_int_equal(shard_that_answered(b, PLANE_ROUTE_KEY, hash), home);
        assert_int_equal(shard_that_answered(b, PLANE_ROUTE_METHOD, hash), home);
        assert_int_equal(shard_that_answered(b, PLANE_ROUTE_HERE, hash), 0);
    }
    assert_int_equal(homes, 3);
    assert_int_equal(shard_that_answered(b, PLANE_ROUTE_SHARD, 1), 1);
}

static void what_runs_is_what_was_routed(void **state)
{
    static const uint32_t lens[] = {8, SEGMENT_INLINE_BYTES + 1, 4096};
    struct plane_bench *b = *state;
    struct plane_submission *entry;
    struct plane_completion c;

    changed_when_hashed = client_data(&b->client, 0);
    for (uint32_t i = 0; i < 3 * 2 * 16; i++) {
        uint8_t byte = (uint8_t)(i / 6 * 17);
        client_data(&b->client, 0)[0] = byte;
        entry = client_next(&b->client);
        entry->method = i % 2 ? HASHED : HASHED_IN_PLACE;
        entry->route_kind = PLANE_ROUTE_METHOD;
        entry->args_len = lens[i / 2 % 3];
        client_push(&b->client);
        c = await(b);
        assert_int_equal(c.end, CALL_END_DONE);
        assert_int_equal(c.shard, keymap_shard(keymap_slot(hash_of(byte)), 2));
        assert_int_equal(c.len, 1);
        assert_int_equal(c.inline_answer[0], byte);
    }
    changed_when_hashed = NULL;
}

/* Who ran it; its hash is in shard 1. */
static uint32_t shard_that_stayed(struct plane_bench *b, uint32_t args_len, uint32_t room_len)
{
    struct plane_submission *entry = client_next(&b->client);

    memset(client_data(&b->client, 0), 0xff, 4096);
    entry->method = STAYING;
    entry->route_kind = PLANE_ROUTE_METHOD;
    entry->args_len = args_len;
    entry->room_off = 8192;
    entry->room_len = room_len;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_DONE);
    return c.shard;
}

static void what_can_run_anywhere_and_is_not_small_runs_where_its_client_s_memory_is(void **state)
{
    struct plane_bench *b = *state;
    const struct part_head *part = segment_part(&b->rig.seg, 0);
    uint32_t small = SEGMENT_INLINE_BYTES;

    assert_int_equal(shard_that_stayed(b, small, small), 1);
    assert_int_equal(part->payload_in_place_bytes, 0);
    assert_int_equal(shard_that_stayed(b, 1, small + 1), 0);
    assert_int_equal(shard_that_stayed(b, small + 1, 0), 0);
    *(uint8_t *)seen = 'Z';
    assert_int_equal(*client_data(&b->client, 0), 'Z');
    assert_int_equal(part->payload_in_place_bytes, 1 + small + 1);
    assert_int_equal(part->payload_copied_bytes, 0);
}

static void arguments_too_long_to_be_routed_by_run_nowhere_rather_than_anywhere(void **state)
{
    struct plane_bench *b = *state;
    struct client large;
    struct plane_submission *entry;

    client_make(&large, &b->rig, 0, 50, 16, 2u << 20);
    assert_int_equal(client_open(&large, b->plane), 0);
    entry = client_next(&large);
    entry->method = HASHED_IN_PLACE;
    entry->route_kind = PLANE_ROUTE_METHOD;
    entry->args_len = (1u << 20) + 1;
    client_push(&large);
    struct plane_completion c = plane_bench_await(b, &large);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -EMSGSIZE);
    plane_drop(b->plane, 50, 1);
    client_free(&large);
}

static void a_route_to_no_shard_ends_as_not_started(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = ECHO;
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = 2;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -ENODEV);
}

static void a_large_answer_of_another_shard_comes_into_the_room(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = LARGE;
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = 1;
    entry->room_off = 4096;
    entry->room_len = 1000;
    client_push(&b->client);
    struct plane_completion c = await(b);
    assert_int_equal(c.end, CALL_END_DONE);
    assert_int_equal(c.len, 1000);
    assert_int_equal(client_data(&b->client, 4096)[999], 'l');
}

static void what_another_shard_serves_can_be_cancelled(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);
    uint64_t id = entry->id;

    entry->method = NAP;
    entry->flags = PLANE_ARGS_INLINE;
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = 1;
    client_push(&b->client);
    client_call(&b->client, ECHO);
    await(b);
    entry = client_next(&b->client);
    entry->id = entry->route = id;
    entry->flags = PLANE_CANCEL;
    client_push(&b->client);
    assert_int_equal(await(b).end, CALL_END_CANCELLED);
}

/* ---- bells ---- */

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void do_nothing(void *opaque)
{
    (void)opaque;
}

static void a_shard_that_sleeps_asks_to_be_rung_and_wakes_by_it(void **state)
{
    struct plane_bench *b = *state;
    struct plane_words *words = plane_words_of(&b->client.layout, b->client.base, 0);
    struct plane_submission *entry;
    int64_t until_ns = aio_clock_ns() + INT64_C(60) * 1000000000;

    client_call(&b->client, ECHO);
    await(b);
    assert_int_equal(words->need_wakeup, 0);
    while (!words->need_wakeup) {
        AioTimer timer; /* has the shard sleep, where it is not due before, and wake up */
        assert_true(aio_clock_ns() < until_ns);
        aio_timer_init(b->end.ctx, &timer, do_nothing, NULL);
        timer_mod_ns(&timer, aio_clock_ns() + 1000000);
        aio_poll(b->end.ctx, true);
        timer_del(&timer);
    }

    entry = client_next(&b->client);
    entry->method = ECHO;
    entry->flags = PLANE_ARGS_INLINE;
    assert_true(client_push(&b->client));
    struct plane_completion c;
    while (!client_pop(&b->client, &c))
        aio_poll(b->end.ctx, true);
    assert_int_equal(words->need_wakeup, 0);
    assert_false(is_readable(b->client.bells[1]));
}

static void a_quiet_lane_is_looked_at_no_more(void **state)
{
    struct plane_bench *b = *state;
    struct plane_words *words = plane_words_of(&b->client.layout, b->client.base, 0);

    client_call(&b->client, ECHO);
    await(b);
    for (int i = 0; i < 5000 && !words->need_wakeup; i++)
        aio_poll(b->end.ctx, false);
    assert_int_equal(words->need_wakeup, 1);
    client_call(&b->client, ECHO); /* which rings */
    await(b);
    assert_int_equal(words->need_wakeup, 0);
}

static void a_client_that_sleeps_is_rung_once_for_what_ends_together(void **state)
{
    struct plane_bench *b = *state;
    struct plane_words *words = plane_words_of(&b->client.layout, b->client.base, 0);
    char bytes[16];

    client_call(&b->client, ECHO);
    await(b);
    assert_false(is_readable(b->client.bells[0]));
    words->client_sleeps = 1;
    for (int i = 0; i < 8; i++)
        client_call(&b->client, ECHO);
    for (int i = 0; i < 8; i++)
        await(b);
    assert_int_equal(recv(b->client.bells[0], bytes, sizeof(bytes), MSG_DONTWAIT), 1);
    assert_int_equal(row_of(b)->rings, 1);
}

/* ---- ends ---- */

static void what_is_dropped_ends_its_requests_and_leaves_no_row(void **state)
{
    struct plane_bench *b = *state;

    for (int i = 0; i < 5; i++)
        client_call(&b->client, NAP);
    client_call(&b->client, ECHO);
    await(b);
    assert_int_equal(row_of(b)->state, CLIENT_LANE_OPEN);
    plane_drop(b->plane, 3, 1);
    for (int i = 0; i < 100 && row_of(b)->state != CLIENT_LANE_NONE; i++)
        aio_poll(b->end.ctx, false);
    assert_int_equal(row_of(b)->state, CLIENT_LANE_NONE);
    assert_true(plane_is_idle(b->plane));

    b->client.grant.generation = 2;
    b->client.pushed = b->client.popped = 0;
    memset(b->client.base, 0, b->client.layout.lane_bytes);
    assert_int_equal(client_open(&b->client, b->plane), 0);
    client_call(&b->client, ECHO);
    assert_int_equal(await(b).end, CALL_END_DONE);
}

static void memory_that_is_not_as_granted_is_not_mapped(void **state)
{
    struct plane_bench *b = *state;
    struct client other;

    client_make(&other, &b->rig, 0, 4, ENTRIES, DATA_BYTES);
    other.grant.data_bytes += 4096;
    assert_int_equal(client_open(&other, b->plane), -EINVAL);
    other.grant.data_bytes = DATA_BYTES;
    other.grant.n_entries = 12;
    assert_int_equal(client_open(&other, b->plane), -EINVAL);
    other.grant.n_entries = ENTRIES;
    other.grant.client = UINT32_MAX;
    assert_int_equal(client_open(&other, b->plane), -EINVAL);
    client_free(&other);
}

static void what_is_refused_in_a_drain_was_never_accepted(void **state)
{
    struct plane_bench *b = *state;
    const struct part_head *part = segment_part(&b->rig.seg, 0);

    client_call(&b->client, ECHO);
    plane_bench_await(b, &b->client);
    plane_drain(b->plane, false);
    for (int i = 0; i < 3; i++) {
        client_call(&b->client, ECHO);
        struct plane_completion got = plane_bench_await(b, &b->client);
        assert_int_equal(got.end, CALL_END_NOT_STARTED);
        assert_int_equal(got.error, -ESHUTDOWN);
    }
    plane_bench_turn(b, 2);
    assert_int_equal(part->requests_accepted, 1);
    assert_int_equal(part->requests_ended, 1);
    plane_resume(b->plane);
    client_call(&b->client, ECHO);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    plane_bench_turn(b, 2);
    assert_int_equal(part->requests_accepted, 2);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, plane_bench_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_request_is_served_and_its_answer_comes_with_its_end),
        CASE(rings_go_round),
        CASE(arguments_and_an_answer_lie_in_the_data_area),
        CASE(an_answer_without_room_for_it_is_a_failure_that_says_so),
        CASE(a_room_is_filled_where_it_lies_wherever_that_begins),
        CASE(a_method_that_takes_arguments_in_place_gets_the_clients_memory),
        CASE(a_failure_brings_its_text_cut_where_there_is_no_room),
        CASE(a_method_that_is_none_ends_as_not_started),
        CASE(what_is_past_its_deadline_is_not_run),
        CASE(a_deadline_ends_what_waits),
        CASE(a_cancel_of_what_has_ended_leaves_the_next_of_that_id_alone),
        CASE(a_cancel_ends_the_request_of_that_id_and_has_no_end_of_its_own),
        CASE(a_request_runs_where_its_route_says),
        CASE(what_runs_is_what_was_routed),
        CASE(what_can_run_anywhere_and_is_not_small_runs_where_its_client_s_memory_is),
        CASE(arguments_too_long_to_be_routed_by_run_nowhere_rather_than_anywhere),
        CASE(a_route_to_no_shard_ends_as_not_started),
        CASE(a_large_answer_of_another_shard_comes_into_the_room),
        CASE(what_another_shard_serves_can_be_cancelled),
        CASE(a_shard_that_sleeps_asks_to_be_rung_and_wakes_by_it),
        CASE(a_quiet_lane_is_looked_at_no_more),
        CASE(a_client_that_sleeps_is_rung_once_for_what_ends_together),
        CASE(what_is_dropped_ends_its_requests_and_leaves_no_row),
        CASE(memory_that_is_not_as_granted_is_not_mapped),
        CASE(what_is_refused_in_a_drain_was_never_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
