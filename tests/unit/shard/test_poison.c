/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "shard/dead_letter.h"
#include "tests/unit/shard/mesh_rig.h"
#include "tests/unit/shard/scratch_dir.h"

enum { M_DIE, M_NAP, M_COUNT };

/* What became of the calls, by which of them it was. */
enum { WORD_END, WORD_STATUS = 2, WORD_TEXT = 4, WORD_NAPS = 6, WORD_WAKE };

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

static const struct service_method methods[] = {
    [M_DIE] = {.name = "die", .run = run_die, .flags = SERVICE_IDEMPOTENT, .help = "dies"},
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = SERVICE_IDEMPOTENT, .help = "sleeps"},
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
    calls.die.method = M_DIE;
    calls.die.args = "bitter almonds";
    calls.die.args_len = 14;
    assert_int_equal(mesh_call_start(end->mesh, &calls.nap), 0);
    rig_poll_until(end, it_naps, end->rig);
    assert_int_equal(mesh_call_start(end->mesh, &calls.die), 0);
    rig_poll_until(end, both_have_ended, &calls);
}

static void bury_and_replace(struct rig *rig, bool crash)
{
    rig_join(rig, 1);
    if (crash)
        rig_note_crash(rig, 1);
    rig_bury(rig, 1, false);
    rig_fork(rig, 1, rig_serve);
}

static void open_rig(struct rig *rig, const char *letters_dir)
{
    rig_open(rig, 2, &poison_service);
    rig->letters_dir = letters_dir;
    rig_of_test = rig;
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, calling_body);
}

static void check_nap_and_close(struct rig *rig)
{
    atomic_store(&rig->board->words[WORD_WAKE], 1);
    rig_join(rig, 0);
    assert_int_equal(atomic_load(&rig->board->words[WORD_END + 1]), CALL_END_DONE);
    assert_true(rig_balances(rig));
    assert_int_equal(rig_slots_in_use(rig), 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            the_third_crash_of_a_call_parks_it_and_spares_the_others, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            deaths_by_others_hands_do_not_count, scratch_make, scratch_remove),
        cmocka_unit_test(a_letter_that_cannot_be_kept_ends_the_call_all_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
