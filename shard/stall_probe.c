/* SPDX-License-Identifier: MIT */
/*
 * The target is a sibling. Kernels with Yama allow that to whom it has named (member.c), which
 * holds for the supervisor's other children too. The part of the target is made writable in the
 * helper alone, and written only while the target cannot write itself: it is stopped, or asleep in
 * a system call and not in its handler, which the record's sequence tells.
 */
#include "shard/stall_probe.h"

#include <errno.h>
#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "runtime/coroutine_layout.h"
#include "shard/crash_registers.h"
#include "shard/firewall.h"
#include "shard/thread_look.h"

static uint64_t now_ns(void)
{
    return (uint64_t)aio_clock_ns();
}

/* Ends a system call that waits, with EINTR. */
static void on_alarm(int signum)
{
    (void)signum;
}

static void set_alarm(void (*handler)(int), unsigned seconds)
{
    struct sigaction action = {.sa_handler = handler};

    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}

/* Seizes and stops it. False: forbidden, or it does not stop, being deep in the kernel. */
static bool stop(pid_t pid)
{
    int status;
    pid_t r;

    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
        return false;
    set_alarm(on_alarm, STALL_PROBE_SECONDS / 2);
    r = waitpid(pid, &status, __WALL);
    set_alarm(SIG_DFL, STALL_PROBE_SECONDS / 2);
    return r == pid && WIFSTOPPED(status);
}

static bool take_registers(struct crash_record *record, pid_t pid)
{
    struct iovec to = {record->registers, sizeof record->registers};

    if (crash_registers_machine == 0 ||
        ptrace(PTRACE_GETREGSET, pid, (void *)(uintptr_t)NT_PRSTATUS, &to) < 0)
        return false;
    record->machine = crash_registers_machine;
    record->n_registers = (uint32_t)(to.iov_len / sizeof record->registers[0]);
    record->pc = record->registers[crash_registers_pc];
    return true;
}

static void fill_in(
    struct crash_record *record, const struct stall_target *target, const struct thread_look *look)
{
    const struct part_head *part = segment_part(target->segment, target->peer);

    record->at_ns = now_ns();
    record->incarnation = atomic_load_relaxed(&part->incarnation); /* it is up: constant */
    record->pid = record->tid = target->pid;
    record->running = atomic_load_relaxed(&part->running); /* it does not run, or to no purpose */
    record->callback_ns = target->callback_ns;
    record->syscall_number = look->syscall_number;
    record->state[0] = look->state;
    for (size_t i = 0; i < sizeof record->wait_channel - 1 && look->wait_channel[i]; i++)
        record->wait_channel[i] = look->wait_channel[i];
}

static void take_memory(struct crash_record *record, pid_t pid, uint64_t sp)
{
    struct coroutine_layout layout;

    coroutine_layout(&layout);
    crash_record_copy_coroutine(record, pid, &layout);
    if (sp)
        crash_record_copy_stack(record, pid, sp);
}

/* While it is stopped since then; 0: it is not. */
static void write_record(struct crash_record *record, const struct stall_target *target,
    const struct thread_look *look, uint64_t stopped_ns)
{
    uint64_t sp = look->sp;

    if (!crash_record_begin(record, CRASH_OF_STALL))
        return; /* it is at its own last words */
    fill_in(record, target, look);
    record->pc = look->pc;
    if (stopped_ns && take_registers(record, target->pid))
        sp = record->registers[crash_registers_sp];
    else
        record->flags |= CRASH_NO_REGISTERS;
    take_memory(record, target->pid, sp);
    if (stopped_ns)
        record->stopped_ns = now_ns() - stopped_ns;
    crash_record_end(record);
}

/* Whoever is stopped waits for the helper to get a CPU. Where it may not, it goes on as it is. */
static void hurry(void)
{
    struct sched_param first = {.sched_priority = 1};

    if (sched_setscheduler(0, SCHED_FIFO, &first) < 0)
        setpriority(PRIO_PROCESS, 0, -20);
}

static void probe(const struct stall_target *target)
{
    struct crash_record *record = segment_crash(target->segment, target->peer);
    struct thread_look look;
    uint64_t began_ns;

    if (firewall_open(target->segment, target->peer) < 0 || thread_look(target->pid, &look) < 0)
        return;
    thread_look_closer(target->pid, &look);
    if (look.state != 'R') {
        write_record(record, target, &look, 0);
        return;
    }
    atomic_load_relaxed(&record->sequence); /* GLANCE: the page is there before it is stopped */
    hurry();
    began_ns = now_ns();
    if (stop(target->pid)) {
        write_record(record, target, &look, began_ns);
        ptrace(PTRACE_DETACH, target->pid, NULL, NULL);
    } else {
        write_record(record, target, &look, 0);
    }
}

pid_t stall_probe_begin(const struct stall_target *target)
{
    pid_t supervisor = getpid(), pid = fork();

    if (pid < 0)
        return -errno;
    if (pid > 0)
        return pid;
    set_alarm(SIG_DFL, STALL_PROBE_SECONDS / 2);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == supervisor)
        probe(target);
    _exit(0);
}

int stall_probe_ended(pid_t helper)
{
    return waitpid(helper, NULL, WNOHANG) == 0 ? 0 : 1;
}
