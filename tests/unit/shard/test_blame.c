/* SPDX-License-Identifier: MIT */
/* Who is charged with a crash, and how long its user waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "shard/blame.h"
#include "shard/geometry.h"
#include "shard/mesh_inside.h"

#define MS     INT64_C(1000000)
#define NOW_NS (1000 * MS)

static struct segment seg;

static int set_up(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    (void)state;
    assert_int_equal(segment_geometry_plan(2, 0, &geometry, &bytes), 0);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED);
    assert_int_equal(segment_init(&seg, base, bytes, &geometry, "test"), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    munmap(seg.base, seg.bytes);
    return 0;
}

/* As the supervisor would have noted it. */
static void was_running(
    uint32_t dead, uint32_t home, uint32_t caller, uint32_t slot, uint64_t generation)
{
    struct peer_control *control = segment_control(&seg, dead);

    control->crashed_home = home;
    control->crashed_peer = caller;
    control->crashed_slot = slot;
    control->crashed_generation = generation;
}

static void make_client(uint32_t client, uint64_t generation, uint32_t uid)
{
    struct client_row *row = segment_client(&seg, client);

    row->word = client_word(generation, CLIENT_ATTACHED);
    row->uid = uid;
}

/* Shard crashes over a request of that client's. */
static void crash_by_client(uint32_t shard, uint32_t client, uint64_t generation, int64_t now_ns)
{
    struct ledger_slot *request = segment_ledger(&seg, shard, 5);

    request->word = UINT64_C(1) << 8;
    request->client = client;
    request->client_generation = generation;
    was_running(shard, shard, shard, 5, 1);
    blame_note(&seg, shard, now_ns);
}

static void make_session(uint32_t row, uint32_t number, uint32_t uid)
{
    segment_session(&seg, row)->uid = uid;
    segment_session(&seg, row)->number = number;
}

/* Shard `dead` crashes over a call of caller's in slot 3 of home's. */
static void crash_by_call(
    uint32_t dead, uint32_t home, uint32_t caller, uint64_t origin, uint64_t generation)
{
    struct call_slot *call = segment_call(&seg, caller, home, 3);

    call->origin = origin;
    call->word = call_word(generation, CALL_ABANDONED); /* that does not help */
    was_running(dead, home, caller, 3, 7);
    blame_note(&seg, dead, NOW_NS);
}

/* ---- cases ---- */

static void each_crash_doubles_the_wait_of_its_user_and_others_do_not_wait(void **state)
{
    int64_t wait_ns = 0;

    (void)state;
    make_client(4, 9, 7);
    assert_int_equal(blame_until_ns(&seg, 7), 0);
    for (uint32_t i = 0; i < 40; i++) {
        crash_by_client(i % 2, 4, 9, NOW_NS);
        int64_t next_ns = blame_until_ns(&seg, 7) - NOW_NS;
        assert_true(next_ns == (i == 0 ? BLAME_WAIT_FIRST_MS * MS : 2 * wait_ns) ||
                    next_ns == BLAME_WAIT_MOST_MS * MS);
        assert_true(next_ns >= wait_ns);
        wait_ns = next_ns;
        assert_int_equal(blame_seen(&seg), i + 1);
    }
    assert_int_equal(wait_ns, BLAME_WAIT_MOST_MS * MS);
    assert_int_equal(blame_until_ns(&seg, 8), 0);
}

static void a_crash_is_settled_once_its_incarnation_is_over(void **state)
{
    struct peer_control *control = segment_control(&seg, 1);

    (void)state;
    make_session(2, 77, 7);
    assert_true(blame_is_settled(&seg, origin_of_session(77, 1)));
    control->incarnation = control->crashed_incarnation = 5;
    crash_by_call(1, 1, segment_gateway(&seg), origin_of_session(77, 1), 7);
    assert_false(blame_is_settled(&seg, origin_of_session(77, 1)));
    control->incarnation = 6;
    assert_true(blame_is_settled(&seg, origin_of_session(77, 1)));
}

static void a_slot_that_is_anothers_by_now_is_charged_to_nobody(void **state)
{
    struct ledger_slot *request = segment_ledger(&seg, 0, 5);

    (void)state;
    make_client(4, 9, 7);
    request->word = UINT64_C(2) << 8;
    request->client = 4;
    request->client_generation = 9;
    was_running(0, 0, 0, 5, 1);
    blame_note(&seg, 0, NOW_NS);
    assert_int_equal(blame_seen(&seg), 0);
    assert_int_equal(blame_until_ns(&seg, 7), 0);
}

static void a_day_after_its_last_wait_a_user_begins_anew(void **state)
{
    int64_t later_ns = NOW_NS + INT64_C(25) * 3600 * 1000 * MS;

    (void)state;
    make_client(4, 9, 7);
    for (int i = 0; i < 5; i++)
        crash_by_client(0, 4, 9, NOW_NS);
    crash_by_client(0, 4, 9, later_ns);
    assert_int_equal(blame_until_ns(&seg, 7), later_ns + BLAME_WAIT_FIRST_MS * MS);
}

static void where_there_is_no_room_those_who_wait_longest_keep_theirs(void **state)
{
    int64_t until_ns;

    (void)state;
    make_client(4, 9, 7);
    for (int i = 0; i < 10; i++)
        crash_by_client(0, 4, 9, NOW_NS);
    until_ns = blame_until_ns(&seg, 7);
    for (uint32_t uid = 100; uid < 100 + 2 * SEGMENT_CLIENT_USERS; uid++) {
        make_client(5, uid, uid);
        crash_by_client(0, 5, uid, NOW_NS + (int64_t)uid);
    }
    assert_int_equal(blame_until_ns(&seg, 7), until_ns);
    assert_true(blame_until_ns(&seg, 100 + 2 * SEGMENT_CLIENT_USERS - 1) > 0);
    assert_int_equal(blame_until_ns(&seg, 100), 0);
}

static void a_client_is_charged_in_whichever_shard_it_asked(void **state)
{
    uint64_t origin = origin_of_client(1, 4, 9);

    (void)state;
    make_client(4, 9, 7);
    crash_by_client(0, 4, 9, NOW_NS);
    crash_by_client(1, 4, 9, NOW_NS);
    assert_int_equal(blame_crashes(&seg, origin), 2);
    assert_int_equal(segment_culprits(&seg)[0].home, 1);
    assert_int_equal(segment_culprits(&seg)[0].uid, 7);
    assert_int_equal(blame_crashes(&seg, origin_of_client(1, 4, 10)), 0);
    assert_int_equal(blame_crashes(&seg, origin_of_client(1, 5, 9)), 0);
    assert_int_equal(blame_crashes(&seg, 0), 0);
}

static void a_call_is_charged_to_whose_request_it_is_made_for(void **state)
{
    (void)state;
    make_client(4, 9, 7);
    crash_by_call(1, 1, 0, origin_of_client(0, 4, 9), 7);
    assert_int_equal(blame_crashes(&seg, origin_of_client(0, 4, 9)), 1);
    assert_int_equal(segment_culprits(&seg)[0].home, 0);
    assert_int_equal(segment_culprits(&seg)[0].shard, 1);
    assert_true(blame_until_ns(&seg, 7) > NOW_NS);
}

static void a_session_is_charged_for_all_its_requests(void **state)
{
    uint32_t gateway = segment_gateway(&seg);

    (void)state;
    make_session(2, 77, CLIENT_USER_REMOTE);
    crash_by_call(0, 0, gateway, origin_of_session(77, 1000), 7);
    crash_by_call(1, 0, gateway, origin_of_session(77, 1001), 7); /* it had moved */
    assert_int_equal(blame_crashes(&seg, origin_of_session(77, 3)), 2);
    assert_int_equal(blame_crashes(&seg, origin_of_session(78, 1000)), 0);
    assert_true(blame_until_ns(&seg, CLIENT_USER_REMOTE) > NOW_NS);
}

static void what_is_nobodys_is_charged_to_nobody(void **state)
{
    (void)state;
    make_client(4, 9, 7);
    make_session(2, 77, 7);
    was_running(0, 0, 0, 0, 0); /* nothing was on the CPU */
    blame_note(&seg, 0, NOW_NS);
    crash_by_call(1, 1, 0, 0, 7);                          /* of a shard's own */
    crash_by_call(1, 1, 0, origin_of_client(0, 4, 9), 8);  /* another call has the slot now */
    crash_by_call(1, 1, 0, origin_of_client(0, 4, 10), 7); /* another client has the number */
    crash_by_call(1, 1, 0, origin_of_client(0, 0xffff, 9), 7);
    crash_by_call(1, 1, 0, origin_of_session(5, 9), 7);
    assert_int_equal(blame_seen(&seg), 0);
    assert_int_equal(blame_until_ns(&seg, 7), 0);
    assert_int_equal(segment_culprits(&seg)[0].who, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(each_crash_doubles_the_wait_of_its_user_and_others_do_not_wait),
        CASE(a_crash_is_settled_once_its_incarnation_is_over),
        CASE(a_slot_that_is_anothers_by_now_is_charged_to_nobody),
        CASE(a_day_after_its_last_wait_a_user_begins_anew),
        CASE(where_there_is_no_room_those_who_wait_longest_keep_theirs),
        CASE(a_client_is_charged_in_whichever_shard_it_asked),
        CASE(a_call_is_charged_to_whose_request_it_is_made_for),
        CASE(a_session_is_charged_for_all_its_requests),
        CASE(what_is_nobodys_is_charged_to_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
