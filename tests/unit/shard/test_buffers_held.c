/* SPDX-License-Identifier: MIT */
/*
 * Shared buffers that are out of use: I/O of a dead process may still touch them, or their reader
 * is stopped. The ends are processes; the test's own plays the supervisor and, where it writes into
 * a dead end's buffer, the kernel.
 */
#include "runtime/coroutine_sanitize.h"
#include "tests/unit/shard/buffers_fixture.h"

/* ---- I/O after death ---- */

static void caller_of_the_stalled(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_STALL, LARGE, false);

    begin(&asking);
    rig_poll_until(end, is_over, &asking); /* its shard dies */
    expect(asking.answer.end == CALL_END_IN_DOUBT);
    call_answer_deinit(&asking.answer);
    for (int i = 0; i < 12; i++)
        ask_fill(end);
    done_with(end, 1);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_quarantined_bytes == 0);
}

/* The test writes to the room for as long as the kernel might: whoever used it again would see. */
static void a_buffer_in_flight_is_not_used_again_before_it_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_the_stalled);
    rig_wait_word(&rig, WORD_STALLED, 1);
    uint8_t *room = rig.seg.base + atomic_load(&rig.board->words[WORD_ROOMS]);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    while (atomic_load(&rig.board->words[WORD_STEP]) < 1)
        memset(room, LATE_BYTE, LARGE);
    assert_true(is_filled(room, LARGE, LATE_BYTE));
    assert_true(segment_part(&rig.seg, 1)->heap_quarantined_bytes >= LARGE);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_of_a_keeper(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_KEEP, 1, false);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    asking.large = large;
    ask(end, &asking); /* its shard dies */
    expect(asking.answer.end == CALL_END_IN_DOUBT);
    call_answer_deinit(&asking.answer);
    /* What is sent now must not lie where the kernel may still read the old. */
    memset(large, LATE_BYTE, LARGE);
    asking = new_asking(end, M_LOOK, 1, false);
    asking.large = large;
    asking.wish.fill = LATE_BYTE;
    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
    ask_fill(end);
    expect(own->heap_quarantined_bytes >= LARGE);
    expect(is_filled(end->rig->seg.base + atomic_load(&board->words[WORD_ROOMS]), LARGE, OLD_BYTE));
    done_with(end, 1);
    ask_fill(end);
    expect(own->heap_quarantined_bytes == 0 && own->heap_used_bytes == 0);
    free(large);
}

static void arguments_that_a_dead_shard_may_be_writing_to_disk_stay_as_they_were(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_a_keeper);
    rig_wait_word(&rig, WORD_STALLED, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void what_two_dead_had_in_flight_is_kept_until_each_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    uint64_t *words = segment_flights(&rig.seg, 1);
    struct heap heap;
    struct flights flights;
    AioContext *ctx;

    assert_int_equal(aio_context_new(&(struct aio_config){.engine = AIO_ENGINE_THREADS}, &ctx), 0);
    words[0] = flight_word(1, 1, 2);
    words[5] = flight_word(2, 1, 1);
    words[6] = flight_word(2, 99, 1); /* no such peer */
    words[7] = flight_word(2, 1, 0xffff);
    assert_int_equal(heap_init(&heap, ctx, segment_heap_off(&rig.seg, 1), 16 * SEGMENT_PAGE, 3), 0);
    flights_init(&flights, &rig.seg, &heap, 1, 3);
    assert_int_equal(flights.n_quarantined, 3);
    assert_int_equal(heap.n_used, 3);
    assert_int_equal(words[6] | words[7], 0);
    assert_false(flights_look(&flights));
    segment_control(&rig.seg, 1)->quiet_incarnation = 1;
    assert_true(flights_look(&flights));
    assert_int_equal(flights.n_quarantined, 1);
    assert_int_equal(words[0], 0);
    segment_control(&rig.seg, 1)->quiet_incarnation = 2;
    assert_true(flights_look(&flights));
    assert_int_equal(heap.n_used, 0);
    heap_deinit(&heap);
    aio_context_unref(ctx);
    rig_close(&rig);
}

/* As many rooms of SEGMENT_PAYLOAD_MAX as one caller may have of a heap: two thirds, or one. */
static unsigned most_rooms(const struct segment *seg)
{
    uint64_t n = seg->geometry.heap_bytes * 2 / 3 / SEGMENT_PAYLOAD_MAX;

    return n ? (unsigned)n : 1;
}

static void caller_of_a_full_heap(struct rig_end *end)
{
    struct asking askings[ALL_ROOMS];
    unsigned n = most_rooms(&end->rig->seg);

    for (unsigned i = 0; i < n; i++) {
        askings[i] = new_asking(end, M_STALL, SEGMENT_PAYLOAD_MAX, false);
        begin(&askings[i]);
    }
    rig_poll_until(end, is_over, &askings[0]);
    for (unsigned i = 0; i < n; i++)
        rig_poll_until(end, is_over, &askings[i]);

    /* One fits beside what is in quarantine, and is answered; with two of them one waits. */
    struct asking last[3];

    for (unsigned i = 0; i < 3; i++) {
        last[i] = new_asking(end, M_FILL, SEGMENT_PAYLOAD_MAX, false);
        begin(&last[i]);
    }
    done_with(end, 1); /* returns once the test has seen one wait */
    for (unsigned i = 0; i < 3; i++) {
        rig_poll_until(end, is_over, &last[i]);
        expect(is_answered(&last[i]));
        call_answer_deinit(&last[i].answer);
    }
    for (unsigned i = 0; i < n; i++)
        call_answer_deinit(&askings[i].answer);
}

/* Waits are published at the end of a turn, so another call to the callee brings them out. */
static void a_heap_full_of_quarantine_makes_calls_wait_and_fails_none(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_a_full_heap);
    uint64_t n = most_rooms(&rig.seg);
    assert_in_range(n, 1, ALL_ROOMS);
    rig_wait_word(&rig, WORD_STALLED, n);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_STEP, 1);
    while (atomic_load_acquire(&segment_part(&rig.seg, 1)->heap_waits) == 0)
        sched_yield();
    assert_int_equal(segment_part(&rig.seg, 1)->heap_quarantined_bytes, n * SEGMENT_PAYLOAD_MAX);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

/* ---- a receiver that is stopped ---- */

#define MANY 24

/* Asks for more than its share, and does not look into its ring until it is told. The last one has
 * a deadline, which passes while it stands in line there. */
static void caller_that_stops(struct rig_end *end)
{
    struct asking askings[MANY];

    for (unsigned i = 0; i < MANY; i++) {
        askings[i] = new_asking(end, M_FILL, LARGE, false);
        askings[i].timeout_ns = i == MANY - 1 ? HEAP_PATIENCE_NS : 0;
        begin(&askings[i]);
    }
    int64_t deadline_ns = aio_clock_ns() + HEAP_PATIENCE_NS;
    aio_poll(end->ctx, false); /* they are out */
    atomic_store(&board->words[WORD_STEP], 1);
    while (atomic_load(&board->words[WORD_GO]) < 1 || aio_clock_ns() < deadline_ns)
        sched_yield();
    for (unsigned i = 0; i < MANY; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        if (i < MANY - 1)
            expect(is_answered(&askings[i]));
        else
            expect(askings[i].status == -ETIMEDOUT && askings[i].answer.end == CALL_END_EXPIRED);
        call_answer_deinit(&askings[i].answer);
    }
}

static void caller_beside_it(struct rig_end *end)
{
    for (int i = 0; i < 20; i++)
        ask_fill(end);
    atomic_store(&board->words[WORD_STEP], 2);
}

static void who_is_stopped_with_its_share_of_answers_stops_nobody_else(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, caller_that_stops);
    rig_wait_word(&rig, WORD_STEP, 1);
    uint64_t most = rig.seg.geometry.heap_bytes * 2 / 3;
    while (atomic_load_acquire(&segment_part(&rig.seg, 1)->heap_used_bytes) + LARGE < most)
        sched_yield();
    rig_fork(&rig, 2, caller_beside_it);
    rig_wait_word(&rig, WORD_STEP, 2); /* all it asked for was answered meanwhile */
    assert_true(segment_part(&rig.seg, 1)->heap_waits > 0);
    let_go(&rig, 1);
    rig_join(&rig, 2);
    end_case(&rig);
}

/* A callee that does not look into its ring holds the arguments; a call to another one goes on. */
static void caller_of_one_that_stops(struct rig_end *end)
{
    struct asking askings[MANY], other = new_asking(end, M_LOOK, 1, false);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    for (unsigned i = 0; i < MANY; i++) {
        askings[i] = new_asking(end, M_LOOK, 1, false);
        askings[i].large = large;
        askings[i].timeout_ns = i < MANY / 2 ? 0 : HEAP_PATIENCE_NS;
        begin(&askings[i]);
    }
    other.large = large;
    other.target = 2;
    for (int i = 0; i < 20; i++) {
        ask(end, &other);
        expect(is_answered(&other));
        call_answer_deinit(&other.answer);
    }
    for (unsigned i = MANY / 2; i < MANY; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        expect(askings[i].status == -ETIMEDOUT && askings[i].answer.end == CALL_END_EXPIRED);
    }
    atomic_store(&board->words[WORD_STEP], 1);
    for (unsigned i = 0; i < MANY / 2; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        expect(is_answered(&askings[i]));
        call_answer_deinit(&askings[i].answer);
    }
    free(large);
}

static void serve_once_it_is_let_go(struct rig_end *end)
{
    while (atomic_load(&board->words[WORD_GO]) < 1)
        sched_yield();
    rig_serve(end);
}

static void who_is_stopped_with_its_share_of_arguments_stops_nobody_else(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 1, serve_once_it_is_let_go);
    rig_fork(&rig, 2, rig_serve);
    rig_fork(&rig, 0, caller_of_one_that_stops);
    rig_wait_word(&rig, WORD_STEP, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

int main(void)
{
#ifdef CO_WITH_TSAN
    return 77; /* the ends are processes, of which it sees one, and their deadlines are short */
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_buffer_in_flight_is_not_used_again_before_it_is_quiet),
        cmocka_unit_test(arguments_that_a_dead_shard_may_be_writing_to_disk_stay_as_they_were),
        cmocka_unit_test(what_two_dead_had_in_flight_is_kept_until_each_is_quiet),
        cmocka_unit_test(a_heap_full_of_quarantine_makes_calls_wait_and_fails_none),
        cmocka_unit_test(who_is_stopped_with_its_share_of_answers_stops_nobody_else),
        cmocka_unit_test(who_is_stopped_with_its_share_of_arguments_stops_nobody_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
