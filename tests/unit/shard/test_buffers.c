/* SPDX-License-Identifier: MIT */
/*
 * Answers in shared buffers: filled and read in place, held by a reader, over the death of either.
 * The ends are processes; the test's own plays the supervisor.
 */
#include "tests/unit/shard/buffers_fixture.h"

/* ---- no copies ---- */

static void caller_that_copies_nothing(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);

    ask(end, &asking);
    expect(is_answered(&asking));
    expect(lies_in_heap_of(&end->rig->seg, 1, asking.answer.data, LARGE));
    expect(!mesh_is_idle(end->mesh));
    coroutine_enter(asking.co); /* gives it back */
    expect(mesh_is_idle(end->mesh));
    expect(own->payload_copied_bytes == 0 && callee->payload_copied_bytes == 0);
    expect(own->payload_in_place_bytes == LARGE && callee->payload_in_place_bytes == LARGE);
}

static void what_is_filled_and_read_in_place_is_copied_by_nobody(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_copies_nothing);
    end_case(&rig);
}

static void caller_that_copies(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_COPY, LARGE, false);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);

    ask(end, &asking);
    expect(is_answered(&asking));
    expect(!lies_in_heap_of(&end->rig->seg, 1, asking.answer.data, LARGE));
    call_answer_deinit(&asking.answer);
    expect(own->payload_copied_bytes == LARGE && callee->payload_copied_bytes == LARGE);
}

static void copies_are_counted_where_they_are_made(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_copies);
    end_case(&rig);
}

static void check_rules(struct rig_end *end, uint32_t target)
{
    static const int32_t expected[] = {-EINVAL, -EMSGSIZE, -EMSGSIZE, 0, -EDEADLK, -EINVAL};
    struct asking asking = new_asking(end, M_RULES, 1, false);

    asking.target = target;
    ask(end, &asking);
    expect(asking.status == 0 && asking.answer.len == sizeof(expected) &&
           memcmp(asking.answer.data, expected, sizeof(expected)) == 0);
    call_answer_deinit(&asking.answer);
}

static void caller_of_rules(struct rig_end *end)
{
    check_rules(end, 0);
    check_rules(end, 1);
}

static void room_is_for_one_answer_and_whoever_has_it_calls_nobody(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_rules);
    end_case(&rig);
}

static void coroutine_fn call_while_reading(void *opaque)
{
    struct asking *asking = opaque;
    struct asking second = *asking;

    ask_co(asking);
    ask_co(&second);
    expect(is_answered(asking));
    expect(second.status == -EDEADLK && second.answer.end == CALL_END_NOT_STARTED);
    call_answer_deinit(&second.answer);
    call_answer_deinit(&asking->answer);
    ask_co(&second);
    expect(is_answered(&second));
    call_answer_deinit(&second.answer);
    asking->status = 1;
}

static bool is_at_its_end(void *opaque)
{
    return ((struct asking *)opaque)->status == 1;
}

static void caller_that_reads_and_calls(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);

    coroutine_enter(coroutine_create(call_while_reading, &asking));
    rig_poll_until(end, is_at_its_end, &asking);
}

static void who_reads_in_place_calls_nobody_until_it_has_given_back(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_reads_and_calls);
    end_case(&rig);
}

static void caller_with_large_arguments(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_LOOK, 1, false);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    asking.large = large;
    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
    expect(callee->payload_copied_bytes == 0 && callee->payload_in_place_bytes == LARGE);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 0)->heap_used_bytes == 0);
    free(large);
}

static void arguments_are_read_in_place_and_given_back(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_with_large_arguments);
    end_case(&rig);
}

/* ---- deaths ---- */

static void caller_that_reads_on(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);

    ask(end, &asking);
    expect(is_answered(&asking));
    done_with(end, 1);
    /* The replacement has served others from the same heap by now. */
    for (int i = 0; i < 12; i++) {
        struct asking other = new_asking(end, M_FILL, LARGE, false);
        other.wish.fill = (uint8_t)i;
        ask(end, &other);
        expect(is_answered(&other));
        call_answer_deinit(&other.answer);
    }
    expect(is_answered(&asking));
    coroutine_enter(asking.co); /* gives it back */
    ask_fill(end);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_used_bytes <= 2 * (LARGE + SEGMENT_PAGE));
}

static void an_answer_that_is_read_outlives_its_shard(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_reads_on);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_that_dies_reading(struct rig_end *end)
{
    struct asking askings[4];

    for (int i = 0; i < 4; i++) {
        askings[i] = new_asking(end, M_FILL, LARGE, true);
        ask(end, &askings[i]);
        expect(is_answered(&askings[i]));
    }
    done_with(end, 1);
}

static void caller_that_takes_over(struct rig_end *end)
{
    ask_fill(end);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_used_bytes <= 2 * (LARGE + SEGMENT_PAGE));
}

static void a_reader_that_dies_leaves_neither_slot_nor_buffer_taken(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_dies_reading);
    rig_wait_word(&rig, WORD_STEP, 1);
    assert_int_equal(rig_slots_in_use(&rig), 4);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, caller_that_takes_over);
    end_case(&rig);
}

/* ---- a callee that is slow to copy ---- */

static void caller_of_a_slow_one(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, false);
    uint8_t *large = calloc(1, LARGE);

    asking.large = large;
    begin(&asking);
    done_with(end, 1);
    free(large);
}

static bool holds_them(void *opaque)
{
    return segment_part(segment, 0)->heap_used_bytes >= LARGE;
}

static void heir_of_it(struct rig_end *end)
{
    rig_poll_until(end, holds_them, NULL);
    done_with(end, 2);
}

/* What has begun a call may be stopped before it copies the arguments; then its caller dies. The
 * callee is this process. */
static void arguments_that_were_not_copied_yet_are_not_the_heir_s_to_use(void **state)
{
    struct rig rig;
    uint32_t slot = 0;

    (void)state;
    open_rig(&rig, 2);
    rig_fork(&rig, 0, caller_of_a_slow_one);
    rig_wait_word(&rig, WORD_STEP, 1);
    while ((segment_call(&rig.seg, 0, 1, slot)->word & 0xff) != CALL_WAITING)
        slot++;
    struct call_slot *call = segment_call(&rig.seg, 0, 1, slot);
    assert_true(call->args_off != 0);
    segment_serve(&rig.seg, 1, 0, slot)->started = started_word(
        call->word >> 8 & CALL_GENERATION_MASK, segment_control(&rig.seg, 1)->incarnation);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, heir_of_it);
    rig_wait_word(&rig, WORD_STEP, 2);
    rig_kill(&rig, 0, false);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_filled_and_read_in_place_is_copied_by_nobody),
        cmocka_unit_test(copies_are_counted_where_they_are_made),
        cmocka_unit_test(room_is_for_one_answer_and_whoever_has_it_calls_nobody),
        cmocka_unit_test(who_reads_in_place_calls_nobody_until_it_has_given_back),
        cmocka_unit_test(arguments_are_read_in_place_and_given_back),
        cmocka_unit_test(an_answer_that_is_read_outlives_its_shard),
        cmocka_unit_test(a_reader_that_dies_leaves_neither_slot_nor_buffer_taken),
        cmocka_unit_test(arguments_that_were_not_copied_yet_are_not_the_heir_s_to_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
