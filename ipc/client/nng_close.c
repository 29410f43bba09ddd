/* SPDX-License-Identifier: MIT */
/*
 * The thread is detached and not joined: it may never end. Whoever of the two is the last to look
 * at their common state frees it.
 */
#include "ipc/client/nng_close.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define CLOSE_WAIT_S 1

struct closing {
    nng_socket socket;
    pthread_mutex_t lock; /* the two below */
    pthread_cond_t ended;
    bool closed;
    bool waiter_left;
};

static void closing_free(struct closing *closing)
{
    pthread_cond_destroy(&closing->ended);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}

static void *close_socket(void *opaque)
{
    struct closing *closing = opaque;

    nng_close(closing->socket);
    pthread_mutex_lock(&closing->lock);
    bool is_last = closing->waiter_left;
    closing->closed = true;
    pthread_cond_signal(&closing->ended);
    pthread_mutex_unlock(&closing->lock);
    if (is_last)
        closing_free(closing);
    return NULL;
}

static int start_thread(struct closing *closing)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    /* The program's signals are for the program's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attr, close_socket, closing);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r;
}

static bool wait_for_end(struct closing *closing)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_WAIT_S;
    pthread_mutex_lock(&closing->lock);
    while (!closing->closed && r != ETIMEDOUT)
        r = pthread_cond_clockwait(&closing->ended, &closing->lock, CLOCK_MONOTONIC, &until);
    bool closed = closing->closed;
    closing->waiter_left = true;
    pthread_mutex_unlock(&closing->lock);
    return closed;
}

bool nng_close_in_time(nng_socket socket)
{
    struct closing *closing = calloc(1, sizeof(*closing));

    if (!closing)
        return false;
    closing->socket = socket;
    pthread_mutex_init(&closing->lock, NULL);
    pthread_cond_init(&closing->ended, NULL);
    if (start_thread(closing) != 0) {
        closing_free(closing);
        return false;
    }
    bool closed = wait_for_end(closing);
    if (closed)
        closing_free(closing);
    return closed;
}
