/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "runtime/coroutine_sanitize.h"
#include "shard/dead_letter.h"
#include "shard/poison.h"
#include "tests/unit/shard/mesh_rig.h"
#include "tests/unit/shard/scratch_dir.h"

enum { M_DIE, M_NAP, M_DIE_AWAY, M_OUTER, M_COUNT };

/* What became of the calls, by which of them it was. */
enum { WORD_END, WORD_STATUS = 2, WORD_TEXT = 4, WORD_NAPS = 6, WORD_WAKE, WORD_RUNS };

static struct rig *rig_of_test; /* for methods, which run in children of the test */

static int coroutine_fn run_die(struct service_call *call)
{
    (void)call;
    return kill(getpid(), SIGKILL); /* how it dies is for rig_note_crash() to say */
}

static int coroutine_fn run_nap(struct service_call *call)
{
    struct rig_board *board = rig_of_test->board;

    atomic_fetch_add(&board->words[WORD_NAPS], 1);
    while (!atomic_load(&board->words[WORD_WAKE]))
        service_sleep_ns(call, 500000);
    return 0;
}

/* In shard 2, where its arguments came along. */
static int coroutine_fn run_die_away(struct service_call *call)
{
    int r = service_move(call, 2);

    atomic_fetch_add(&rig_of_test->board->words[WORD_RUNS], 1);
    return r < 0 ? r : kill(getpid(), SIGKILL);
}

/* Has shard 2 die, and ends as that call does. */
static int coroutine_fn run_outer(struct service_call *call)
{
    void *answer = NULL;
    size_t len;

    atomic_fetch_add(&rig_of_test->board->words[WORD_RUNS], 1);
    int r = service_call_shard(call, 2, "poison.die", "bitter almonds", 14, &answer, &len);

    free(answer);
    return r;
}

static const struct service_method methods[] = {
    [M_DIE] = {.name = "die", .run = run_die, .flags = SERVICE_IDEMPOTENT, .help = "dies"},
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = SERVICE_IDEMPOTENT, .help = "sleeps"},
    [M_DIE_AWAY] = {.name = "die-away",
        .run = run_die_away,
        .flags = SERVICE_IDEMPOTENT | SERVICE_PORTABLE,
        .help = "dies in shard 2"},
    [M_OUTER] = {.name = "outer",
        .run = run_outer,
        .flags = SERVICE_IDEMPOTENT,
        .help = "calls shard 2, which dies"},
};

static const struct service poison_service = {.abi = SERVICE_ABI,
    .name = "poison",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

struct two_calls {
    struct mesh_call die, nap;
    struct rig_end *end;
    uint32_t n_ended;
};

static struct two_calls *calls_of_end;
static uint32_t method_to_call; /* by the next caller that is forked */

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct two_calls *calls = calls_of_end;
    struct rig_board *board = calls->end->rig->board;
    unsigned which = call == &calls->nap;
    char text[200];

    snprintf(text, sizeof(text), "%.*s", (int)answer->len, (const char *)answer->data);
    atomic_store(&board->words[WORD_STATUS + which], (uint64_t)-answer->status);
    atomic_store(&board->words[WORD_TEXT + which], strstr(text, "dead-letter-1") != NULL);
    atomic_store(&board->words[WORD_END + which], answer->end);
    calls->n_ended++;
}

static bool both_have_ended(void *opaque)
{
    return ((struct two_calls *)opaque)->n_ended == 2;
}

static bool it_naps(void *opaque)
{
    return atomic_load(&((struct rig *)opaque)->board->words[WORD_NAPS]) > 0;
}

static void calling_body(struct rig_end *end)
{
    struct two_calls calls = {.end = end};

    calls_of_end = &calls;
    calls.nap =
        (struct mesh_call){.target = 1, .method = M_NAP, .deadline_ns = INT64_MAX, .done = on_done};
    calls.die = calls.nap;
    calls.die.method = method_to_call;
    calls.die.args = "bitter almonds";
    calls.die.args_len = 14;
    assert_int_equal(mesh_call_start(end->mesh, &calls.nap), 0);
    rig_poll_until(end, it_naps, end->rig);
    assert_int_equal(mesh_call_start(end->mesh, &calls.die), 0);
    rig_poll_until(end, both_have_ended, &calls);
}

static void bury_shard(struct rig *rig, uint32_t shard, bool crash)
{
    rig_join(rig, shard);
    if (crash)
        rig_note_crash(rig, shard);
    rig_bury(rig, shard, false);
    rig_fork(rig, shard, rig_serve);
}

static void bury_and_replace(struct rig *rig, bool crash)
{
    bury_shard(rig, 1, crash);
}

static void open_shards(
    struct rig *rig, uint32_t n_shards, const char *letters_dir, uint32_t method)
{
    rig_open(rig, n_shards, &poison_service);
    rig->letters_dir = letters_dir;
    rig_of_test = rig;
    method_to_call = method;
    for (uint32_t shard = n_shards; shard-- > 0;)
        rig_fork(rig, shard, shard ? rig_serve : calling_body);
}

static void open_rig(struct rig *rig, const char *letters_dir)
{
    open_shards(rig, 2, letters_dir, M_DIE);
}

static void check_nap_and_close(struct rig *rig)
{
    atomic_store(&rig->board->words[WORD_WAKE], 1);
    rig_join(rig, 0);
    assert_int_equal(atomic_load(&rig->board->words[WORD_END + 1]), CALL_END_DONE);
    /* The others may still be giving back the slots of moves. */
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20000000000);
    while (rig_slots_in_use(rig) > 0 && aio_clock_ns() < deadline_ns)
        sched_yield();
    assert_int_equal(rig_slots_in_use(rig), 0);
    assert_true(rig_balances(rig));
    rig_close(rig);
}

static void the_third_crash_of_a_call_parks_it_and_spares_the_others(void **state)
{
    struct rig rig;
    struct dead_letter *letter;

    open_rig(&rig, *state);
    for (uint32_t crash = 1; crash <= 3; crash++) {
        assert_int_equal(atomic_load(&rig.board->words[WORD_END]), 0);
        bury_and_replace(&rig, true);
    }
    rig_wait_word(&rig, WORD_END, 1);
    assert_int_equal(atomic_load(&rig.board->words[WORD_END]), CALL_END_FAILED);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), ENOTRECOVERABLE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_TEXT]), 1);
    assert_int_equal(segment_part(&rig.seg, 0)->n_poisoned, 1);
    assert_int_equal(dead_letter_read(*state, 1, &letter), 0);
    assert_string_equal(letter->head.method, "poison.die");
    assert_int_equal(letter->head.args_len, 14);
    assert_memory_equal(letter->args, "bitter almonds", 14);
    assert_int_equal(letter->head.caller, 0);
    assert_int_equal(letter->head.callee, 1);
    for (uint32_t crash = 0; crash < 3; crash++) {
        assert_int_equal(letter->head.crashed_shards[crash], 1);
        assert_int_equal(letter->head.crashed_incarnations[crash], crash + 1);
    }
    dead_letter_free(letter);
    check_nap_and_close(&rig);
}

static void the_third_crash_parks_a_call_also_where_its_coroutine_had_moved_to(void **state)
{
    struct dead_letter *letter;
    struct rig rig;

#ifdef CO_WITH_TSAN
    skip(); /* it sees one process, and the coroutine moves between two */
#endif
    open_shards(&rig, 3, *state, M_DIE_AWAY);
    for (uint32_t crash = 1; crash <= 3; crash++)
        bury_shard(&rig, 2, true);
    rig_wait_word(&rig, WORD_END, 1);
    assert_int_equal(atomic_load(&rig.board->words[WORD_END]), CALL_END_FAILED);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), ENOTRECOVERABLE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 3);
    assert_int_equal(dead_letter_read(*state, 1, &letter), 0);
    assert_string_equal(letter->head.method, "poison.die-away");
    assert_int_equal(letter->head.callee, 1);
    for (uint32_t crash = 0; crash < 3; crash++)
        assert_int_equal(letter->head.crashed_shards[crash], 2);
    dead_letter_free(letter);
    check_nap_and_close(&rig);
}

/* The call that was on the CPU is the inner one; who made it is told, and goes on. */
static void a_nested_call_that_crashes_its_shard_is_parked_and_not_the_one_around_it(void **state)
{
    uint32_t numbers[DEAD_LETTERS_MAX];
    struct dead_letter *letter;
    struct rig rig;

    open_shards(&rig, 3, *state, M_OUTER);
    for (uint32_t crash = 1; crash <= 3; crash++)
        bury_shard(&rig, 2, true);
    rig_wait_word(&rig, WORD_END, 1);
    assert_int_equal(atomic_load(&rig.board->words[WORD_END]), CALL_END_FAILED);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), ENOTRECOVERABLE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 1);
    assert_int_equal(segment_part(&rig.seg, 0)->n_poisoned, 0);
    assert_int_equal(segment_part(&rig.seg, 1)->n_poisoned, 1);
    assert_int_equal(dead_letter_list(*state, numbers), 1);
    assert_int_equal(dead_letter_read(*state, 1, &letter), 0);
    assert_string_equal(letter->head.method, "poison.die");
    assert_int_equal(letter->head.caller, 1);
    assert_int_equal(letter->head.callee, 2);
    assert_int_equal(letter->head.depth, 1);
    assert_memory_equal(letter->args, "bitter almonds", 14);
    dead_letter_free(letter);
    check_nap_and_close(&rig);
}

/* The one that waits for an answer, in a shard that crashes, was not on the CPU. */
static void one_that_waits_for_a_nested_call_is_not_counted(void **state)
{
    uint32_t numbers[DEAD_LETTERS_MAX];
    struct rig rig;

    open_shards(&rig, 3, *state, M_OUTER);
    for (uint32_t crash = 1; crash <= 2; crash++)
        bury_shard(&rig, 2, true);
    for (uint32_t crash = 1; crash <= 4;
         crash++) { /* of the outer one's shard, which dies waiting */
        rig_wait_word(&rig, WORD_RUNS, crash);
        rig_join(&rig, 2); /* the inner one was called, by this one too */
        kill(rig.ends[1].pid, SIGKILL);
        bury_shard(&rig, 1, true);
        rig_bury(&rig, 2, false);
        rig_fork(&rig, 2, rig_serve);
    }
    bury_shard(&rig, 2, true);
    bury_shard(&rig, 2, true);
    bury_shard(&rig, 2, true);
    rig_wait_word(&rig, WORD_END, 1);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), ENOTRECOVERABLE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), 5);
    assert_int_equal(segment_part(&rig.seg, 0)->n_poisoned, 0); /* the inner one alone */
    assert_int_equal(segment_part(&rig.seg, 1)->n_poisoned, 1);
    assert_int_equal(dead_letter_list(*state, numbers), 1);
    check_nap_and_close(&rig);
}

static void deaths_by_others_hands_do_not_count(void **state)
{
    struct rig rig;
    uint32_t numbers[DEAD_LETTERS_MAX];

    open_rig(&rig, *state);
    for (uint32_t death = 1; death <= 6; death++)
        bury_and_replace(&rig, death % 3 == 0); /* two crashes of six */
    rig_join(&rig, 1);
    rig_bury(&rig, 1, true);
    rig_join(&rig, 0);
    assert_int_equal(atomic_load(&rig.board->words[WORD_END]), CALL_END_FAILED);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), EHOSTDOWN);
    assert_int_equal(segment_part(&rig.seg, 0)->n_poisoned, 0);
    assert_int_equal(dead_letter_list(*state, numbers), 0);
    rig_close(&rig);
}

static void a_letter_that_cannot_be_kept_ends_the_call_all_the_same(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, "/nowhere");
    for (uint32_t crash = 1; crash <= 3; crash++)
        bury_and_replace(&rig, true);
    rig_wait_word(&rig, WORD_END, 1);
    assert_int_equal(atomic_load(&rig.board->words[WORD_STATUS]), ENOTRECOVERABLE);
    assert_int_equal(atomic_load(&rig.board->words[WORD_TEXT]), 0);
    check_nap_and_close(&rig);
}

static void on_kept(void *opaque, const char *text)
{
    *(bool *)opaque = strstr(text, "kept as dead-letter-1") != NULL;
}

static bool is_kept(void *opaque)
{
    return *(bool *)opaque;
}

static void a_letter_keeps_a_mebibyte_of_longer_arguments(void **state)
{
    const uint64_t len = SEGMENT_PAYLOAD_MAX + 100;
    char *args = malloc(len);
    struct dead_letter *letter;
    struct rig_end end;
    bool kept = false;
    struct rig rig;

    rig_open(&rig, 2, &poison_service);
    rig.letters_dir = *state;
    rig_begin(&rig, 0, &end);
    aio_context_set_current(end.ctx);
    memset(args, 'p', len);
    *segment_client(&rig.seg, 3) = (struct client_row){
        .word = client_word(7, CLIENT_ATTACHED), .uid = 12, .pid = 34, .name = "poisoner"};
    poison_keep(end.mesh,
        &(struct poisoned){.origin = origin_of_client(0, 3, 7), .args = args, .args_len = len},
        on_kept, &kept);
    rig_poll_until(&end, is_kept, &kept);
    assert_int_equal(dead_letter_read(*state, 1, &letter), 0);
    assert_int_equal(letter->head.args_len, SEGMENT_PAYLOAD_MAX);
    assert_int_equal(letter->head.whole_len, len);
    assert_memory_equal(letter->args, args, SEGMENT_PAYLOAD_MAX);
    assert_int_equal(letter->head.session, UINT32_MAX);
    assert_int_equal(letter->head.client, 3);
    assert_int_equal(letter->head.uid, 12);
    assert_int_equal(letter->head.pid, 34);
    assert_string_equal(letter->head.client_name, "poisoner");
    dead_letter_free(letter);
    free(args);
    aio_context_set_current(NULL);
    rig_finish(&end);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            the_third_crash_of_a_call_parks_it_and_spares_the_others, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            the_third_crash_parks_a_call_also_where_its_coroutine_had_moved_to, scratch_make,
            scratch_remove),
        cmocka_unit_test_setup_teardown(
            a_nested_call_that_crashes_its_shard_is_parked_and_not_the_one_around_it, scratch_make,
            scratch_remove),
        cmocka_unit_test_setup_teardown(
            one_that_waits_for_a_nested_call_is_not_counted, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            deaths_by_others_hands_do_not_count, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            a_letter_keeps_a_mebibyte_of_longer_arguments, scratch_make, scratch_remove),
        cmocka_unit_test(a_letter_that_cannot_be_kept_ends_the_call_all_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
