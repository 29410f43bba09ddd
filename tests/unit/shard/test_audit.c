/* SPDX-License-Identifier: MIT */
#include "shard/audit.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/arena.h"
#include "tests/unit/shard/mesh_rig.h"

#define LONG_ARGS 5000
#define RUNS      200 /* sherd audit --count 1000 is the long form */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static const struct service_method methods[] = {
    {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
};
static const struct service test_service = {
    .abi = SERVICE_ABI, .name = "test", .help = "for tests", .methods = methods, .n_methods = 1};

/* ---- auditing ---- */

struct found {
    struct audit_finding last;
    struct audit_result result;
};

static void keep_last(void *opaque, const struct audit_finding *finding)
{
    ((struct found *)opaque)->last = *finding;
}

static struct found audit_rig(const struct rig *rig)
{
    struct found found = {.last = {.from = UINT32_MAX}};
    struct segment_view view;
    struct audit *audit;
    const char *why;

    assert_int_equal(segment_view_on(rig->seg.base, rig->seg.bytes, &view, &why), 0);
    assert_int_equal(audit_new(&view, &audit, &why), 0);
    audit_run(audit, keep_last, &found, &found.result);
    audit_free(audit);
    segment_view_close(&view);
    return found;
}

static void assert_balanced(const struct rig *rig)
{
    struct found found = audit_rig(rig);

    if (found.result.n_findings)
        fail_msg("%u to %u: %llu %s, but %llu %s", found.last.from, found.last.to,
            (unsigned long long)found.last.expected, audit_expected_text(found.last.account),
            (unsigned long long)found.last.found, audit_found_text(found.last.account));
}

static void assert_wrong(
    const struct rig *rig, enum audit_account account, uint32_t from, uint32_t to)
{
    struct found found = audit_rig(rig);

    assert_int_equal(found.result.n_findings, 1);
    assert_int_equal(found.last.account, account);
    assert_int_equal(found.last.from, from);
    assert_int_equal(found.last.to, to);
}

/* ---- a segment with one pair's accounts filled in by hand, and nobody at work ---- */

static int open_still(void **state)
{
    static struct rig rig;

    rig_open(&rig, 2, &test_service);
    *state = &rig;
    return 0;
}

static int close_rig(void **state)
{
    rig_close(*state);
    return 0;
}

static struct call_slot *hold_slot(struct rig *rig, uint32_t slot, uint64_t generation)
{
    struct call_slot *call = segment_call(&rig->seg, 0, 1, slot);

    call->word = generation << 8 | CALL_WAITING;
    segment_pair(&rig->seg, 0, 1)->calls_submitted++;
    return call;
}

static void slots_and_ends_make_up_what_was_submitted(void **state)
{
    struct rig *rig = *state;

    hold_slot(rig, 0, 1);
    segment_pair(&rig->seg, 0, 1)->calls_submitted += 2;
    segment_pair(&rig->seg, 0, 1)->ends[CALL_END_DONE] = 1;
    segment_pair(&rig->seg, 0, 1)->ends[CALL_END_NONE] = 1;
    struct found found = audit_rig(rig);

    assert_int_equal(found.result.n_findings, 0);
    assert_int_equal(found.result.submitted, 3);
    assert_int_equal(found.result.under_way, 1);
    assert_int_equal(found.result.ended[CALL_END_DONE], 1);
}

static void a_call_that_was_lost_is_found(void **state)
{
    struct rig *rig = *state;

    hold_slot(rig, 0, 1)->word = UINT64_C(1) << 8 | CALL_FREE;
    assert_wrong(rig, AUDIT_CALLS, 0, 1);
}

static void a_call_that_ended_twice_is_found(void **state)
{
    struct rig *rig = *state;

    hold_slot(rig, 0, 1)->word = UINT64_C(1) << 8 | CALL_FREE;
    segment_pair(&rig->seg, 0, 1)->ends[CALL_END_DONE] = 2;
    assert_wrong(rig, AUDIT_CALLS, 0, 1);
}

static void a_death_within_a_submission_leaves_balanced_accounts(void **state)
{
    struct rig *rig = *state;
    struct redo_record *redo = &segment_part(&rig->seg, 0)->redo;

    hold_slot(rig, 3, 1);
    segment_pair(&rig->seg, 0, 1)->calls_submitted = 0;
    *redo = (struct redo_record){.kind = REDO_SUBMIT,
        .pair = 1,
        .slot = 3,
        .word = UINT64_C(1) << 8 | CALL_WAITING,
        .value = 1};
    assert_balanced(rig);
    redo->kind = REDO_NONE;
    assert_wrong(rig, AUDIT_CALLS, 0, 1);
}

static void a_death_before_a_submission_counts_nothing(void **state)
{
    struct rig *rig = *state;

    segment_part(&rig->seg, 0)->redo = (struct redo_record){.kind = REDO_SUBMIT,
        .pair = 1,
        .slot = 3,
        .word = UINT64_C(1) << 8 | CALL_WAITING,
        .value = 1};
    assert_balanced(rig);
}

static void a_death_within_an_end_leaves_balanced_accounts(void **state)
{
    struct rig *rig = *state;
    struct call_slot *call = hold_slot(rig, 3, 1);

    segment_part(&rig->seg, 0)->redo = (struct redo_record){.kind = REDO_END,
        .pair = 1,
        .slot = 3,
        .word = UINT64_C(1) << 8 | CALL_FREE,
        .value = 1,
        .end = CALL_END_DONE};
    assert_balanced(rig);
    call->word = UINT64_C(1) << 8 | CALL_FREE;
    assert_balanced(rig);
    segment_pair(&rig->seg, 0, 1)->ends[CALL_END_DONE] = 1;
    assert_balanced(rig);
}

static void a_method_begun_for_nobody_is_found(void **state)
{
    struct rig *rig = *state;

    segment_pair(&rig->seg, 1, 0)->calls_started = 1;
    assert_wrong(rig, AUDIT_STARTED, 0, 1);
}

static void more_messages_than_a_ring_has_room_for_are_found(void **state)
{
    struct rig *rig = *state;

    *segment_tail(&rig->seg, 0, 1, LANE_URGENT) =
        segment_ring_slots(&rig->seg, 0, 1, LANE_URGENT) + 1;
    assert_wrong(rig, AUDIT_RING, 0, 1);
}

static void two_calls_with_one_buffer_are_found(void **state)
{
    struct rig *rig = *state;
    uint64_t heap = segment_heap_off(&rig->seg, 0);
    struct call_slot *first = hold_slot(rig, 0, 1), *second = hold_slot(rig, 1, 1);

    first->args_off = heap;
    first->args_len = 5000;
    second->args_off = heap + 8192;
    second->args_len = 5000;
    assert_balanced(rig);
    second->args_off = heap + 4096;
    assert_wrong(rig, AUDIT_SHARED_BUFFER, 0, 1);
    first->args_off = 0; /* its arguments are copied */
    assert_balanced(rig);
}

static void an_answer_in_the_buffer_of_another_call_is_found(void **state)
{
    struct rig *rig = *state;
    uint64_t heap = segment_heap_off(&rig->seg, 0);
    struct call_slot *call = hold_slot(rig, 0, 1);

    call->args_off = heap;
    call->args_len = 5000;
    *segment_serve(&rig->seg, 0, 1, 7) =
        (struct serve_slot){.answer_generation = 1, .answer_off = heap, .answer_len = 300};
    assert_int_equal(audit_rig(rig).last.account, AUDIT_SHARED_BUFFER);
}

static void a_buffer_outside_its_heap_is_found(void **state)
{
    struct rig *rig = *state;
    struct call_slot *call = hold_slot(rig, 0, 1);

    call->args_off = segment_heap_off(&rig->seg, 1);
    call->args_len = 5000;
    assert_wrong(rig, AUDIT_BUFFER, 0, 1);
}

static void a_request_of_a_client_that_was_lost_is_found(void **state)
{
    struct rig *rig = *state;

    for (uint32_t peer = 0; peer <= 2; peer++) { /* two shards' local clients, and the gateway's */
        struct part_head *head = segment_part(&rig->seg, peer);
        head->incarnation = segment_control(&rig->seg, peer)->incarnation;
        head->requests_accepted = 5;
        head->requests_ended = 3;
        head->requests_in_flight = 2;
    }
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.requests_accepted, 15);
    assert_int_equal(audit_rig(rig).result.requests_ended, 9);
    assert_int_equal(audit_rig(rig).result.requests_in_flight, 6);
    for (uint32_t peer = 0; peer <= 2; peer++) {
        segment_part(&rig->seg, peer)->requests_in_flight = 1;
        assert_wrong(rig, AUDIT_REQUESTS, peer, peer);
        segment_part(&rig->seg, peer)->requests_in_flight = 2;
    }
}

static void a_local_clients_request_that_was_lost_is_found(void **state)
{
    struct rig *rig = *state;
    struct client_lane *lane = segment_client_lane(&rig->seg, 1, 7);
    struct ledger_slot *slot = segment_ledger(&rig->seg, 1, 4);

    *lane = (struct client_lane){
        .generation = 3, .state = CLIENT_LANE_OPEN, .head = 9, .requests = 8, .tail = 7};
    assert_wrong(rig, AUDIT_CLIENT, 1, 1);
    *slot = (struct ledger_slot){
        .word = 2 << 8 | LEDGER_STARTED, .client = 7, .client_generation = 3, .number = 7};
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.lane_requests_under_way, 1);
    slot->client_generation = 2; /* of another client, that had the number before */
    assert_wrong(rig, AUDIT_CLIENT, 1, 1);
    slot->client_generation = 3;
    lane->tail = 8;
    assert_wrong(rig, AUDIT_CLIENT, 1, 1);
    slot->word = 2 << 8 | LEDGER_ENDED; /* and its position given out */
    assert_balanced(rig);
    lane->tail = 7; /* or not yet */
    assert_balanced(rig);
}

/* ---- accounts that are exact while their owner rests ---- */

static void put_to_rest(struct rig *rig, uint32_t peer)
{
    segment_control(&rig->seg, peer)->state = PEER_UP;
    segment_control(&rig->seg, peer)->incarnation = 4;
    segment_part(&rig->seg, peer)->incarnation = 4;
    segment_counters(&rig->seg, peer)->asleep = 1;
}

static void a_buffer_that_nobody_gave_back_is_found(void **state)
{
    struct rig *rig = *state;
    struct part_head *part = segment_part(&rig->seg, 0);

    put_to_rest(rig, 0);
    part->heap_used_bytes = 2 * SEGMENT_PAGE;
    assert_wrong(rig, AUDIT_HEAP, 0, 0);
    segment_serve(&rig->seg, 0, 1, 3)->answer_generation = 1;
    segment_serve(&rig->seg, 0, 1, 3)->answer_off = segment_heap_off(&rig->seg, 0);
    segment_serve(&rig->seg, 0, 1, 3)->answer_len = SEGMENT_PAGE + 1;
    assert_balanced(rig);
    part->heap_used_bytes = 0;
    assert_wrong(rig, AUDIT_HEAP, 0, 0);
    segment_counters(&rig->seg, 0)->asleep = 0; /* it is about to give it back */
    assert_balanced(rig);
}

static void what_io_may_touch_lies_in_the_heap_and_is_somebodys(void **state)
{
    struct rig *rig = *state;
    uint64_t *words = segment_flights(&rig->seg, 0);
    uint32_t n = (uint32_t)(rig->seg.geometry.heap_bytes / SEGMENT_PAGE);

    put_to_rest(rig, 0);
    segment_counters(&rig->seg, 0)->asleep = 0;
    words[3] = flight_word(4, 0, 2);
    words[5] = flight_word(3, 0, 1);
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.flights, 2);
    assert_int_equal(audit_rig(rig).result.quarantined_pages, 1);
    words[3] = flight_word(4, 0, 3);
    assert_wrong(rig, AUDIT_FLIGHT, 0, 0);
    words[3] = 0;
    words[n - 1] = flight_word(4, 0, 2);
    assert_wrong(rig, AUDIT_FLIGHT, 0, 0);
    words[n - 1] = flight_word(5, 0, 1);
    assert_wrong(rig, AUDIT_FLIGHT_OWNER, 0, 0);
    words[n - 1] = flight_word(1, 77, 1);
    assert_wrong(rig, AUDIT_FLIGHT_OWNER, 0, 0);
}

static void a_quarantine_that_is_forgotten_is_found(void **state)
{
    struct rig *rig = *state;

    put_to_rest(rig, 0);
    segment_part(&rig->seg, 0)->heap_used_bytes = 2 * SEGMENT_PAGE;
    segment_flights(&rig->seg, 0)[3] = flight_word(3, 0, 2);
    assert_wrong(rig, AUDIT_QUARANTINE, 0, 0);
    segment_part(&rig->seg, 0)->heap_quarantined_bytes = 2 * SEGMENT_PAGE;
    assert_balanced(rig);
}

static uint64_t word_in(uint64_t generation, enum arena_state state, uint32_t owner)
{
    return generation << 24 | (uint64_t)state << 16 | owner << 8 | owner;
}

static void a_portable_coroutine_that_no_shard_knows_is_found(void **state)
{
    struct rig *rig = *state;
    struct aio_instruments instruments;

    put_to_rest(rig, 1);
    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_SUSPENDED, 1);
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.portable, 1);
    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_RUNNING, 1);
    assert_wrong(rig, AUDIT_PORTABLE, 1, 1);
    segment_instruments(&rig->seg, 1, &instruments);
    instruments.coroutines[7] = (struct co_entry){
        .id = 3, .position_at = (uint64_t)(uintptr_t)segment_stack(&rig->seg, 3) - 64};
    assert_balanced(rig);
    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_QUEUED, 1);
    assert_wrong(rig, AUDIT_PORTABLE, 1, 1);
    segment_counters(&rig->seg, 1)->asleep = 0;
    assert_balanced(rig);
    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_QUEUED, 2);
    assert_int_equal(audit_rig(rig).last.account, AUDIT_PORTABLE_OWNER);
    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_QUEUED + 1, 1);
    assert_int_equal(audit_rig(rig).last.account, AUDIT_PORTABLE_OWNER);
}

static void memory_of_a_coroutine_that_never_was_is_found(void **state)
{
    struct rig *rig = *state;
    uint64_t *tag = segment_chunk_tag(&rig->seg, 5);

    segment_arena(&rig->seg, 2)->word = word_in(9, ARENA_SUSPENDED, 1);
    *tag = UINT64_C(9) << 24 | 3;
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.chunks, 1);
    *tag = UINT64_C(8) << 24 | 3; /* of one that has ended: free */
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.chunks, 0);
    *tag = UINT64_C(10) << 24 | 3;
    assert_int_equal(audit_rig(rig).last.account, AUDIT_CHUNK);
    *tag = 0xffffff;
    assert_int_equal(audit_rig(rig).last.account, AUDIT_CHUNK);
}

static void a_lock_that_stands_twice_or_is_a_dead_ones_is_found(void **state)
{
    struct rig *rig = *state;
    struct lock_record *locks = segment_locks(&rig->seg, 0);

    put_to_rest(rig, 0);
    put_to_rest(rig, 1);
    locks[0] = (struct lock_record){.word = LOCK_USED | LOCK_HELD,
        .id = 7,
        .holders = {{.peer = 1, .incarnation = 4}, {.peer = 1, .incarnation = 3}}};
    segment_pair(&rig->seg, 0, 1)->judged_incarnation = 4;
    assert_balanced(rig);
    assert_int_equal(audit_rig(rig).result.locks, 1);
    locks[0].word |= LOCK_SECOND;
    assert_wrong(rig, AUDIT_LOCK_HOLDER, 0, 1);
    segment_pair(&rig->seg, 0, 1)->judged_incarnation = 3; /* its death is not judged yet */
    assert_balanced(rig);
    locks[9] = (struct lock_record){.word = LOCK_USED | LOCK_OWNER_DIED, .id = 7};
    assert_wrong(rig, AUDIT_LOCK, 0, 0);
    locks[9].word = 0;
    locks[0].holders[1].incarnation = 5;
    assert_wrong(rig, AUDIT_LOCK_HOLDER, 0, 1);
}

/* ---- who may be audited ---- */

static void what_another_version_means_is_not_guessed(void **state)
{
    struct rig *rig = *state;
    struct segment_super *super = (struct segment_super *)rig->seg.base;
    struct segment_view view;
    struct audit *audit;
    const char *why;

    super->abi++;
    assert_int_equal(segment_view_on(rig->seg.base, rig->seg.bytes, &view, &why), 0);
    assert_int_equal(audit_new(&view, &audit, &why), -EPROTO);
    assert_non_null(strstr(why, "another version"));
    segment_view_close(&view);
    super->abi--;
}

/* ---- ends at work ---- */

static void coroutine_fn call_without_end(void *opaque)
{
    struct rig_end *end = opaque;
    static const uint8_t args[LONG_ARGS];

    for (uint32_t i = 0; !atomic_load(&end->rig->board->leave); i++) {
        struct call_answer answer;

        assert_int_equal(shard_call(end->mesh,
                             &(struct call_request){.target = !end->peer,
                                 .args = args,
                                 .args_len = i % 8 ? 16 : LONG_ARGS,
                                 .deadline_ns = INT64_MAX},
                             &answer),
            0);
        call_answer_deinit(&answer);
        atomic_fetch_add(&end->rig->board->words[end->peer], 1);
    }
    atomic_fetch_add(&end->rig->board->words[2], 1);
}

static bool both_are_done(void *opaque)
{
    struct rig_end *end = opaque;

    return atomic_load(&end->rig->board->words[2]) == 2 * 16;
}

static void call_and_serve(struct rig_end *end)
{
    for (int i = 0; i < 16; i++)
        coroutine_enter(coroutine_create(call_without_end, end));
    rig_serve_until(end, both_are_done, end);
}

static void under_load_nothing_is_found(void **state)
{
    struct rig rig;

    rig_open(&rig, 2, &test_service);
    rig_thread(&rig, 0, call_and_serve);
    rig_thread(&rig, 1, call_and_serve);
    rig_wait_word(&rig, 0, 100);
    rig_wait_word(&rig, 1, 100);
    for (int i = 0; i < RUNS; i++)
        assert_balanced(&rig);
    atomic_store(&rig.board->leave, 1);
    rig_join(&rig, 0);
    rig_join(&rig, 1);
    assert_balanced(&rig);
    assert_int_equal(audit_rig(&rig).result.under_way, 0);
    rig_close(&rig);
}

int main(void)
{
#define still(test) cmocka_unit_test_setup_teardown(test, open_still, close_rig)
    const struct CMUnitTest tests[] = {
        still(slots_and_ends_make_up_what_was_submitted),
        still(a_call_that_was_lost_is_found),
        still(a_call_that_ended_twice_is_found),
        still(a_death_within_a_submission_leaves_balanced_accounts),
        still(a_death_before_a_submission_counts_nothing),
        still(a_death_within_an_end_leaves_balanced_accounts),
        still(a_method_begun_for_nobody_is_found),
        still(more_messages_than_a_ring_has_room_for_are_found),
        still(two_calls_with_one_buffer_are_found),
        still(an_answer_in_the_buffer_of_another_call_is_found),
        still(a_buffer_outside_its_heap_is_found),
        still(a_request_of_a_client_that_was_lost_is_found),
        still(a_local_clients_request_that_was_lost_is_found),
        still(a_buffer_that_nobody_gave_back_is_found),
        still(what_io_may_touch_lies_in_the_heap_and_is_somebodys),
        still(a_quarantine_that_is_forgotten_is_found),
        still(a_portable_coroutine_that_no_shard_knows_is_found),
        still(memory_of_a_coroutine_that_never_was_is_found),
        still(a_lock_that_stands_twice_or_is_a_dead_ones_is_found),
        still(what_another_version_means_is_not_guessed),
        cmocka_unit_test(under_load_nothing_is_found),
    };
#undef still
    return cmocka_run_group_tests(tests, NULL, NULL);
}
