/* SPDX-License-Identifier: MIT */
/*
 * The sequence is odd while the record is written. A process that dies within its own handler
 * leaves it odd; the supervisor, which alone may write after that death, makes it one of none.
 *
 * Memory that may not be there is read by process_vm_readv(), of the own process too: where a load
 * would fault it returns -EFAULT. Some sandboxes forbid it; then of the own process each page is
 * copied that another call can read, which changes nothing and is asked for that answer alone.
 *
 * Orderings  first         then           ordered by              if broken
 *   VOID     sequence odd  the fields     release fence, acquire  a reader takes a mix of
 *                                         fence of the reader     two records for one
 *   WHOLE    the fields    sequence even  store release, acquire  the same
 */
#include "shard/crash_record.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/coroutine_layout.h"
#include "shard/sandbox.h"

#define PAGE 4096u

static_assert(offsetof(struct crash_record, stack) == 640, "part of the ABI");
static_assert(sizeof(struct crash_record) == 4736, "part of the ABI");
static_assert(sizeof(struct crash_record) % 64 == 0, "whole lines");

const char *crash_kind_text(uint32_t kind)
{
    static const char *const texts[] = {
#define X(name, text) [CRASH_##name] = text,
        CRASH_KINDS(X)
#undef X
    };
    return kind < sizeof texts / sizeof *texts ? texts[kind] : "unknown";
}

/* ---- writing ---- */

bool crash_record_begin(struct crash_record *record, enum crash_kind kind)
{
    uint64_t sequence = atomic_load_acquire(&record->sequence); /* WHOLE */

    if (sequence & 1 || !atomic_cas_seq(&record->sequence, &sequence, sequence + 1)) /* VOID */
        return false;
    atomic_full_fence(); /* VOID */
    memset((char *)record + sizeof record->sequence, 0, sizeof *record - sizeof record->sequence);
    record->kind = kind;
    record->syscall_number = -1;
    return true;
}

void crash_record_end(struct crash_record *record)
{
    atomic_store_release(&record->sequence, record->sequence + 1); /* WHOLE */
}

void crash_record_void(struct crash_record *record)
{
    if (!(record->sequence & 1))
        return;
    record->kind = CRASH_NONE;
    crash_record_end(record);
}

/* How a mask of signals is to be changed is looked at only after the mask. */
static bool is_readable(uint64_t at)
{
    const long no_such_change = -1;

    return syscall(SYS_rt_sigprocmask, no_such_change, at / 8 * 8, NULL, sizeof(uint64_t)) == 0 ||
           errno != EFAULT;
}

/* Of the own process, where the better way is forbidden: `first` bytes lie in the first page. */
static size_t copy_own(uint64_t from, void *to, size_t first, size_t bytes)
{
    if (first > bytes)
        first = bytes;
    if (!is_readable(from))
        return 0;
    if (first < bytes && !is_readable(from + first))
        bytes = first;
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return bytes;
}

/* Bytes of [from, from + bytes), which lies in one page or in two. 0: none. */
static size_t read_memory(pid_t pid, uint64_t from, void *to, size_t bytes)
{
    size_t first = PAGE - from % PAGE;
    struct iovec here = {to, bytes};
    struct iovec there[2] = {{(void *)(uintptr_t)from, bytes}};
    unsigned long n = 1;

    if (first < bytes) {
        there[0].iov_len = first;
        there[1] = (struct iovec){(void *)(uintptr_t)(from + first), bytes - first};
        n = 2;
    }
    ssize_t r = process_vm_readv(pid, &here, 1, there, n, 0);

    if (r < 0 && errno != EFAULT && pid == getpid())
        return copy_own(from, to, first, bytes);
    return r < 0 ? 0 : (size_t)r;
}

void crash_record_copy_stack(struct crash_record *record, pid_t pid, uint64_t sp)
{
    size_t n = read_memory(pid, sp, record->stack, CRASH_STACK_BYTES);

    if (n == 0) { /* it has run into the guard, and the stack begins above */
        sp = (sp / PAGE + 1) * PAGE;
        n = read_memory(pid, sp, record->stack, CRASH_STACK_BYTES);
    }
    record->stack_address = sp;
    record->stack_bytes = (uint32_t)n;
}

static uint64_t read_word(pid_t pid, uint64_t from)
{
    uint64_t word = 0;

    return read_memory(pid, from, &word, sizeof word) == sizeof word ? word : 0;
}

void crash_record_copy_coroutine(
    struct crash_record *record, pid_t pid, const struct coroutine_layout *layout)
{
    char *name = record->coroutine_name;
    size_t room = sizeof record->coroutine_name, n;
    uint64_t co = read_word(pid, (uint64_t)(uintptr_t)layout->self);
    uint64_t text = co ? read_word(pid, co + layout->name) : 0;

    if (!text)
        return;
    record->coroutine = read_word(pid, co + layout->id);
    record->coroutine_entry = read_word(pid, co + layout->begins_in);
    n = read_memory(pid, text, name, room - 1);
    name[n] = '\0';
    n = strnlen(name, room);
    memset(name + n, 0, room - n);
}

/* ---- reading ---- */

int crash_record_read(const struct crash_record *record, struct crash_record *ret)
{
    uint64_t sequence = atomic_load_acquire(&record->sequence); /* WHOLE */

    if (sequence == 0 || (!(sequence & 1) && record->kind == CRASH_NONE))
        return -ENOENT;
    memcpy(ret, record, sizeof *ret);
    atomic_full_fence();                                                    /* VOID */
    if (sequence & 1 || atomic_load_relaxed(&record->sequence) != sequence) /* VOID */
        return -EAGAIN;
    ret->sequence = sequence;
    if (ret->n_registers > CRASH_REGISTERS_MAX || ret->stack_bytes > CRASH_STACK_BYTES)
        return -EPROTO;
    ret->coroutine_name[sizeof ret->coroutine_name - 1] = '\0';
    ret->wait_channel[sizeof ret->wait_channel - 1] = '\0';
    ret->state[sizeof ret->state - 1] = '\0';
    return 0;
}

static void put_where(const struct crash_record *record, char *buf, size_t size)
{
    if (record->flags & CRASH_OTHER_THREAD)
        snprintf(buf, size, "in a thread of its pool");
    else if (record->coroutine_name[0])
        snprintf(buf, size, "in coroutine %s (%llu)", record->coroutine_name,
            (unsigned long long)record->coroutine);
    else
        snprintf(buf, size, "in the loop");
}

static void put_stall(const struct crash_record *record, char *buf, size_t size)
{
    size_t used = (size_t)snprintf(buf, size, "state %s", record->state);

    if (record->syscall_number >= 0 && used < size)
        used += (size_t)snprintf(
            buf + used, size - used, ", system call %lld", (long long)record->syscall_number);
    if (record->wait_channel[0] && used < size)
        used += (size_t)snprintf(buf + used, size - used, ", waits in %s", record->wait_channel);
    if (!(record->flags & CRASH_NO_REGISTERS) && used < size)
        snprintf(buf + used, size - used, ", at 0x%llx", (unsigned long long)record->pc);
}

/* The sandbox let a system call not through. */
static void put_call(const struct crash_record *record, char *buf, size_t size)
{
    char *name = sandbox_call_name(record->syscall_number);

    snprintf(buf, size,
        "SIGSYS: it called %s (system call %lld), which its sandbox forbids, at 0x%llx",
        name ? name : "something", (long long)record->syscall_number,
        (unsigned long long)record->pc);
    free(name);
}

void crash_record_line(const struct crash_record *record, char *buf, size_t size)
{
    char where[96], what[160];
    const char *name = sigabbrev_np(record->signal);

    if (record->flags & CRASH_OVERFLOW) {
        snprintf(buf, size,
            "SIG%s at 0x%llx: stack overflow of coroutine %s (%llu) created at 0x%llx",
            name ? name : "?", (unsigned long long)record->pc, record->coroutine_name,
            (unsigned long long)record->coroutine, (unsigned long long)record->coroutine_entry);
        return;
    }
    put_where(record, where, sizeof where);
    if (record->kind == CRASH_OF_STALL)
        put_stall(record, what, sizeof what);
    else if (record->signal == SIGSYS && record->syscall_number >= 0)
        put_call(record, what, sizeof what);
    else
        snprintf(what, sizeof what, "SIG%s at 0x%llx, address 0x%llx", name ? name : "?",
            (unsigned long long)record->pc, (unsigned long long)record->fault_address);
    snprintf(buf, size, "%s, %s", what, where);
}
