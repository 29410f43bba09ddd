/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_handler - a process's last words: its crash record, written as it dies
 *
 * Why:         nobody else can still read its registers.
 * Use:         struct crash_handler handler = {segment_crash(seg, peer), &part->running, 1};
 *              crash_handler_install(&handler);   before coroutine_overflow_watch()
 * Concurrency: the handler runs in whichever thread has crashed.
 * Lifetime:    until the process ends; what `record` and `running` point to is mapped until then.
 * Not here:    who dies of SIGKILL leaves nothing but its recorder
 *
 * For SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT and SIGSYS. Afterwards the process dies as it would
 * have without: same wait status, core file where those are wanted, its registers in it. Sanitizers
 * have handlers of their own, so there it does nothing.
 */
#include <stdint.h>

#include "shard/crash_record.h"

struct crash_handler {
    struct crash_record *record;
    const uint64_t *running; /* running_word() of now */
    uint32_t incarnation;
};

/* The calling thread, the loop's, gets an alternate stack if it has none. 0 or -errno. */
int crash_handler_install(const struct crash_handler *handler);

/* The fault that is handled now is the running coroutine's stack's end. Context: signal handler,
 * before this one. */
void crash_handler_note_overflow(void);
