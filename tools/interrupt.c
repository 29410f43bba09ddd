/* SPDX-License-Identifier: MIT */
#include "tools/interrupt.h"

#include <stddef.h>

sigset_t interrupt_set(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    return set;
}

void interrupt_block(void)
{
    sigset_t set = interrupt_set();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* Ends the program as SIGINT does where nobody handles it, so that a shell's script ends too. */
static void *wait_for_interrupt(void *opaque)
{
    (void)opaque;
    sigset_t set = interrupt_set();
    int number;
    sigwait(&set, &number); /* where interrupt_watch_stop() may end this thread */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    return NULL;
}

void interrupt_watch_start(struct interrupt_watch *watch)
{
    watch->is_running = pthread_create(&watch->thread, NULL, wait_for_interrupt, NULL) == 0;
}

void interrupt_watch_stop(struct interrupt_watch *watch)
{
    if (!watch->is_running)
        return;
    pthread_cancel(watch->thread);
    pthread_join(watch->thread, NULL);
    watch->is_running = false;
}
