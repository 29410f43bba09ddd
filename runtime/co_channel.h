/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_CHANNEL_H
#define SHERD_CO_CHANNEL_H
/*
 * co_channel - elements of one size on their way between coroutines, as many as it has room for
 *
 * Why:         work goes from those who make it to those who do it, and who is faster waits for the
 *              other.
 * Use:         CoChannel *jobs;
 *              int r = co_channel_new(64, sizeof(struct job *), &jobs);
 *              r = co_channel_send(jobs, &job);
 *              while (co_channel_recv(jobs, &job) == 0) work(job);
 *              co_channel_close(jobs);       when no more come
 *              co_channel_free(jobs);        in the end
 * Concurrency: coroutines of any contexts; trying and closing, any thread. Elements come out in the
 *              order they went in; senders and receivers are served first come, first served.
 * Lifetime:    from new to free. Elements are copied, under a lock: send pointers to what is large.
 * Not here:    processes (runtime/ring.h)
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CoChannel CoChannel;

/* Room for capacity elements; with 0 a sender waits until a receiver has its element. 0, -EINVAL
 * (element_bytes is 0), -ENOMEM. Context: any thread. */
int co_channel_new(size_t capacity, size_t element_bytes, CoChannel **ret_channel);

/* With the elements still in it. Aborts where a coroutine waits. NULL does nothing. Context: any
 * thread. */
void co_channel_free(CoChannel *channel);

/* Waits for room. 0; -EPIPE: it is, or was meanwhile, closed; -ECANCELED or -ETIMEDOUT: a scope
 * ended first. Where it fails nobody gets the element. */
int coroutine_fn co_channel_send(CoChannel *channel, const void *element);

/* Waits for an element. 0; -EPIPE: closed, and all was received; -ECANCELED or -ETIMEDOUT: a scope
 * ended first, and no element was used up for it. */
int coroutine_fn co_channel_recv(CoChannel *channel, void *ret_element);

/* The same without waiting: -EAGAIN where that would have to. Context: any thread. */
int co_channel_try_send(CoChannel *channel, const void *element);
int co_channel_try_recv(CoChannel *channel, void *ret_element);

/* No more is sent: who waits ends with -EPIPE. What is in it can still be received. A second call
 * does nothing. Context: any thread. */
void co_channel_close(CoChannel *channel);

/* How many elements are in it, a moment ago. Context: any thread. */
size_t co_channel_length(CoChannel *channel);

#ifdef __cplusplus
}
#endif
#endif
