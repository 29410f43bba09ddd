/* SPDX-License-Identifier: MIT */
/*
 * Calls outlive their caller where its heir adopts them. Peer 0 calls peer 1, and is killed; what
 * takes its place goes by the origin of each call.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_NAP, M_NAP_ONCE, M_COUNT };

/* By call: how often it ended, and how; bytes of its answer that are as they should be. */
enum {
    WORD_RUNS,
    WORD_STARTED,
    WORD_WAKE,
    WORD_ADOPTED,
    WORD_NOTED,
    WORD_ENDED,
    WORD_END = 8,
    WORD_LEN = 24
};

#define N_CALLS  4
#define ARGS_MAX 20000
#define FAR_NS   (INT64_C(20) * 1000000000)

static struct rig *rig_of_test; /* for methods, which run in children of the test */

/* Answers with its arguments, once it may. */
static int coroutine_fn run_nap(struct service_call *call)
{
    struct rig_board *board = rig_of_test->board;
    size_t len;
    const void *args = service_args(call, &len);

    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (!atomic_load(&board->words[WORD_WAKE])) {
        int r = service_sleep_ns(call, 500000);
        if (r < 0)
            return r;
    }
    return service_reply(call, args, len);
}

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    atomic_fetch_add(&rig_of_test->board->words[WORD_RUNS], 1);
    return service_reply(call, args, len);
}

static const struct service_method methods[] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .help = "args back"},
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = SERVICE_IDEMPOTENT, .help = "later"},
    [M_NAP_ONCE] = {.name = "nap-once", .run = run_nap, .help = "later, not to be run twice"},
};

static const struct service heir_service = {.abi = SERVICE_ABI,
    .name = "heir",
    .help = "for tests",
    .methods = methods,
    .n_methods = M_COUNT};

static const struct {
    uint32_t method;
    size_t args_len;
} asked[N_CALLS] = {{M_NAP_ONCE, 3}, {M_NAP, 7}, {M_NAP_ONCE, ARGS_MAX}, {M_NAP, ARGS_MAX}};

static uint8_t pattern[ARGS_MAX];

/* ---- the caller, and its heir ---- */

static uint32_t place_of(const struct mesh_call *call)
{
    return (uint32_t)call->origin - 1;
}

/* The slot still says that the call is under way. */
static void on_note(struct mesh_call *call, const struct mesh_answer *answer)
{
    const struct call_slot *slot = segment_call(&rig_of_test->seg, 0, call->target, call->slot);

    (void)answer;
    assert_int_equal(slot->word & 0xff, CALL_WAITING);
    atomic_fetch_add(&rig_of_test->board->words[WORD_NOTED], 1);
}

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct rig_board *board = rig_of_test->board;
    bool same = answer->len <= ARGS_MAX && !memcmp(answer->data, pattern, answer->len);

    atomic_store(&board->words[WORD_END + place_of(call)], (uint64_t)answer->end);
    atomic_store(&board->words[WORD_LEN + place_of(call)], same ? answer->len : UINT64_MAX);
    atomic_fetch_add(&board->words[WORD_ENDED], 1);
}

static void start_all(struct rig_end *end, int64_t deadline_ns)
{
    struct mesh_call *calls = calloc(N_CALLS, sizeof(*calls));

    for (uint32_t i = 0; i < N_CALLS; i++) {
        calls[i] = (struct mesh_call){.target = 1,
            .method = asked[i].method,
            .args = pattern,
            .args_len = asked[i].args_len,
            .deadline_ns = deadline_ns,
            .origin = i + 1,
            .origin_at = UINT32_MAX - i,
            .note = on_note,
            .done = on_done};
        assert_int_equal(mesh_call_start(end->mesh, &calls[i]), 0);
    }
    aio_poll(end->ctx, false);
    atomic_store(&end->rig->board->words[WORD_STARTED], 1);
}

static void calling_body(struct rig_end *end)
{
    start_all(end, INT64_MAX);
    rig_serve(end);
}

static void calling_with_deadlines_body(struct rig_end *end)
{
    start_all(end, aio_clock_ns() + INT64_C(1000) * 1000000);
    rig_serve(end);
}

/* Has the calls in the ring, and then never looks for answers. */
static void calling_and_stopping_body(struct rig_end *end)
{
    start_all(end, INT64_MAX);
    raise(SIGSTOP);
}

static struct mesh_call *adopt(const struct mesh_asked *left, void *opaque)
{
    struct rig *rig = opaque;
    struct mesh_call *call = calloc(1, sizeof(*call));
    void *copy = left->args ? malloc(left->args_len) : NULL;

    if (copy)
        memcpy(copy, left->args, left->args_len);
    assert_int_equal(left->method, asked[left->origin - 1].method);
    assert_int_equal(left->origin_at, UINT32_MAX - (left->origin - 1));
    assert_int_equal(left->args_len, asked[left->origin - 1].args_len);
    assert_true(!copy || !memcmp(copy, pattern, left->args_len));
    *call = (struct mesh_call){.args = copy, .note = on_note, .done = on_done};
    atomic_fetch_add(&rig->board->words[WORD_ADOPTED], 1);
    return call;
}

static struct mesh_call *adopt_none(const struct mesh_asked *left, void *opaque)
{
    (void)left;
    (void)opaque;
    return NULL;
}

/* ---- cases ---- */

static void begin(struct rig *rig, rig_body_fn *caller)
{
    for (size_t i = 0; i < ARGS_MAX; i++)
        pattern[i] = (uint8_t)(i * 7);
    rig_open(rig, 2, &heir_service);
    rig_of_test = rig;
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, caller);
    rig_wait_word(rig, WORD_RUNS, N_CALLS);
}

static void replace_caller(struct rig *rig, mesh_adopt_fn *how)
{
    rig_kill(rig, 0, false);
    rig->adopt = how;
    rig_fork(rig, 0, rig_serve);
}

static uint64_t end_of(const struct rig *rig, uint32_t call)
{
    return atomic_load(&rig->board->words[WORD_END + call]);
}

/* A slot of a call that was over before its answer comes back with that. */
static void wait_for_slots(struct rig *rig)
{
    for (int64_t until_ns = aio_clock_ns() + FAR_NS; rig_slots_in_use(rig);)
        assert_true(aio_clock_ns() < until_ns);
}

static void end(struct rig *rig)
{
    wait_for_slots(rig);
    rig_stop_all(rig);
    assert_true(rig_balances(rig));
    assert_int_equal(rig_slots_in_use(rig), 0);
    rig_close(rig);
}

static void check_all_done(struct rig *rig)
{
    rig_wait_word(rig, WORD_ENDED, N_CALLS);
    for (uint32_t i = 0; i < N_CALLS; i++) {
        assert_int_equal(end_of(rig, i), CALL_END_DONE);
        assert_int_equal(atomic_load(&rig->board->words[WORD_LEN + i]), asked[i].args_len);
    }
    assert_int_equal(atomic_load(&rig->board->words[WORD_ADOPTED]), N_CALLS);
    assert_int_equal(atomic_load(&rig->board->words[WORD_NOTED]), N_CALLS);
    assert_int_equal(atomic_load(&rig->board->words[WORD_RUNS]), N_CALLS);
}

static void what_runs_while_its_caller_dies_answers_the_heir(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig, calling_body);
    replace_caller(&rig, adopt);
    rig_wait_word(&rig, WORD_ADOPTED, N_CALLS);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    check_all_done(&rig);
    end(&rig);
}

static bool has_answered(void *opaque)
{
    const struct rig *rig = opaque;

    return segment_pair(&rig->seg, 1, 0)->pushed[LANE_NORMAL] >= N_CALLS;
}

static void answers_that_a_dead_caller_had_not_read_are_the_heir_s(void **state)
{
    struct rig rig;
    int status;

    (void)state;
    begin(&rig, calling_and_stopping_body);
    assert_int_equal(waitpid(rig.ends[0].pid, &status, WUNTRACED), rig.ends[0].pid);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    for (int64_t until_ns = aio_clock_ns() + FAR_NS; !has_answered(&rig);)
        assert_true(aio_clock_ns() < until_ns);
    replace_caller(&rig, adopt);
    check_all_done(&rig);
    end(&rig);
}

/* Small arguments stand in the slot; others are gone with the copy that the dead caller had, unless
 * it died before it heard that the callee has one of its own. */
static void with_the_callee_dead_too_what_can_be_run_again_is(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig, calling_body);
    replace_caller(&rig, adopt);
    rig_wait_word(&rig, WORD_ADOPTED, N_CALLS);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_wait_word(&rig, WORD_ENDED, N_CALLS);
    assert_int_equal(end_of(&rig, 0), CALL_END_IN_DOUBT);
    assert_int_equal(end_of(&rig, 1), CALL_END_DONE);
    assert_int_equal(end_of(&rig, 2), CALL_END_IN_DOUBT);
    bool has_args = end_of(&rig, 3) == CALL_END_DONE;
    assert_true(has_args || end_of(&rig, 3) == CALL_END_IN_DOUBT);
    assert_int_equal(atomic_load(&rig.board->words[WORD_RUNS]), N_CALLS + 1 + has_args);
    end(&rig);
}

/* Both dead at once: the heir finds the callee's next incarnation already there. */
static void with_both_dead_at_once_the_heir_judges(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig, calling_body);
    rig_kill(&rig, 1, false);
    replace_caller(&rig, adopt);
    rig_fork(&rig, 1, rig_serve);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    rig_wait_word(&rig, WORD_ENDED, N_CALLS);
    assert_int_equal(end_of(&rig, 0), CALL_END_IN_DOUBT);
    end(&rig);
}

static void a_deadline_holds_for_the_heir(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig, calling_with_deadlines_body);
    replace_caller(&rig, adopt);
    rig_wait_word(&rig, WORD_ENDED, N_CALLS);
    for (uint32_t i = 0; i < N_CALLS; i++)
        assert_int_equal(end_of(&rig, i), CALL_END_EXPIRED);
    atomic_store(&rig.board->words[WORD_WAKE], 1);
    end(&rig);
}

static void what_nobody_adopts_is_abandoned(void **state)
{
    struct rig rig;

    (void)state;
    begin(&rig, calling_body);
    replace_caller(&rig, adopt_none);
    wait_for_slots(&rig);
    assert_int_equal(atomic_load(&rig.board->words[WORD_ENDED]), 0);
    end(&rig);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_runs_while_its_caller_dies_answers_the_heir),
        cmocka_unit_test(answers_that_a_dead_caller_had_not_read_are_the_heir_s),
        cmocka_unit_test(with_the_callee_dead_too_what_can_be_run_again_is),
        cmocka_unit_test(with_both_dead_at_once_the_heir_judges),
        cmocka_unit_test(a_deadline_holds_for_the_heir),
        cmocka_unit_test(what_nobody_adopts_is_abandoned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
