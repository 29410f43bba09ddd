/* SPDX-License-Identifier: MIT */
#include "ipc/client/nng_close.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#define CLOSE_WAIT_S 1

static void *close_socket(void *opaque)
{
    nng_close((nng_socket){.id = (uint32_t)(uintptr_t)opaque});
    return NULL;
}

bool nng_close_in_time(nng_socket socket)
{
    sigset_t all, before;
    struct timespec until;
    pthread_t thread;

    /* The program's signals are for the program's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, NULL, close_socket, (void *)(uintptr_t)socket.id);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_WAIT_S;
    r = pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until);
    if (r != 0)
        pthread_detach(thread);
    return r == 0;
}
