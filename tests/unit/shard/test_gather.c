/* SPDX-License-Identifier: MIT */
/* One method in many shards at a time, and what ends a coroutine's call before its answer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/co_cancel.h"
#include "shard/gather.h"
#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_SHARDS 3

enum { M_ECHO, M_FAIL, M_NAP, M_ALL, M_LEFT, N_METHODS };

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static int coroutine_fn run_fail(struct service_call *call)
{
    return service_fail(call, -EACCES, "shard %u will not", service_shard(call));
}

/* Sleeps for a day, if it is let. */
static int coroutine_fn run_nap(struct service_call *call)
{
    return service_sleep_ns(call, INT64_C(86400) * 1000000000);
}

/* Echoes its arguments off every shard and replies with how many came back right. */
static int coroutine_fn run_all(struct service_call *call)
{
    struct service_part parts[N_SHARDS] = {{0}};
    size_t len;
    const void *args = service_args(call, &len);
    char right = 0;

    for (uint32_t shard = 0; shard < N_SHARDS; shard++)
        parts[shard] = (struct service_part){.shard = shard, .args = args, .args_len = len};
    int r = service_gather(call, "test.echo", parts, N_SHARDS, 0);

    for (uint32_t shard = 0; shard < N_SHARDS; shard++) {
        right += parts[shard].status == 0 && parts[shard].len == len &&
                 memcmp(parts[shard].data, args, len) == 0;
        free(parts[shard].data);
    }
    if (service_gather(call, "test.none", parts, N_SHARDS, 0) != -ENOENT ||
        parts[2].status != -ENOENT || parts[2].data)
        return -EIO;
    return r < 0 ? r : service_reply(call, &right, 1);
}

/* Replies with the deadline that a call made from here has, elsewhere. */
static int coroutine_fn run_left(struct service_call *call)
{
    int64_t deadline_ns = service_deadline_ns(call);
    size_t len;
    struct service_part part = {.shard = 2};

    service_args(call, &len);
    if (len)
        return service_reply(call, &deadline_ns, sizeof(deadline_ns));
    part.args = "x";
    part.args_len = 1;
    int r = service_gather(call, "test.left", &part, 1, 0);

    if (r == 0)
        r = service_reply(call, part.data, part.len);
    free(part.data);
    return r;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_FAIL] = {.name = "fail", .run = run_fail, .help = "fails"},
    [M_NAP] = {.name = "nap", .run = run_nap, .help = "sleeps for a day"},
    [M_ALL] = {.name = "all", .run = run_all, .help = "echoes off all shards"},
    [M_LEFT] = {.name = "left", .run = run_left, .help = "the deadline of a nested call"},
};

static const struct service test_service = {.abi = SERVICE_ABI,
    .name = "test",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

/* ---- a coroutine in shard 0 ---- */

struct job {
    struct rig_end *end;
    void (*run)(struct mesh *mesh);
    bool done;
};

static void (*job_to_run)(struct mesh *mesh); /* one test at a time */

static void coroutine_fn job_entry(void *opaque)
{
    struct job *job = opaque;

    job->run(job->end->mesh);
    job->done = true;
}

static bool job_is_done(void *opaque)
{
    return ((struct job *)opaque)->done;
}

static bool no_slot_in_use(void *opaque)
{
    return rig_slots_in_use(opaque) == 0;
}

static void job_body(struct rig_end *end)
{
    struct job job = {.end = end, .run = job_to_run};

    coroutine_enter(coroutine_create(job_entry, &job));
    rig_poll_until(end, job_is_done, &job);
    rig_poll_until(end, no_slot_in_use, end->rig);
    assert_true(mesh_is_idle(end->mesh));
}

static void run_job(void (*run)(struct mesh *mesh))
{
    struct rig rig;

    job_to_run = run;
    rig_open(&rig, N_SHARDS, &test_service);
    for (uint32_t shard = 1; shard < N_SHARDS; shard++)
        rig_thread(&rig, shard, rig_serve);
    rig_thread(&rig, 0, job_body);
    rig_join(&rig, 0);
    atomic_store(&rig.board->leave, 1);
    for (uint32_t shard = 1; shard < N_SHARDS; shard++)
        rig_join(&rig, shard);
    assert_true(rig_balances(&rig));
    rig_close(&rig);
}

static struct gather_request request_of(uint32_t method)
{
    return (struct gather_request){.method = method, .deadline_ns = INT64_MAX};
}

/* ---- gathering ---- */

static void coroutine_fn echo_off_each(struct mesh *mesh)
{
    struct gather_request request = request_of(M_ECHO);
    struct gather_call calls[N_SHARDS + 1];
    static const char *const texts[] = {"zero", "first", "second", "second, again"};

    for (size_t i = 0; i < N_SHARDS + 1; i++)
        calls[i] = (struct gather_call){.target = i < N_SHARDS ? (uint32_t)i : 2,
            .args = texts[i],
            .args_len = strlen(texts[i])};
    assert_int_equal(shard_gather(mesh, &request, calls, N_SHARDS + 1), 0);
    for (size_t i = 0; i < N_SHARDS + 1; i++) {
        assert_int_equal(calls[i].status, 0);
        assert_int_equal(calls[i].answer.end, CALL_END_DONE);
        assert_int_equal(calls[i].answer.len, strlen(texts[i]));
        assert_memory_equal(calls[i].answer.data, texts[i], strlen(texts[i]));
    }
    gather_deinit(calls, N_SHARDS + 1);
    assert_int_equal(shard_gather(mesh, &request, NULL, 0), 0);
}

static void each_shard_answers_to_arguments_of_its_own(void **state)
{
    (void)state;
    run_job(echo_off_each);
}

#define MANY 2000

static void coroutine_fn echo_many(struct mesh *mesh)
{
    struct gather_request request = request_of(M_ECHO);
    struct gather_call *calls = calloc(MANY, sizeof(*calls));

    for (uint32_t i = 0; i < MANY; i++)
        calls[i] = (struct gather_call){.target = i % N_SHARDS, .args = "x", .args_len = 1};
    assert_int_equal(shard_gather(mesh, &request, calls, MANY), 0);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(calls[i].answer.end, CALL_END_DONE);
    gather_deinit(calls, MANY);
    free(calls);
}

static void more_than_there_are_slots_for_all_end(void **state)
{
    (void)state;
    run_job(echo_many);
}

static void coroutine_fn fail_in_part(struct mesh *mesh)
{
    struct gather_request request = request_of(M_FAIL);
    struct gather_call calls[] = {{.target = 1}, {.target = N_SHARDS}, {.target = 0}};

    assert_int_equal(shard_gather(mesh, &request, calls, 3), -ENODEV);
    assert_int_equal(calls[0].status, -EACCES);
    assert_int_equal(calls[0].answer.end, CALL_END_FAILED);
    assert_string_equal(calls[0].answer.data, "shard 1 will not");
    assert_int_equal(calls[1].status, -ENODEV);
    assert_int_equal(calls[1].answer.end, CALL_END_NOT_STARTED);
    assert_int_equal(calls[2].status, -EACCES);
    gather_deinit(calls, 3);
}

static void each_end_is_reported_and_the_first_failure_returned(void **state)
{
    (void)state;
    run_job(fail_in_part);
}

static void coroutine_fn fail_fast(struct mesh *mesh)
{
    struct gather_request request = request_of(M_NAP);
    struct gather_call calls[] = {
        {.target = 0}, {.target = 1}, {.target = 2}, {.target = 9}, {.target = 1}};

    request.fail_fast = true;
    assert_int_equal(shard_gather(mesh, &request, calls, 5), -ENODEV);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(calls[i].status, i == 3 ? -ENODEV : -ECANCELED);
    assert_int_equal(calls[0].answer.end, CALL_END_CANCELLED);
    assert_int_equal(calls[1].answer.end, CALL_END_CANCELLED);
    assert_int_equal(calls[4].answer.end, CALL_END_CANCELLED);
    gather_deinit(calls, 5);
}

static void the_first_failure_cancels_the_rest_where_that_is_asked_for(void **state)
{
    (void)state;
    run_job(fail_fast);
}

static void coroutine_fn gather_late(struct mesh *mesh)
{
    struct gather_request request = request_of(M_NAP);
    struct gather_call calls[] = {{.target = 0}, {.target = 1}, {.target = 2}};

    request.deadline_ns = aio_clock_ns() + 20000000;
    assert_int_equal(shard_gather(mesh, &request, calls, 3), -ETIMEDOUT);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(calls[i].status, -ETIMEDOUT);
        assert_int_equal(calls[i].answer.end, CALL_END_EXPIRED);
    }
    gather_deinit(calls, 3);
}

static void one_deadline_ends_all(void **state)
{
    (void)state;
    run_job(gather_late);
}

static CoCancel token;

static void cancel_token(void *opaque)
{
    (void)opaque;
    co_cancel(&token);
}

static void coroutine_fn gather_in_scope(struct mesh *mesh)
{
    struct gather_request request = request_of(M_NAP);
    struct gather_call calls[] = {{.target = 0}, {.target = 1}, {.target = 2}};
    CoScope scope;

    co_cancel_init(&token);
    co_scope_begin(&scope, &token, CO_NO_DEADLINE);
    aio_bh_schedule_oneshot(mesh->ctx, cancel_token, NULL);
    assert_int_equal(shard_gather(mesh, &request, calls, 3), -ECANCELED);
    co_scope_end(&scope);
    co_cancel_deinit(&token);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(calls[i].status, -ECANCELED);
    gather_deinit(calls, 3);
}

static void the_end_of_a_scope_cancels_all(void **state)
{
    (void)state;
    run_job(gather_in_scope);
}

/* ---- one call in a scope ---- */

static int coroutine_fn nap_in(
    struct mesh *mesh, CoCancel *in, int64_t deadline_ns, enum call_end *ret_end)
{
    struct call_answer answer;
    CoScope scope;

    co_scope_begin(&scope, in, deadline_ns);
    int r = shard_call(mesh,
        &(struct call_request){.target = 1, .method = M_NAP, .deadline_ns = INT64_MAX}, &answer);

    co_scope_end(&scope);
    *ret_end = answer.end;
    call_answer_deinit(&answer);
    return r;
}

static void coroutine_fn call_in_scopes(struct mesh *mesh)
{
    enum call_end end;

    co_cancel_init(&token);
    aio_bh_schedule_oneshot(mesh->ctx, cancel_token, NULL);
    assert_int_equal(nap_in(mesh, &token, CO_NO_DEADLINE, &end), -ECANCELED);
    assert_int_equal(end, CALL_END_CANCELLED);
    /* One that is over before the call begins. */
    assert_int_equal(nap_in(mesh, &token, CO_NO_DEADLINE, &end), -ECANCELED);
    co_cancel_deinit(&token);
    assert_int_equal(nap_in(mesh, NULL, aio_clock_ns() + 20000000, &end), -ETIMEDOUT);
    assert_int_equal(end, CALL_END_EXPIRED);
    assert_int_equal(nap_in(mesh, NULL, aio_clock_ns() - 1, &end), -ETIMEDOUT);
    assert_int_equal(end, CALL_END_EXPIRED);
}

static void a_call_ends_with_the_scope_it_is_made_in_and_for_its_reason(void **state)
{
    (void)state;
    run_job(call_in_scopes);
}

/* ---- from methods ---- */

static void coroutine_fn gather_from_a_method(struct mesh *mesh)
{
    struct call_request request = {
        .target = 1, .method = M_ALL, .args = "everybody", .args_len = 9, .deadline_ns = INT64_MAX};
    struct call_answer answer;

    assert_int_equal(shard_call(mesh, &request, &answer), 0);
    assert_int_equal(answer.len, 1);
    assert_int_equal(*(const char *)answer.data, N_SHARDS);
    call_answer_deinit(&answer);
}

static void a_method_gathers_from_all_shards_its_own_included(void **state)
{
    (void)state;
    run_job(gather_from_a_method);
}

static void coroutine_fn ask_for_the_deadline(struct mesh *mesh)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(1000) * 1000000000;
    struct call_request request = {.target = 1, .method = M_LEFT, .deadline_ns = deadline_ns};
    struct call_answer answer;

    assert_int_equal(shard_call(mesh, &request, &answer), 0);
    assert_int_equal(answer.len, sizeof(deadline_ns));
    assert_memory_equal(answer.data, &deadline_ns, sizeof(deadline_ns));
    call_answer_deinit(&answer);
}

static void calls_within_a_call_have_its_deadline(void **state)
{
    (void)state;
    run_job(ask_for_the_deadline);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_shard_answers_to_arguments_of_its_own),
        cmocka_unit_test(more_than_there_are_slots_for_all_end),
        cmocka_unit_test(each_end_is_reported_and_the_first_failure_returned),
        cmocka_unit_test(the_first_failure_cancels_the_rest_where_that_is_asked_for),
        cmocka_unit_test(one_deadline_ends_all),
        cmocka_unit_test(the_end_of_a_scope_cancels_all),
        cmocka_unit_test(a_call_ends_with_the_scope_it_is_made_in_and_for_its_reason),
        cmocka_unit_test(a_method_gathers_from_all_shards_its_own_included),
        cmocka_unit_test(calls_within_a_call_have_its_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
