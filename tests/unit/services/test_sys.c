/* SPDX-License-Identifier: MIT */
#include "services/sys.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/services/fake_call.h"

static struct registry *new_registry(bool test_methods)
{
    struct registry *registry = registry_new();
    assert_non_null(registry);
    assert_int_equal(registry_add(registry, &sys_service, NULL), 0);
    if (test_methods)
        registry_enable_test_methods(registry);
    return registry;
}

static struct service_call run(
    struct fixture *f, struct registry *registry, const char *method, const char *args)
{
    struct service_call call = {
        .registry = registry, .method = method, .args = args, .args_len = strlen(args)};
    run_co(f, call_body, &call);
    return call;
}

static void ping_answers_with_nothing(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = run(*state, registry, "sys.ping", "");
    assert_int_equal(call.status, 0);
    assert_non_null(call.reply);
    assert_int_equal(call.reply_len, 0);
    call_deinit(&call);
    registry_free(registry);
}

static void echo_answers_with_its_arguments(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = run(*state, registry, "sys.echo", "some\nbytes");
    assert_int_equal(call.status, 0);
    assert_string_equal((char *)call.reply, "some\nbytes");
    call_deinit(&call);
    registry_free(registry);
}

static void sleep_answers_after_its_time(void **state)
{
    struct registry *registry = new_registry(false);
    int64_t begin_ns = aio_clock_ns();
    struct service_call call = run(*state, registry, "sys.sleep", "20");
    assert_int_equal(call.status, 0);
    assert_true(aio_clock_ns() - begin_ns >= 20 * 1000000);
    call_deinit(&call);
    registry_free(registry);
}

static void sleep_ends_at_the_deadline(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = {.registry = registry,
        .method = "sys.sleep",
        .args = "86400000",
        .args_len = 8,
        .deadline_ns = aio_clock_ns() + 5 * 1000000};
    run_co(*state, call_body, &call);
    assert_int_equal(call.status, -ETIMEDOUT);
    assert_true(aio_clock_ns() >= call.deadline_ns);
    call_deinit(&call);
    registry_free(registry);
}

struct sleeper {
    struct service_call call;
    uint32_t n_left;
};

static void sleeper_entry(void *opaque)
{
    struct sleeper *sleeper = opaque;
    call_body(&sleeper->call);
    sleeper->n_left--;
}

static void sleep_that_nobody_waits_for_ends_early(void **state)
{
    struct registry *registry = new_registry(false);
    struct sleeper sleeper = {.n_left = 1,
        .call = {.registry = registry, .method = "sys.sleep", .args = "86400000", .args_len = 8}};
    coroutine_enter(coroutine_create(sleeper_entry, &sleeper));
    assert_int_equal(sleeper.n_left, 1);
    sleeper.call.is_abandoned = true;
    run_until_none_left(*state, &sleeper.n_left);
    assert_int_equal(sleeper.call.status, -ECANCELED);
    assert_null(sleeper.call.reply);
    call_deinit(&sleeper.call);
    registry_free(registry);
}

static void what_is_no_time_is_refused(void **state)
{
    static const char *const wrong[] = {
        "", "-1", "1s", " 1", "86400001", "99999999999999999999999"};
    struct registry *registry = new_registry(false);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct service_call call = run(*state, registry, "sys.sleep", wrong[i]);
        assert_int_equal(call.status, -EINVAL);
        assert_string_equal(
            call.text, "sys.sleep: the argument is the time in milliseconds, 0 to 86400000");
        call_deinit(&call);
    }
    registry_free(registry);
}

static void relay_answers_with_what_another_shard_echoes(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = run(*state, registry, "sys.relay", "1 some bytes");
    assert_int_equal(call.status, 0);
    assert_string_equal((char *)call.reply, "some bytes");
    call_deinit(&call);
    call = run(*state, registry, "sys.relay", "0");
    assert_int_equal(call.status, 0);
    assert_int_equal(call.reply_len, 0);
    call_deinit(&call);
    call = run(*state, registry, "sys.relay", "2 x");
    assert_int_equal(call.status, -EHOSTDOWN);
    assert_non_null(strstr(call.text, "shard 2"));
    call_deinit(&call);
    registry_free(registry);
}

static void what_relay_cannot_pass_on_is_refused(void **state)
{
    static const char *const wrong[] = {"", " ", "x", "-1 x", "1x", "3 x", "99999999999999999999"};
    struct registry *registry = new_registry(false);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct service_call call = run(*state, registry, "sys.relay", wrong[i]);
        assert_int_equal(call.status, -EINVAL);
        assert_non_null(strstr(call.text, "a shard, 0 to 2"));
        call_deinit(&call);
    }
    registry_free(registry);
}

static void wander_goes_round_and_passes_over_the_dead(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = run(*state, registry, "sys.wander", "10");

    assert_int_equal(call.status, 0);
    assert_string_equal((char *)call.reply, "20"); /* of three shards one is dead */
    call_deinit(&call);
    call = run(*state, registry, "sys.wander", "0 1");
    assert_string_equal((char *)call.reply, "1");
    call_deinit(&call);
    call = run(*state, registry, "sys.wander", "1000");
    assert_string_equal((char *)call.reply, "2000");
    call_deinit(&call);
    static const char *const wrong[] = {"1001", "x", "1 ", " 1", "1 2 3"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        call = run(*state, registry, "sys.wander", wrong[i]);
        assert_int_equal(call.status, -EINVAL);
        call_deinit(&call);
    }
    call = (struct service_call){
        .registry = registry, .method = "sys.wander", .args = "", .may_not_move = true};
    run_co(*state, call_body, &call);
    assert_int_equal(call.status, 0);
    assert_string_equal((char *)call.reply, "0");
    call_deinit(&call);
    registry_free(registry);
}

static void methods_lists_all_that_are_enabled(void **state)
{
    struct registry *registry = new_registry(false);
    struct service_call call = run(*state, registry, "sys.methods", "");
    assert_int_equal(call.status, 0);
    assert_non_null(
        strstr((char *)call.reply, "sys.ping\tidempotent,read-only\t0\tanswers with nothing\n"));
    assert_null(strstr((char *)call.reply, "sys.crash"));
    call_deinit(&call);
    registry_enable_test_methods(registry);
    call = run(*state, registry, "sys.methods", "");
    assert_non_null(strstr((char *)call.reply, "sys.crash\tonce,test\t"));
    call_deinit(&call);
    registry_free(registry);
}

/* How a child ends that runs sys.crash with how. */
static int crash_status(struct fixture *f, struct registry *registry, const char *how)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        struct service_call call = run(f, registry, "sys.crash", how);
        call_deinit(&call);
        _exit(99);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void crash_ends_the_process_as_asked(void **state)
{
    struct registry *registry = new_registry(true);
    assert_int_equal(WTERMSIG(crash_status(*state, registry, "")), SIGABRT);
    assert_int_equal(WTERMSIG(crash_status(*state, registry, "abort")), SIGABRT);
    assert_int_equal(WTERMSIG(crash_status(*state, registry, "kill")), SIGKILL);
    assert_int_equal(WTERMSIG(crash_status(*state, registry, "segv")), SIGSEGV);
    int status = crash_status(*state, registry, "exit");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    struct service_call call = run(*state, registry, "sys.crash", "softly");
    assert_int_equal(call.status, -EINVAL);
    assert_string_equal(call.text,
        "sys.crash: the argument is one of: abort segv fault bus ill fpe sys "
        "overflow kill exit");
    call_deinit(&call);
    registry_free(registry);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(ping_answers_with_nothing),
        FIXTURE_CASE(echo_answers_with_its_arguments),
        FIXTURE_CASE(sleep_answers_after_its_time),
        FIXTURE_CASE(sleep_ends_at_the_deadline),
        FIXTURE_CASE(sleep_that_nobody_waits_for_ends_early),
        FIXTURE_CASE(what_is_no_time_is_refused),
        FIXTURE_CASE(relay_answers_with_what_another_shard_echoes),
        FIXTURE_CASE(what_relay_cannot_pass_on_is_refused),
        FIXTURE_CASE(wander_goes_round_and_passes_over_the_dead),
        FIXTURE_CASE(methods_lists_all_that_are_enabled),
        FIXTURE_CASE(crash_ends_the_process_as_asked),
    };
    return FIXTURE_RUN(cases);
}
