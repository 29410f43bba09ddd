/* SPDX-License-Identifier: MIT */
#include "runtime/co_portable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/co_cancel.h"
#include "runtime/coroutine_sanitize.h"
#include "tests/unit/runtime/case_context.h"

#define STACK_BYTES ((size_t)256 * 1024)

/* What all processes of a case see. */
struct board {
    uint32_t ended;
    uint32_t steps;
    pid_t pids[4];
};

static uint8_t *stack_memory;
static struct board *board;

static void *map_shared(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(at != MAP_FAILED);
    return at;
}

static int setup(void **state)
{
    stack_memory = map_shared(STACK_BYTES);
    board = map_shared(sizeof *board);
    return case_setup(state);
}

static int teardown(void **state)
{
    munmap(stack_memory, STACK_BYTES);
    munmap(board, sizeof *board);
    return case_teardown(state);
}

static void on_ended(Coroutine *co, void *opaque)
{
    assert_false(in_coroutine());
    ((struct board *)opaque)->ended++;
}

static void on_other_ended(Coroutine *co, void *opaque)
{
}

static Coroutine *make(CoroutineEntry *entry, void *opaque)
{
    return co_portable_create(
        stack_memory, STACK_BYTES, entry, opaque, "portable", on_ended, board);
}

static uint64_t n_alive(void)
{
    struct aio_instruments in;

    aio_context_instruments(ctx, &in);
    return in.counters->co_alive;
}

static void coroutine_fn note_and_end(void *opaque)
{
    Coroutine **ret_self = opaque;

    *ret_self = coroutine_self();
    assert_ptr_equal(co_portable_of(*ret_self, on_ended), board);
    assert_null(co_portable_of(*ret_self, on_other_ended));
}

static void its_memory_goes_back_to_its_owner_when_it_has_ended(void **state)
{
    Coroutine *self = NULL, *co;

    (void)state;
    for (uint32_t i = 1; i <= 3; i++) {
        co = make(note_and_end, &self);
        assert_true((uint8_t *)co > stack_memory && (uint8_t *)co < stack_memory + STACK_BYTES);
        coroutine_enter(co);
        assert_ptr_equal(self, co);
        assert_int_equal(board->ended, i);
        assert_int_equal(n_alive(), 0);
    }
}

/* ---- what holds one here ---- */

static void expect(int r, const char *word)
{
    const char *why;

    assert_int_equal(co_portable_check(&why), r);
    if (word)
        assert_non_null(strstr(why, word));
}

static void coroutine_fn hold_things(void *opaque)
{
    CoMutex *mutex = opaque;
    CoScope timed, tokened;
    CoCancel token;

    expect(0, NULL);
    co_mutex_lock(mutex);
    expect(-EBUSY, "lock");
    co_mutex_unlock(mutex);
    co_scope_begin(&timed, NULL, aio_clock_ns() + INT64_C(1000000000000));
    expect(0, NULL); /* a time is the same everywhere */
    co_cancel_init(&token);
    co_scope_begin(&tokened, &token, CO_NO_DEADLINE);
    expect(-EBUSY, "token");
    co_scope_end(&tokened);
    co_cancel_deinit(&token);
    co_scope_end(&timed);
    co_pin("disk I/O in flight");
    co_pin("another");
    expect(-EBUSY, "disk I/O");
    co_unpin();
    expect(-EBUSY, "disk I/O");
    co_unpin();
    expect(0, NULL);
    board->steps = 1;
}

static void locks_tokens_and_pins_hold_it_here_and_are_named(void **state)
{
    CoMutex mutex;

    (void)state;
    co_mutex_init(&mutex);
    coroutine_enter(make(hold_things, &mutex));
    assert_int_equal(board->steps, 1);
}

/* ---- going on elsewhere ---- */

static void publish(Coroutine *co, void *opaque)
{
    const void *end, *position = co_portable_position(co, &end);

    assert_false(in_coroutine());
    assert_false(coroutine_entered(co));
    assert_true((uint8_t *)position > stack_memory && position < end && end == co);
    assert_int_equal(n_alive(), 1);
    co_portable_leave(co);
    assert_int_equal(n_alive(), 0);
    *(Coroutine **)opaque = co;
}

static Coroutine *published;

static void coroutine_fn travel(void *opaque)
{
    volatile uint64_t local = 0x0123456789abcdef;

    for (uint32_t i = 0; i < 4; i++) {
        board->pids[i] = getpid();
        co_yield_then("travel", publish, &published);
    }
    assert_true(local == 0x0123456789abcdef);
}

static void go_on_in_a_child(void)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        co_portable_arrive(published);
        coroutine_enter(published);
        _exit(n_alive() == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void it_goes_on_in_other_processes_with_its_locals(void **state)
{
    (void)state;
#ifdef CO_WITH_TSAN
    skip(); /* ThreadSanitizer sees one process */
#endif
    coroutine_enter(make(travel, NULL));
    for (uint32_t i = 1; i < 4; i++)
        go_on_in_a_child();
    for (uint32_t i = 0; i < 3; i++)
        assert_true(board->pids[i] != board->pids[i + 1]);
    co_portable_arrive(published);
    coroutine_enter(published);
    assert_int_equal(board->ended, 1);
}

static void schedule(Coroutine *co, void *opaque)
{
    aio_co_schedule(ctx, co);
}

static void coroutine_fn wait_here(void *opaque)
{
    for (board->steps = 1; board->steps < 5; board->steps++)
        co_yield_then("here", schedule, NULL);
}

static void what_is_done_after_the_switch_may_schedule_it_again(void **state)
{
    (void)state;
    coroutine_enter(make(wait_here, NULL));
    assert_int_equal(board->steps, 1);
    settle();
    assert_int_equal(board->steps, 5);
    assert_int_equal(board->ended, 1);
}

#define PORTABLE_CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PORTABLE_CASE(its_memory_goes_back_to_its_owner_when_it_has_ended),
        PORTABLE_CASE(locks_tokens_and_pins_hold_it_here_and_are_named),
        PORTABLE_CASE(it_goes_on_in_other_processes_with_its_locals),
        PORTABLE_CASE(what_is_done_after_the_switch_may_schedule_it_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
