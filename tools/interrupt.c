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

/* Tells the watching thread, which alone has it blocked, that it is to end. A cancellation would
 * leave that thread's frames as they are, which the address sanitizer takes for in use. */
static int stop_signal(void)
{
    return SIGRTMIN;
}

/* Ends the program as SIGINT does where nobody handles it, so that a shell's script ends too. */
static void *wait_for_interrupt(void *opaque)
{
    (void)opaque;
    sigset_t interrupt = interrupt_set(), either = interrupt;
    int number;
    sigaddset(&either, stop_signal());
    if (sigwait(&either, &number) != 0 || number != SIGINT)
        return NULL;
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
    return NULL;
}

void interrupt_watch_start(struct interrupt_watch *watch)
{
    sigset_t stop, before;
    sigemptyset(&stop);
    sigaddset(&stop, stop_signal());
    pthread_sigmask(SIG_BLOCK, &stop, &before); /* inherited */
    watch->is_running = pthread_create(&watch->thread, NULL, wait_for_interrupt, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void interrupt_watch_stop(struct interrupt_watch *watch)
{
    if (!watch->is_running)
        return;
    pthread_kill(watch->thread, stop_signal());
    pthread_join(watch->thread, NULL);
    watch->is_running = false;
}
