/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine_overflow.h"
/*
 * The handler runs on the thread's alternate signal stack, for the coroutine's has no room left. A
 * fault is an overflow where its address is in the guard of the running coroutine. It is noted in
 * the context's recorder, so that it can be read after the death, reported, and then the signal
 * goes where it would have gone: to the handler that was there before, or to the default action,
 * which the handler puts back; the instruction that faulted then faults again, and the process dies
 * of it with the registers it had.
 *
 * Dispositions of signals belong to the process, and so do `previous` and its lock: written with a
 * lock held, before our handler is in place, and read by it.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/coroutine_inside.h"

#define MIN_ALTERNATE_BYTES ((size_t)64 * 1024)

struct watch {
    CoroutineOverflowFn *report;
    void *opaque;
    size_t alternate_bytes; /* behind the page of this struct */
    stack_t before;         /* SS_DISABLE: the thread had no alternate stack of its own */
};

static const int signals[] = {SIGSEGV, SIGBUS};
#define N_SIGNALS (sizeof signals / sizeof *signals)

static struct sigaction previous[N_SIGNALS];
static pthread_mutex_t previous_lock = PTHREAD_MUTEX_INITIALIZER;

/* Used by functions alone that are never inlined into one that yields. initial-exec: in a signal
 * handler nothing may be allocated for it. */
static __thread struct watch *this_watch __attribute__((tls_model("initial-exec")));

/* ---- the text, without anything that a signal handler may not call ---- */

struct text {
    char bytes[256];
    size_t used;
};

static void put(struct text *text, const char *string)
{
    for (; *string && text->used < sizeof text->bytes - 1; string++)
        text->bytes[text->used++] = *string;
    text->bytes[text->used] = '\0';
}

static void put_number(struct text *text, uintptr_t number, unsigned base)
{
    char digits[24];
    size_t first = sizeof digits - 1;

    digits[first] = '\0';
    do {
        digits[--first] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    put(text, digits + first);
}

static void put_overflow(struct text *text, const CoroutineOverflow *overflow)
{
    put(text, "coroutine ");
    put(text, overflow->name);
    put(text, " overflowed its stack of ");
    put_number(text, overflow->stack_bytes, 10);
    put(text, " bytes, fault at 0x");
    put_number(text, (uintptr_t)overflow->address, 16);
}

/* ---- the handler ---- */

static void report_overflow(const struct watch *watch, const Coroutine *co, const siginfo_t *info)
{
    struct text text = {.used = 0};
    CoroutineOverflow overflow = {.signal = info->si_signo,
        .name = co->name,
        .stack_bytes = coroutine_stack_bytes(co),
        .address = info->si_addr};

    put_overflow(&text, &overflow);
    overflow.text = text.bytes;
    overflow.text_bytes = text.used;
    if (co->registry)
        recorder_note(&co->ctx->instruments, RECORDER_CO_OVERFLOW, co->registry_id,
            (uint64_t)(uintptr_t)info->si_addr);
    watch->report(&overflow, watch->opaque);
}

/* A fault comes again by itself; a signal that somebody sent must be sent again. */
static void die_of(int signum, const siginfo_t *info)
{
    signal(signum, SIG_DFL);
    if (info->si_code <= 0)
        raise(signum);
}

static void pass_on(int signum, siginfo_t *info, void *machine)
{
    const struct sigaction *before = &previous[signum == signals[0] ? 0 : 1];

    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(signum, info, machine);
    else if (before->sa_handler == SIG_IGN && info->si_code <= 0)
        return; /* only a fault can't be ignored */
    else if (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN)
        die_of(signum, info);
    else
        before->sa_handler(signum);
}

static void on_fault(int signum, siginfo_t *info, void *machine)
{
    int error = errno;
    const struct watch *watch = this_watch;
    const Coroutine *co = coroutine_self();

    if (watch && co && info->si_code > 0 && co_stack_guards(co->stack, info->si_addr))
        report_overflow(watch, co, info);
    pass_on(signum, info, machine);
    errno = error;
}

static void install_handler(void)
{
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&ours.sa_mask);
    pthread_mutex_lock(&previous_lock);
    for (size_t i = 0; i < N_SIGNALS; i++) {
        struct sigaction now;

        sigaction(signals[i], NULL, &now);
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
            continue;
        previous[i] = now;
        sigaction(signals[i], &ours, NULL);
    }
    pthread_mutex_unlock(&previous_lock);
}

/* ---- watching ---- */

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* The kernel saves all vector registers there; how much that is, the processor decides. */
static size_t alternate_bytes(void)
{
    long min = sysconf(_SC_SIGSTKSZ);
    size_t page = page_bytes();
    size_t bytes = min > (long)MIN_ALTERNATE_BYTES ? (size_t)min : MIN_ALTERNATE_BYTES;

    return (bytes + page - 1) / page * page;
}

/* The watch lies in a page below its alternate stack. NULL: no memory. */
static struct watch *new_watch(void)
{
    size_t page = page_bytes();
    size_t bytes = alternate_bytes();
    char *memory = mmap(
        NULL, page + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    struct watch *watch = (void *)memory;
    watch->alternate_bytes = bytes;
    sigaltstack(NULL, &watch->before);
    if (watch->before.ss_flags & SS_DISABLE) {
        stack_t alternate = {.ss_sp = memory + page, .ss_size = bytes};

        sigaltstack(&alternate, NULL);
    }
    return watch;
}

__attribute__((noinline)) int coroutine_overflow_watch(CoroutineOverflowFn *report, void *opaque)
{
    struct watch *watch = this_watch ? this_watch : new_watch();

    if (!watch)
        return -ENOMEM;
    watch->report = report;
    watch->opaque = opaque;
    this_watch = watch;
    install_handler();
    return 0;
}

__attribute__((noinline)) void coroutine_overflow_unwatch(void)
{
    struct watch *watch = this_watch;

    if (!watch)
        return;
    this_watch = NULL;
    if (watch->before.ss_flags & SS_DISABLE) {
        stack_t none = {.ss_flags = SS_DISABLE};

        sigaltstack(&none, NULL);
    }
    munmap(watch, page_bytes() + watch->alternate_bytes);
}
