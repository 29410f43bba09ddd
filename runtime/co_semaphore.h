/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_SEMAPHORE_H
#define SHERD_CO_SEMAPHORE_H
/*
 * co_semaphore - a number of things that coroutines take and give back
 *
 * Why:         so many requests at once, so many bytes of buffer: a limit that waits instead of
 *              refusing.
 * Use:         int r = co_semaphore_acquire(&buffers, bytes);  if (r < 0) … a scope ended
 *              …  co_semaphore_release(&buffers, bytes);
 * Concurrency: coroutines of any contexts; releasing and trying, any thread. First come, first
 *              served: one that wants much is not passed by those who want little, and one release
 *              wakes only whom it serves.
 * Lifetime:    the caller embeds it. Who has acquired the last may end it, though who released that
 *              has not returned yet.
 * Not here:    who holds how much
 */
#include "runtime/co_queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The fields are its own. */
typedef struct CoSemaphore {
    CoQueue waiters;
    uint64_t word; /* how many nobody has, and whether somebody waits */
} CoSemaphore;

/* With 2^63 - 1 at most. Context: any thread. */
void co_semaphore_init(CoSemaphore *semaphore, uint64_t available);

/* Aborts where a coroutine waits. Context: any thread. */
void co_semaphore_deinit(CoSemaphore *semaphore);

/* Takes n, waiting until they are there and all who came before have theirs: for ever, where there
 * will never be so many. 0; -ECANCELED or -ETIMEDOUT where a scope ended first, and then it has
 * taken nothing. */
int coroutine_fn co_semaphore_acquire(CoSemaphore *semaphore, uint64_t n);

/* Takes n where they are there and nobody waits: whether it did. Context: any thread. */
bool co_semaphore_try_acquire(CoSemaphore *semaphore, uint64_t n);

/* Gives back n, or adds them. Aborts where there would be more than 2^63 - 1. Context: any
 * thread. */
void co_semaphore_release(CoSemaphore *semaphore, uint64_t n);

/* How many nobody has, a moment ago. Context: any thread. */
uint64_t co_semaphore_available(const CoSemaphore *semaphore);

#ifdef __cplusplus
}
#endif
#endif
