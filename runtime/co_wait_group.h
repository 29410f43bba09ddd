/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_WAIT_GROUP_H
#define SHERD_CO_WAIT_GROUP_H
/*
 * co_wait_group - waits until all that was begun is done
 *
 * Why:         a request that goes to four disks at once is done when the last of them is.
 * Use:         co_wait_group_init(&group);
 *              for (each part) { co_wait_group_add(&group, 1); start(part); }
 *              r = co_wait_group_wait(&group);
 *              and each part, last: co_wait_group_done(&group);
 * Concurrency: any thread; waiting, coroutines of any contexts.
 * Lifetime:    the caller embeds it, on the stack too: once a wait has returned 0, those who were
 *              counted do not touch it any more. One that a scope ended leaves it in use.
 * Not here:    what the parts return: each keeps its own
 */
#include "runtime/co_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The fields are its own. Zero bytes are a group with nothing to wait for. */
typedef struct CoWaitGroup {
    CoQueue waiters; /* its lock guards all */
    uint64_t n_left;
} CoWaitGroup;

/* Context: any thread. */
void co_wait_group_init(CoWaitGroup *group);

/* Aborts where a coroutine waits. Context: any thread. */
void co_wait_group_deinit(CoWaitGroup *group);

/* n more to wait for. Context: any thread. */
void co_wait_group_add(CoWaitGroup *group, uint64_t n);

/* One less; the last wakes all who wait. Aborts where none is left. Context: any thread. */
void co_wait_group_done(CoWaitGroup *group);

/* Waits until none is left. 0; -ECANCELED or -ETIMEDOUT where a scope ended first. */
int coroutine_fn co_wait_group_wait(CoWaitGroup *group);

#ifdef __cplusplus
}
#endif
#endif
