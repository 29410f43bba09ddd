/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "runtime/coroutine.h"
#include "shard/crash_handler.h"
#include "shard/crash_registers.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_HANDLER 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_HANDLER 0
#endif
#endif
#ifndef HAS_HANDLER
#define HAS_HANDLER 1
#endif

#define PAGE 4096u

/* ---- the record ---- */

static void a_record_is_read_once_it_is_whole(void **state)
{
    static struct crash_record record, copy;

    assert_int_equal(crash_record_read(&record, &copy), -ENOENT);
    assert_true(crash_record_begin(&record, CRASH_OF_SIGNAL));
    assert_int_equal(crash_record_read(&record, &copy), -EAGAIN);
    record.signal = SIGSEGV;
    crash_record_end(&record);
    assert_int_equal(crash_record_read(&record, &copy), 0);
    assert_int_equal(copy.signal, SIGSEGV);
}

static void a_second_writer_is_refused(void **state)
{
    static struct crash_record record;

    assert_true(crash_record_begin(&record, CRASH_OF_SIGNAL));
    assert_false(crash_record_begin(&record, CRASH_OF_STALL));
    assert_int_equal(record.kind, CRASH_OF_SIGNAL);
}

static void a_record_whose_writer_died_at_it_is_none_and_can_be_written_again(void **state)
{
    static struct crash_record record, copy;

    assert_true(crash_record_begin(&record, CRASH_OF_SIGNAL));
    crash_record_void(&record);
    assert_int_equal(crash_record_read(&record, &copy), -ENOENT);
    assert_true(crash_record_begin(&record, CRASH_OF_STALL));
    crash_record_end(&record);
    crash_record_void(&record); /* of a whole one it takes nothing */
    assert_int_equal(crash_record_read(&record, &copy), 0);
    assert_int_equal(copy.kind, CRASH_OF_STALL);
}

static void a_new_record_holds_nothing_of_the_one_before(void **state)
{
    static struct crash_record record, copy;

    assert_true(crash_record_begin(&record, CRASH_OF_SIGNAL));
    memset(record.stack, 7, sizeof record.stack);
    record.n_registers = 3;
    crash_record_end(&record);
    assert_true(crash_record_begin(&record, CRASH_OF_STALL));
    crash_record_end(&record);
    assert_int_equal(crash_record_read(&record, &copy), 0);
    assert_int_equal(copy.n_registers, 0);
    assert_int_equal(copy.stack[100], 0);
}

static void lengths_out_of_bounds_are_refused(void **state)
{
    static struct crash_record record, copy;

    assert_true(crash_record_begin(&record, CRASH_OF_SIGNAL));
    record.stack_bytes = CRASH_STACK_BYTES + 1;
    crash_record_end(&record);
    assert_int_equal(crash_record_read(&record, &copy), -EPROTO);
}

/* Two pages with nothing behind them, and nothing before where guarded says so. */
static uint8_t *map_stack(void)
{
    uint8_t *base =
        mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(base, MAP_FAILED);
    assert_int_equal(mprotect(base + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE), 0);
    memset(base + PAGE, 'a', PAGE);
    memset(base + 2 * PAGE, 'b', PAGE);
    return base;
}

static void a_stack_is_copied_as_far_as_it_is_there(void **state)
{
    static struct crash_record record;
    uint8_t *base = map_stack();

    crash_record_copy_stack(&record, getpid(), (uintptr_t)(base + 2 * PAGE + 96));
    assert_int_equal(record.stack_bytes, PAGE - 96);
    assert_int_equal(record.stack_address, (uintptr_t)(base + 2 * PAGE + 96));
    assert_int_equal(record.stack[PAGE - 97], 'b');
    munmap(base, 4 * PAGE);
}

static void a_stack_that_ran_into_its_guard_is_copied_from_above_it(void **state)
{
    static struct crash_record record;
    uint8_t *base = map_stack();

    crash_record_copy_stack(&record, getpid(), (uintptr_t)(base + PAGE - 64));
    assert_int_equal(record.stack_bytes, CRASH_STACK_BYTES);
    assert_int_equal(record.stack_address, (uintptr_t)(base + PAGE));
    assert_int_equal(record.stack[0], 'a');
    munmap(base, 4 * PAGE);
}

static void forbid_reading_by_call(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
        _exit(77);
}

/* Runs in a process that may not read memory but by looking at it. */
static int copy_all_ways(void)
{
    static struct crash_record record;
    uint8_t *base = map_stack();
    const struct {
        uint8_t *sp, *from;
        uint32_t bytes;
    } ways[] = {
        {base + PAGE + 64, base + PAGE + 64, CRASH_STACK_BYTES}, /* within two pages */
        {base + 2 * PAGE + 96, base + 2 * PAGE + 96, PAGE - 96}, /* nothing behind them */
        {base + PAGE - 64, base + PAGE, CRASH_STACK_BYTES},      /* in the guard */
        {base + 3 * PAGE - 8, base + 3 * PAGE - 8, 8},           /* the last word */
    };

    forbid_reading_by_call();
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        crash_record_copy_stack(&record, getpid(), (uintptr_t)ways[i].sp);
        if (record.stack_address != (uintptr_t)ways[i].from ||
            record.stack_bytes != ways[i].bytes ||
            memcmp(record.stack, ways[i].from, ways[i].bytes) != 0)
            return (int)i + 1;
    }
    return 0;
}

static void where_memory_may_not_be_read_by_call_a_stack_is_copied_likewise(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(copy_all_ways());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no filters here */
    assert_int_equal(status, 0);
}

/* ---- the handler ---- */

struct victim {
    struct crash_record *record; /* shared with the child */
    uint64_t running;
    void (*die)(void);
};

static void coroutine_fn die_entry(void *opaque)
{
    struct victim *victim = opaque;

    victim->die();
}

static void no_core(void)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}

/* The wait status of a child that dies in a coroutine. */
static int let_die(struct victim *victim)
{
    struct crash_handler handler = {victim->record, &victim->running, 9};
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        no_core();
        if (crash_handler_install(&handler) == 0)
            coroutine_enter(coroutine_create_full(die_entry, victim, "victim", 0));
        _exit(99);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int make_victim(void **state)
{
    struct victim *victim = calloc(1, sizeof *victim);

    victim->record = mmap(
        NULL, sizeof *victim->record, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    victim->running = 77;
    *state = victim;
    return victim->record == MAP_FAILED;
}

static int discard_victim(void **state)
{
    struct victim *victim = *state;

    munmap(victim->record, sizeof *victim->record);
    free(victim);
    return 0;
}

static void read_record(const struct victim *victim, int signum, struct crash_record *ret)
{
    assert_int_equal(crash_record_read(victim->record, ret), 0);
    assert_int_equal(ret->kind, CRASH_OF_SIGNAL);
    assert_int_equal(ret->signal, signum);
    assert_int_equal(ret->incarnation, 9);
    assert_int_equal(ret->running, 77);
}

static void touch_nothing(void)
{
    int *volatile nowhere = (int *)(uintptr_t)16;

    *(volatile int *)nowhere = 1;
}

static void a_fault_leaves_its_address_registers_stack_and_coroutine(void **state)
{
    static struct crash_record copy;
    struct victim *victim = *state;

    if (!HAS_HANDLER)
        skip();
    victim->die = touch_nothing;
    int status = let_die(victim);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
    read_record(victim, SIGSEGV, &copy);
    assert_int_equal(copy.fault_address, 16);
    assert_string_equal(copy.coroutine_name, "victim");
    assert_int_equal(copy.flags, 0);
    if (crash_registers_machine == 0)
        return;
    assert_true(copy.pc - (uintptr_t)touch_nothing < 256);
    assert_int_equal(copy.registers[crash_registers_sp], copy.stack_address);
    assert_true(copy.stack_bytes >= 64);
}

static void raise_abort(void)
{
    abort();
}

#define DEATHS(X)  \
    X(BUS, SIGBUS) \
    X(ILL, SIGILL) \
    X(FPE, SIGFPE) \
    X(SYS, SIGSYS) \
    X(SEGV, SIGSEGV)

#define X(name, signum)             \
    static void die_of_##name(void) \
    {                               \
        raise(signum);              \
    }
DEATHS(X)
#undef X

static void each_signal_is_recorded_and_died_of(void **state)
{
    static struct crash_record copy;
    static const struct {
        int signum;
        void (*die)(void);
    } rows[] = {{SIGABRT, raise_abort},
#define X(name, signum) {signum, die_of_##name},
        DEATHS(X)
#undef X
    };
    struct victim *victim = *state;

    if (!HAS_HANDLER)
        skip();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        victim->die = rows[i].die;
        int status = let_die(victim);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), rows[i].signum);
        read_record(victim, rows[i].signum, &copy);
    }
}

static void *thread_main(void *opaque)
{
    touch_nothing();
    return opaque;
}

static void die_in_a_thread(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, thread_main, NULL);
    pthread_join(thread, NULL);
}

static void a_crash_in_another_thread_is_told_as_such(void **state)
{
    static struct crash_record copy;
    struct victim *victim = *state;

    if (!HAS_HANDLER)
        skip();
    victim->die = die_in_a_thread;
    let_die(victim);
    read_record(victim, SIGSEGV, &copy);
    assert_true(copy.flags & CRASH_OTHER_THREAD);
    assert_int_not_equal(copy.tid, copy.pid);
    assert_string_equal(copy.coroutine_name, "");
}

static void kill_oneself(void)
{
    raise(SIGKILL);
}

static void a_kill_leaves_no_record(void **state)
{
    static struct crash_record copy;
    struct victim *victim = *state;

    victim->die = kill_oneself;
    let_die(victim);
    assert_int_equal(crash_record_read(victim->record, &copy), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_is_read_once_it_is_whole),
        cmocka_unit_test(a_second_writer_is_refused),
        cmocka_unit_test(a_record_whose_writer_died_at_it_is_none_and_can_be_written_again),
        cmocka_unit_test(a_new_record_holds_nothing_of_the_one_before),
        cmocka_unit_test(lengths_out_of_bounds_are_refused),
        cmocka_unit_test(a_stack_is_copied_as_far_as_it_is_there),
        cmocka_unit_test(a_stack_that_ran_into_its_guard_is_copied_from_above_it),
        cmocka_unit_test(where_memory_may_not_be_read_by_call_a_stack_is_copied_likewise),
        cmocka_unit_test_setup_teardown(
            a_fault_leaves_its_address_registers_stack_and_coroutine, make_victim, discard_victim),
        cmocka_unit_test_setup_teardown(
            each_signal_is_recorded_and_died_of, make_victim, discard_victim),
        cmocka_unit_test_setup_teardown(
            a_crash_in_another_thread_is_told_as_such, make_victim, discard_victim),
        cmocka_unit_test_setup_teardown(a_kill_leaves_no_record, make_victim, discard_victim),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
