/* SPDX-License-Identifier: MIT */
#ifndef SHERD_COROUTINE_OVERFLOW_H
#define SHERD_COROUTINE_OVERFLOW_H
/*
 * coroutine_overflow - says which coroutine has run over the end of its stack, and dies as before
 *
 * Why:         an overflow meets the guard page and is a SIGSEGV like any other: without this,
 *              whoever reads the log looks for a bad pointer.
 * Use:         static void report(const CoroutineOverflow *overflow, void *opaque)
 *              {
 *                  write(STDERR_FILENO, overflow->text, overflow->text_bytes);
 *              }
 *              int r = coroutine_overflow_watch(report, NULL);   in each thread with coroutines
 *              coroutine_overflow_unwatch();                     before the thread ends
 * Concurrency: watch and unwatch concern the calling thread. The signal handler for SIGSEGV and
 *              SIGBUS is the process's: installed by the first watch, it stays, and passes each
 *              signal on to the handler that was there before, or to the default action. Whoever
 *              installs a handler later must do likewise.
 * Lifetime:    a watched thread has an alternate signal stack; one that had one keeps its own.
 * Not here:    a frame larger than the guard page that steps over it: -fstack-clash-protection
 */
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CoroutineOverflow {
    int signal;          /* SIGSEGV or SIGBUS */
    const char *name;    /* the coroutine's */
    size_t stack_bytes;  /* that it had */
    const void *address; /* that it touched, below its stack */
    const char *text;    /* "coroutine NAME overflowed its stack of N bytes, fault at 0x…" */
    size_t text_bytes;   /* without the NUL */
} CoroutineOverflow;

/* Context: signal handler. What it calls must be async-signal-safe. */
typedef void CoroutineOverflowFn(const CoroutineOverflow *overflow, void *opaque);

/* From now on report is called when a coroutine of this thread overflows; again with another one
 * replaces it. 0 or -ENOMEM. Context: any thread. */
int coroutine_overflow_watch(CoroutineOverflowFn *report, void *opaque);

/* Ends it, in this thread; without a watch it does nothing. Context: any thread, outside
 * coroutines. */
void coroutine_overflow_unwatch(void);

#ifdef __cplusplus
}
#endif
#endif
