/* SPDX-License-Identifier: MIT */
/* Clients that break the protocol are cut off with a reason, those that ask for too much wait, and
 * nobody else notices. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/pace.h"
#include "tests/unit/plane/plane_rig.h"

enum { ECHO, NAP, SPIN, SHORT, N_METHODS };

static int64_t short_until_ns;

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static int coroutine_fn run_nap(struct service_call *call)
{
    return service_sleep_ns(call, INT64_C(3600) * 1000000000);
}

static int coroutine_fn run_spin(struct service_call *call)
{
    int64_t until_ns = aio_clock_ns() + 2000000;

    (void)call;
    while (aio_clock_ns() < until_ns)
        ;
    return 0;
}

static int coroutine_fn run_short(struct service_call *call)
{
    return service_sleep_ns(call, short_until_ns - aio_clock_ns());
}

static const struct service_method methods[] = {
    [ECHO] = {"echo", run_echo, SERVICE_IDEMPOTENT, ""},
    [NAP] = {"nap", run_nap, 0, ""},
    [SPIN] = {"spin", run_spin, 0, ""},
    [SHORT] = {"short", run_short, 0, ""},
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = N_METHODS};

static int set_up(void **state)
{
    *state = plane_bench_new(&service, 0);
    return 0;
}

static int set_up_small(void **state)
{
    *state = plane_bench_new(&service, 4);
    return 0;
}

/* ---- what is another's ---- */

static void no_byte_of_an_answer_reaches_the_next_client(void **state)
{
    static const uint8_t zeros[PLANE_INLINE_ANSWER];
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);
    struct plane_completion c;
    struct client other;

    memset(client_data(&b->client, 0), 's', PLANE_INLINE_ANSWER);
    entry->method = ECHO;
    entry->args_len = PLANE_INLINE_ANSWER;
    client_push(&b->client);
    c = plane_bench_await(b, &b->client);
    assert_int_equal(c.len, PLANE_INLINE_ANSWER);
    assert_memory_equal(c.inline_answer, client_data(&b->client, 0), PLANE_INLINE_ANSWER);
    client_make(&other, &b->rig, 0, 50, 16, 4096);
    assert_int_equal(client_open(&other, b->plane), 0);
    client_call(&other, ECHO); /* in the slot that was given back last */
    c = plane_bench_await(b, &other);
    assert_int_equal(c.len, 0);
    assert_memory_equal(c.inline_answer, zeros, sizeof(zeros));
    plane_drop(b->plane, 50, 1);
    plane_bench_turn(b, 2);
    client_free(&other);
}

/* ---- what makes no sense ---- */

typedef void spoil_fn(struct client *client, struct plane_submission *entry);

static void unknown_flag(struct client *client, struct plane_submission *entry)
{
    (void)client;
    entry->flags = 0x80;
}

static void unknown_route(struct client *client, struct plane_submission *entry)
{
    (void)client;
    entry->route_kind = N_PLANE_ROUTES;
}

static void long_inline_args(struct client *client, struct plane_submission *entry)
{
    (void)client;
    entry->args_len = PLANE_INLINE_ARGS + 1;
}

static void args_behind_the_end(struct client *client, struct plane_submission *entry)
{
    entry->flags = 0;
    entry->args_off = client->grant.data_bytes - 10;
    entry->args_len = 11;
}

static void args_that_wrap(struct client *client, struct plane_submission *entry)
{
    (void)client;
    entry->flags = 0;
    entry->args_off = UINT64_MAX - 5;
    entry->args_len = 10;
}

static void room_behind_the_end(struct client *client, struct plane_submission *entry)
{
    entry->room_off = client->grant.data_bytes;
    entry->room_len = 1;
}

static void room_that_wraps(struct client *client, struct plane_submission *entry)
{
    (void)client;
    entry->room_off = UINT64_MAX;
    entry->room_len = UINT32_MAX;
}

static void jumped_turn(struct client *client, struct plane_submission *entry)
{
    atomic_store_release(&entry->turn, (uint32_t)client->pushed + 7);
}

static void rewound_turn(struct client *client, struct plane_submission *entry)
{
    atomic_store_release(&entry->turn, (uint32_t)client->pushed - 1);
}

static const struct breach {
    spoil_fn *spoil;
    enum cut_reason reason;
    bool has_turn; /* the entry is not published by its proper turn */
} breaches[] = {
    {unknown_flag, CUT_FLAGS, false},
    {unknown_route, CUT_FLAGS, false},
    {long_inline_args, CUT_ARGS, false},
    {args_behind_the_end, CUT_ARGS, false},
    {args_that_wrap, CUT_ARGS, false},
    {room_behind_the_end, CUT_ROOM, false},
    {room_that_wraps, CUT_ROOM, false},
    {jumped_turn, CUT_TURN, true},
    {rewound_turn, CUT_TURN, true},
};

static void arguments_of_no_bytes_may_lie_anywhere(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = ECHO;
    entry->args_off = UINT64_MAX;
    entry->room_off = UINT64_MAX;
    client_push(&b->client);
    struct plane_completion completion = plane_bench_await(b, &b->client);
    assert_int_equal(completion.error, 0);
    assert_int_equal(completion.len, 0);
}

static void who_breaks_the_protocol_is_cut_off_with_a_reason_and_harms_nobody(void **state)
{
    struct plane_bench *b = *state;
    uint64_t *n_cut = &segment_part(&b->rig.seg, 0)->clients_cut;

    for (uint32_t i = 0; i < sizeof(breaches) / sizeof(breaches[0]); i++) {
        struct client bad;
        client_make(&bad, &b->rig, 0, 10 + i, 16, 4096);
        assert_int_equal(client_open(&bad, b->plane), 0);
        client_call(&bad, NAP);
        client_call(&bad, ECHO);
        plane_bench_await(b, &bad);
        struct plane_submission *entry = client_next(&bad);
        entry->flags = PLANE_ARGS_INLINE;
        breaches[i].spoil(&bad, entry);
        if (!breaches[i].has_turn)
            client_push(&bad);
        plane_bench_turn(b, 3);
        assert_int_equal(plane_bench_row(b, &bad)->state, CLIENT_LANE_CUT);
        assert_int_equal(plane_bench_row(b, &bad)->reason, breaches[i].reason);
        assert_int_equal(*n_cut, i + 1);
        assert_true(plane_is_idle(b->plane)); /* what it had under way is over */
        client_call(&b->client, ECHO);
        assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
        plane_drop(b->plane, 10 + i, 1);
        plane_bench_turn(b, 2);
        assert_int_equal(plane_bench_row(b, &bad)->state, CLIENT_LANE_NONE);
        client_free(&bad);
    }
}

static void more_in_flight_than_the_ring_has_entries_is_a_breach(void **state)
{
    struct plane_bench *b = *state;

    b->client.grant.max_in_flight = 1000;
    plane_drop(b->plane, 3, 1);
    plane_bench_turn(b, 2);
    b->client.grant.generation = 2;
    assert_int_equal(client_open(&b->client, b->plane), 0);
    for (int i = 0; i < 16; i++)
        client_call(&b->client, NAP);
    plane_bench_turn(b, 5);
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_OPEN);
    client_call(&b->client, NAP);
    plane_bench_turn(b, 5);
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_CUT);
    assert_int_equal(plane_bench_row(b, &b->client)->reason, CUT_OVERRUN);
}

/* What is served is the copy: bytes that change after that, the ones that were checked among them,
 * do nothing. */
static void an_entry_that_changes_while_it_is_served_changes_nothing(void **state)
{
    struct plane_bench *b = *state;
    struct plane_submission *entry = client_next(&b->client);

    entry->method = NAP;
    entry->flags = PLANE_ARGS_INLINE;
    entry->deadline_ns = (uint64_t)aio_clock_ns() + 5000000;
    entry->room_len = 100;
    client_push(&b->client);
    plane_bench_turn(b, 2);
    memset(entry, 0xff, offsetof(struct plane_submission, turn));
    entry->room_off = UINT64_MAX - 3;
    struct plane_completion c = plane_bench_await(b, &b->client);
    assert_int_equal(c.id, 0);
    assert_int_equal(c.end, CALL_END_EXPIRED);
}

/* Heads and tails are the shard's own: what a client does to its copies is its own affair. */
static void noise_over_all_that_the_server_writes_harms_only_its_client(void **state)
{
    struct plane_bench *b = *state;
    struct plane_words *words = plane_words_of(&b->client.layout, b->client.base, 0);

    for (int i = 0; i < 64; i++) {
        client_call(&b->client, ECHO);
        plane_bench_turn(b, 2);
        memset(plane_completion_at(&b->client.layout, b->client.base, 0, 0), i * 37,
            16 * sizeof(struct plane_completion));
        memset(words, i * 91, sizeof(*words));
    }
    plane_bench_turn(b, 4);
    assert_int_equal(plane_bench_row(b, &b->client)->tail, 64);
    assert_int_equal(plane_bench_row(b, &b->client)->requests, 64);
    words->client_sleeps = 0;
    client_call(&b->client, ECHO);
    b->client.popped = 64;
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
}

static void a_bell_that_is_rung_without_end_wakes_and_does_no_more(void **state)
{
    struct plane_bench *b = *state;
    char bytes[4096] = {0};

    while (send(b->client.bells[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    plane_bench_turn(b, 50);
    client_call(&b->client, ECHO);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    close(b->client.bells[0]);
    b->client.bells[0] = dup(1);
    plane_bench_turn(b, 400);
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_OPEN);
}

/* ---- quotas ---- */

static void open_again(struct plane_bench *b)
{
    plane_drop(b->plane, 3, b->client.grant.generation);
    plane_bench_turn(b, 2);
    b->client.grant.generation++;
    b->client.pushed = b->client.popped = 0;
    memset(b->client.base, 0, b->client.layout.lane_bytes);
    assert_int_equal(client_open(&b->client, b->plane), 0);
}

static void push_flags(struct client *client, uint32_t method, uint8_t flags)
{
    struct plane_submission *entry = client_next(client);

    entry->method = (uint16_t)method;
    entry->flags = PLANE_ARGS_INLINE | flags;
    client_push(client);
}

static void push_cancel(struct client *client, uint64_t id)
{
    struct plane_submission *entry = client_next(client);

    entry->id = entry->route = id;
    entry->flags = PLANE_CANCEL;
    client_push(client);
}

static void what_is_beyond_the_quota_waits_or_is_refused_as_asked(void **state)
{
    struct plane_bench *b = *state;

    b->client.grant.max_in_flight = 4;
    open_again(b);
    for (int i = 0; i < 4; i++)
        client_call(&b->client, NAP);
    push_flags(&b->client, ECHO, PLANE_REFUSE);
    struct plane_completion c = plane_bench_await(b, &b->client);
    assert_int_equal(c.id, 4);
    assert_int_equal(c.end, CALL_END_NOT_STARTED);
    assert_int_equal(c.error, -EAGAIN);
    assert_true(c.retry_us > 0);
    assert_int_equal(plane_bench_row(b, &b->client)->refused, 1);

    push_cancel(&b->client, 2);
    client_call(&b->client, ECHO);
    client_call(&b->client, NAP);
    client_call(&b->client, ECHO);
    assert_int_equal(plane_bench_await(b, &b->client).id, 2);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    plane_bench_turn(b, 20);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 8); /* the last one waits */
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_OPEN);
}

static void bytes_in_flight_are_bounded_and_one_request_alone_is_not_larger(void **state)
{
    struct plane_bench *b = *state;

    b->client.grant.max_bytes = 10000;
    open_again(b);
    for (int i = 0; i < 3; i++) {
        struct plane_submission *entry = client_next(&b->client);
        entry->method = NAP;
        entry->flags = PLANE_ARGS_INLINE;
        entry->room_len = i == 0 ? 10001 : 6000;
        client_push(&b->client);
    }
    struct plane_completion c = plane_bench_await(b, &b->client);
    assert_int_equal(c.error, -EMSGSIZE);
    plane_bench_turn(b, 20);
    assert_int_equal(plane_bench_row(b, &b->client)->head, 2);
}

static void a_payload_is_at_most_what_it_may_be_whatever_the_quota(void **state)
{
    struct plane_bench *b = *state;
    struct client large;

    client_make(&large, &b->rig, 0, 50, 16, PLANE_PAYLOAD_MAX + PLANE_PAGE);
    large.grant.max_bytes = UINT64_MAX;
    assert_int_equal(client_open(&large, b->plane), 0);
    for (int i = 0; i < 3; i++) {
        struct plane_submission *entry = client_next(&large);
        entry->method = NAP;
        entry->args_len = i == 1 ? PLANE_PAYLOAD_MAX + 1 : 0;
        entry->room_len = i == 1 ? 0 : PLANE_PAYLOAD_MAX + (i == 2);
        client_push(&large);
    }
    for (uint64_t id = 1; id <= 2; id++) {
        struct plane_completion c = plane_bench_await(b, &large);
        assert_int_equal(c.id, id);
        assert_int_equal(c.end, CALL_END_NOT_STARTED);
        assert_int_equal(c.error, -EMSGSIZE);
    }
    assert_int_equal(plane_bench_row(b, &large)->head, 3);
    plane_drop(b->plane, 50, large.grant.generation);
    client_free(&large);
}

static void a_rate_is_kept(void **state)
{
    struct plane_bench *b = *state;
    int64_t begin_ns = aio_clock_ns();

    /* The first 40 are the burst. All are timed: a machine that stands still earns another. */
    b->client.grant.max_rate = 2000;
    open_again(b);
    for (int i = 0; i < 80; i++) {
        client_call(&b->client, ECHO);
        plane_bench_await(b, &b->client);
    }
    assert_true(aio_clock_ns() - begin_ns >= 19 * 1000000);
}

static void one_who_waits_for_its_rate_costs_nothing_until_then(void **state)
{
    struct plane_bench *b = *state;
    uint64_t polls;

    b->client.grant.max_rate = 20;
    open_again(b);
    for (int i = 0; i < 16; i++)
        client_call(&b->client, ECHO);
    for (int i = 0; i < 16; i++)
        plane_bench_await(b, &b->client);
    client_call(&b->client, ECHO);
    polls = segment_counters(&b->rig.seg, 0)->polls;
    struct plane_completion c;
    while (!client_pop(&b->client, &c))
        aio_poll(b->end.ctx, true);
    assert_true(segment_counters(&b->rig.seg, 0)->polls - polls < 50);
}

static uint32_t count_refused(struct plane_bench *b, uint32_t method)
{
    uint32_t n_refused = 0;

    for (int i = 0; i < 16; i++)
        push_flags(&b->client, method, PLANE_REFUSE);
    for (int i = 0; i < 16; i++) {
        struct plane_completion c = plane_bench_await(b, &b->client);
        assert_true(c.end == CALL_END_DONE || c.error == -EAGAIN);
        assert_true(c.end == CALL_END_DONE || c.retry_us >= 1000);
        n_refused += c.error == -EAGAIN;
    }
    return n_refused;
}

/* A shard that had no processor for longer than anybody would wait was behind, whatever was asked.
 * For one alone there is nothing to wait for. */
static void assert_quick_ones_are_served(struct plane_bench *b)
{
    int64_t begin_ns = aio_clock_ns();

    if (count_refused(b, ECHO) > 0)
        assert_true(aio_clock_ns() - begin_ns > PACE_WAIT_NS);
    push_flags(&b->client, ECHO, PLANE_REFUSE);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
}

static void a_shard_that_is_behind_refuses_who_would_rather_not_wait(void **state)
{
    struct plane_bench *b = *state;
    uint32_t n_refused, before;

    assert_quick_ones_are_served(b);
    before = plane_bench_row(b, &b->client)->refused;
    n_refused = count_refused(b, SPIN);
    assert_in_range(n_refused, 1, 15);
    assert_int_equal(plane_bench_row(b, &b->client)->refused, before + n_refused);
    plane_bench_turn(b, 2);
    assert_quick_ones_are_served(b); /* it has caught up */
}

/* ---- many clients ---- */

static void a_full_ledger_leaves_room_for_who_has_little(void **state)
{
    struct plane_bench *b = *state;
    uint32_t n_ledger = b->rig.seg.geometry.n_ledger, n_hogs = n_ledger / 256;
    struct client hogs[16];

    assert_true(n_hogs <= 16);
    for (uint32_t i = 0; i < n_hogs; i++) {
        client_make(&hogs[i], &b->rig, 0, 100 + i, 1024, 4096);
        assert_int_equal(client_open(&hogs[i], b->plane), 0);
        for (int k = 0; k < 1024; k++)
            client_call(&hogs[i], NAP);
    }
    plane_bench_turn(b, 1000);
    for (int i = 0; i < 8; i++) {
        client_call(&b->client, ECHO);
        assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
    }
    push_flags(&hogs[0], ECHO, 0);
    for (uint32_t i = 0; i < n_hogs; i++) {
        assert_int_equal(plane_bench_row(b, &hogs[i])->state, CLIENT_LANE_OPEN);
        assert_true(plane_bench_row(b, &hogs[i])->requests < 1024); /* the rest waits */
        assert_true(plane_bench_row(b, &hogs[i])->requests > 100);
        plane_drop(b->plane, 100 + i, 1);
    }
    plane_bench_turn(b, 10);
    for (uint32_t i = 0; i < n_hogs; i++)
        client_free(&hogs[i]);
    assert_true(plane_is_idle(b->plane));
}

static void push_copied(struct client *client, uint32_t method)
{
    struct plane_submission *entry = client_next(client);

    entry->method = (uint16_t)method;
    entry->args_len = 1u << 20;
    entry->room_len = 1u << 20;
    client_push(client);
}

/* How many requests with a mebibyte of arguments each one that wants more has under way. */
static uint64_t hoard(struct plane_bench *b, struct client *client)
{
    for (int i = 0; i < 40; i++)
        push_copied(client, NAP);
    plane_bench_turn(b, 20);
    return plane_bench_row(b, client)->head;
}

static void copies_of_arguments_are_bounded_for_all_clients_together(void **state)
{
    struct plane_bench *b = *state;
    struct client clients[3];
    struct plane_completion c = {0};
    uint64_t first, second, again;
    bool has_ended;

    for (uint32_t i = 0; i < 3; i++) {
        client_make(&clients[i], &b->rig, 0, 50 + i, 64, 1u << 20);
        clients[i].grant.max_bytes = UINT64_C(1) << 30;
        assert_int_equal(client_open(&clients[i], b->plane), 0);
    }
    first = hoard(b, &clients[0]);
    second = hoard(b, &clients[1]);
    push_copied(&clients[2], ECHO); /* the next one finds some */
    plane_bench_turn(b, 20);
    has_ended = client_pop(&clients[2], &c);
    for (uint32_t i = 0; i < 2; i++)
        plane_drop(b->plane, 50 + i, 1);
    plane_bench_turn(b, 20);
    again = hoard(b, &clients[2]) - 1; /* but the echo */
    plane_drop(b->plane, 52, 1);
    plane_bench_turn(b, 20);
    for (uint32_t i = 0; i < 3; i++)
        client_free(&clients[i]);
    assert_in_range(first, 1, 15);
    assert_in_range(second, 1, 16 - first);
    assert_true(has_ended);
    assert_int_equal(c.end, CALL_END_DONE);
    assert_int_equal(again, first);
}

static void a_ledger_without_room_still_refuses_and_goes_on(void **state)
{
    struct plane_bench *b = *state;
    struct plane_completion c;

    for (int i = 0; i < 3; i++)
        client_call(&b->client, NAP);
    plane_bench_turn(b, 4);
    for (int i = 0; i < 12; i++) {
        push_flags(&b->client, ECHO, PLANE_REFUSE);
        c = plane_bench_await(b, &b->client);
        assert_int_equal(c.error, -EAGAIN);
    }
    push_cancel(&b->client, 0);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_CANCELLED);
    client_call(&b->client, ECHO);
    assert_int_equal(plane_bench_await(b, &b->client).end, CALL_END_DONE);
}

static void many_refusals_at_once_need_no_more_than_the_slot_that_is_kept(void **state)
{
    struct plane_bench *b = *state;

    for (int i = 0; i < 3; i++)
        client_call(&b->client, NAP);
    for (int i = 0; i < 12; i++)
        push_flags(&b->client, ECHO, PLANE_REFUSE);
    for (int i = 0; i < 12; i++)
        assert_int_equal(plane_bench_await(b, &b->client).error, -EAGAIN);
    assert_int_equal(plane_bench_row(b, &b->client)->state, CLIENT_LANE_OPEN);
}

static void a_full_ring_of_one_does_not_keep_others_waiting(void **state)
{
    struct plane_bench *b = *state;
    struct client greedy;
    uint64_t before;

    client_make(&greedy, &b->rig, 0, 50, 4096, 4096);
    greedy.grant.max_in_flight = 4096;
    assert_int_equal(client_open(&greedy, b->plane), 0);
    for (int i = 0; i < 4096; i++)
        client_call(&greedy, ECHO);
    client_call(&b->client, ECHO);
    before = plane_bench_row(b, &greedy)->head;
    plane_bench_await(b, &b->client);
    assert_true(plane_bench_row(b, &greedy)->head - before <= 128);
    plane_drop(b->plane, 50, 1);
    plane_bench_turn(b, 2);
    client_free(&greedy);
}

/* ---- ends ---- */

struct dropping {
    struct plane_bench *b;
    struct client client;
};

static void drop(void *opaque)
{
    struct dropping *d = opaque;

    plane_drop(d->b->plane, d->client.grant.client, d->client.grant.generation);
}

/* What ended by itself in the same turn is written, and free, in the midst of the cancelling. */
static void all_that_a_dead_client_had_under_way_is_cancelled(void **state)
{
    struct dropping d = {.b = *state};
    int64_t until_ns;
    AioTimer timer;

    client_make(&d.client, &d.b->rig, 0, 50, 64, 4096);
    assert_int_equal(client_open(&d.client, d.b->plane), 0);
    for (int i = 0; i < 20; i++)
        client_call(&d.client, NAP);
    short_until_ns = aio_clock_ns() + 20000000;
    client_call(&d.client, SHORT);
    for (int i = 0; i < 7; i++)
        client_call(&d.client, NAP);
    plane_bench_turn(d.b, 5);
    aio_timer_init(d.b->end.ctx, &timer, drop, &d);
    timer_mod_ns(&timer, short_until_ns + 200000);
    while (aio_clock_ns() < short_until_ns + 1000000)
        ; /* both are due in one turn */
    until_ns = aio_clock_ns() + INT64_C(60) * 1000000000;
    do {
        plane_bench_turn(d.b, 1);
        assert_true(aio_clock_ns() < until_ns);
    } while (plane_bench_row(d.b, &d.client)->state != CLIENT_LANE_NONE);
    client_free(&d.client);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, plane_bench_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(no_byte_of_an_answer_reaches_the_next_client),
        CASE(who_breaks_the_protocol_is_cut_off_with_a_reason_and_harms_nobody),
        CASE(arguments_of_no_bytes_may_lie_anywhere),
        CASE(more_in_flight_than_the_ring_has_entries_is_a_breach),
        CASE(an_entry_that_changes_while_it_is_served_changes_nothing),
        CASE(noise_over_all_that_the_server_writes_harms_only_its_client),
        CASE(a_bell_that_is_rung_without_end_wakes_and_does_no_more),
        CASE(what_is_beyond_the_quota_waits_or_is_refused_as_asked),
        CASE(bytes_in_flight_are_bounded_and_one_request_alone_is_not_larger),
        CASE(a_payload_is_at_most_what_it_may_be_whatever_the_quota),
        CASE(a_rate_is_kept),
        CASE(one_who_waits_for_its_rate_costs_nothing_until_then),
        CASE(a_shard_that_is_behind_refuses_who_would_rather_not_wait),
        CASE(a_full_ledger_leaves_room_for_who_has_little),
        CASE(copies_of_arguments_are_bounded_for_all_clients_together),
        cmocka_unit_test_setup_teardown(
            a_ledger_without_room_still_refuses_and_goes_on, set_up_small, plane_bench_tear_down),
        cmocka_unit_test_setup_teardown(
            many_refusals_at_once_need_no_more_than_the_slot_that_is_kept, set_up_small,
            plane_bench_tear_down),
        CASE(a_full_ring_of_one_does_not_keep_others_waiting),
        CASE(all_that_a_dead_client_had_under_way_is_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
