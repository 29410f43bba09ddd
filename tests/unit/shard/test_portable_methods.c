/* SPDX-License-Identifier: MIT */
/* Methods that move while they serve a call. */
#include "tests/unit/shard/portable_fixture.h"

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

enum { M_NOTHING, M_VISIT, M_VISIT_ONCE, M_FAIL_AWAY };

static int coroutine_fn run_visit(struct service_call *call);
static int coroutine_fn run_fail_away(struct service_call *call);

static const struct service_method methods[] = {
    [M_NOTHING] = {.name = "nothing", .run = run_nothing, .help = "does nothing"},
    [M_VISIT] = {.name = "visit",
        .run = run_visit,
        .flags = SERVICE_PORTABLE | SERVICE_IDEMPOTENT,
        .help = "goes to shard 2 and waits there"},
    [M_VISIT_ONCE] = {.name = "visit-once",
        .run = run_visit,
        .flags = SERVICE_PORTABLE,
        .help = "the same, not to be run twice"},
    [M_FAIL_AWAY] = {.name = "fail-away",
        .run = run_fail_away,
        .flags = SERVICE_PORTABLE,
        .help = "goes to shard 2 and fails there"},
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "portable",
    .help = "for tests",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0])};

/* ---- methods that move ---- */

static int coroutine_fn run_visit(struct service_call *call)
{
    size_t len;
    const char *args = service_args(call, &len);
    char reply[64];
    int r = service_move(call, 2);

    if (r < 0)
        return r;
    CHECK(service_shard(call) == 2 && service_is_wanted(call));
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    while (noted(WORD_GO) == 0 && service_is_wanted(call))
        co_sleep_ns(1000000);
    if (!service_is_wanted(call))
        note(WORD_STATUS, 1);
    snprintf(reply, sizeof(reply), "%.*s from 2", (int)len, args);
    return service_reply(call, reply, strlen(reply)); /* at home */
}

static int coroutine_fn run_fail_away(struct service_call *call)
{
    int r = service_move(call, 2);

    return r < 0 ? r : service_fail(call, -ENOTTY, "no terminal in shard %u", service_shard(call));
}

static void coroutine_fn ask(struct mesh *mesh, uint32_t method)
{
    struct call_answer answer;
    int r = shard_call(mesh,
        &(struct call_request){.target = 1,
            .method = method,
            .args = "hello",
            .args_len = 5,
            .deadline_ns = INT64_MAX},
        &answer);

    note(WORD_END, answer.end);
    if (answer.end == CALL_END_DONE)
        CHECK(r == 0 && answer.len == 12 && memcmp(answer.data, "hello from 2", 12) == 0);
    if (answer.end == CALL_END_FAILED)
        CHECK(r == -ENOTTY && strcmp(answer.data, "no terminal in shard 2") == 0);
    call_answer_deinit(&answer);
    note(WORD_DONE, 1);
}

static void coroutine_fn ask_visit(void *opaque)
{
    ask(opaque, M_VISIT);
}

static void coroutine_fn ask_visit_once(void *opaque)
{
    ask(opaque, M_VISIT_ONCE);
}

static void coroutine_fn ask_fail_away(void *opaque)
{
    ask(opaque, M_FAIL_AWAY);
}

static CoroutineEntry *question;

static void ask_and_serve(struct rig_end *end)
{
    coroutine_enter(coroutine_create(question, end->mesh));
    rig_serve(end);
}

static void let_three_begin(CoroutineEntry *entry)
{
    question = entry;
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, ask_and_serve);
}

static void check_end(enum call_end end)
{
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_END), end);
    assert_int_equal(noted(WORD_BAD), 0);
    wait_until_nothing_is_under_way();
    rig_stop_all(&rig);
    assert_true(rig_balances(&rig));
}

static void a_method_that_moved_answers_from_home(void **state)
{
    (void)state;
    note(WORD_GO, 1);
    let_three_begin(ask_visit_once);
    check_end(CALL_END_DONE);
}

static void a_method_that_fails_elsewhere_brings_its_text_home(void **state)
{
    (void)state;
    let_three_begin(ask_fail_away);
    check_end(CALL_END_FAILED);
}

static void a_method_whose_home_dies_answers_from_the_replacement_and_runs_once(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    note(WORD_GO, 1);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_RUNS), 1);
}

static void one_that_dies_away_is_in_doubt_or_runs_again_though_its_home_lives(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 2, false);
    rig_fork(&rig, 2, rig_serve);
    check_end(CALL_END_IN_DOUBT);
    teardown(NULL);
    setup(NULL);
    let_three_begin(ask_visit);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 2, false);
    note(WORD_GO, 1);
    rig_fork(&rig, 2, rig_serve);
    check_end(CALL_END_DONE);
    assert_int_equal(noted(WORD_RUNS), 2);
}

static void one_whose_caller_dies_sees_it_wherever_it_is(void **state)
{
    (void)state;
    if (!IN_PROCESSES)
        skip();
    let_three_begin(ask_visit_once);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, rig_serve);
    rig_wait_word(&rig, WORD_STATUS, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_method_that_moved_answers_from_home),
        CASE(a_method_that_fails_elsewhere_brings_its_text_home),
        CASE(a_method_whose_home_dies_answers_from_the_replacement_and_runs_once),
        CASE(one_that_dies_away_is_in_doubt_or_runs_again_though_its_home_lives),
        CASE(one_whose_caller_dies_sees_it_wherever_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
