/* SPDX-License-Identifier: MIT */
/*
 * Everything is prepared before: the handler calls what a signal handler may call, and follows no
 * pointer that the crash may have damaged; what is not its own is copied by crash_record.c.
 *
 * A second thread that crashes meanwhile waits for the first, whose death ends it too; but not for
 * ever, since the first may hang in its own handler.
 *
 * A fault comes again when the handler returns, now with the default action, so the kernel sees the
 * registers and the address that were. What somebody sent, abort() and seccomp's SIGSYS are sent
 * again.
 *
 * Dispositions of signals belong to the process, and so does `installed`, which is written once,
 * before they are set.
 */
#include "shard/crash_handler.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/coroutine_layout.h"
#include "runtime/kernel.h"
#include "shard/crash_registers.h"

#define ALTERNATE_BYTES ((size_t)64 * 1024)
#define WAIT_NS         10000000L
#define WAITS           100

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
#define N_SIGNALS (sizeof signals / sizeof *signals)

static struct crash_handler installed;
static pid_t loop_tid;
static bool overflowed;

void crash_handler_note_overflow(void)
{
    overflowed = true;
}

static void put_coroutine(struct crash_record *record)
{
    struct coroutine_layout layout;

    coroutine_layout(&layout);
    crash_record_copy_coroutine(record, getpid(), &layout);
}

static void fill_in(struct crash_record *record, const siginfo_t *info, const void *context)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    record->at_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    record->incarnation = installed.incarnation;
    record->pid = getpid();
    record->tid = gettid();
    record->signal = info->si_signo;
    record->code = info->si_code;
    record->running = atomic_load_relaxed(installed.running); /* own thread's, or to no purpose */
    if (record->tid != loop_tid)
        record->flags |= CRASH_OTHER_THREAD;
    if (overflowed)
        record->flags |= CRASH_OVERFLOW;
    if (info->si_signo == SIGSYS && info->si_code == SYS_SECCOMP)
        record->syscall_number = info->si_syscall;
    else if (info->si_code > 0)
        record->fault_address = (uint64_t)(uintptr_t)info->si_addr;
    record->machine = crash_registers_machine;
    record->n_registers = crash_registers_of_signal(context, record->registers);
    record->pc = record->registers[crash_registers_pc];
    put_coroutine(record);
    crash_record_copy_stack(record, record->pid, record->registers[crash_registers_sp]);
}

static void wait_for_the_first(void)
{
    for (int i = 0; i < WAITS; i++)
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
}

static bool comes_again(const siginfo_t *info)
{
    return info->si_code > 0 && info->si_signo != SIGABRT && info->si_signo != SIGSYS;
}

static void on_crash(int signum, siginfo_t *info, void *context)
{
    if (crash_record_begin(installed.record, CRASH_OF_SIGNAL)) {
        fill_in(installed.record, info, context);
        crash_record_end(installed.record);
    } else {
        wait_for_the_first();
    }
    signal(signum, SIG_DFL);
    if (!comes_again(info))
        raise(signum);
}

/* One that was there is kept. */
static int make_alternate_stack(void)
{
    long wanted = sysconf(_SC_SIGSTKSZ);
    size_t bytes = wanted > (long)ALTERNATE_BYTES ? (size_t)wanted : ALTERNATE_BYTES;
    stack_t stack;

    if (sigaltstack(NULL, &stack) < 0 || !(stack.ss_flags & SS_DISABLE))
        return 0;
    stack = (stack_t){.ss_size = bytes};
    stack.ss_sp =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack.ss_sp == MAP_FAILED)
        return -errno;
    return sigaltstack(&stack, NULL) < 0 ? -errno : 0;
}

int crash_handler_install(const struct crash_handler *handler)
{
    struct sigaction ours = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int r = make_alternate_stack();

    if (r < 0)
        return r;
    installed = *handler;
    loop_tid = gettid();
    overflowed = false;
    sigemptyset(&ours.sa_mask);
    for (size_t i = 0; i < N_SIGNALS; i++)
        if (sigaction(signals[i], &ours, NULL) < 0)
            return -errno;
    return 0;
}
