/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * interrupt - SIGINT ends the program while it is in a call that cannot be woken
 *
 * Why:         the threads of nng inherit the signal mask of who starts them, so SIGINT must be
 *              blocked by then, and connecting, which starts them, may take seconds.
 * Use:         interrupt_block();
 *              interrupt_watch_start(&watch);  …connect…  interrupt_watch_stop(&watch);
 *              from here on a signalfd has it (tools/pump.h)
 * Concurrency: a thread of its own waits for the signal between start and stop.
 */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

struct interrupt_watch {
    pthread_t thread;
    bool is_running; /* without a thread SIGINT waits until the call returns */
};

/* SIGINT alone. */
sigset_t interrupt_set(void);

/* For this thread and those that it starts. */
void interrupt_block(void);

void interrupt_watch_start(struct interrupt_watch *watch);
void interrupt_watch_stop(struct interrupt_watch *watch);
