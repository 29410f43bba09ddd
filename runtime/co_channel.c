/* SPDX-License-Identifier: MIT */
#include "runtime/co_channel.h"
/*
 * A ring of elements, and one queue of coroutines: senders wait only where the ring is full and
 * receivers only where it is empty, so never both. Who comes serves who waits: a sender puts its
 * element where the first receiver wants it, and a receiver refills the ring with the first
 * sender's. A coroutine so wakes with its part done, and one that gives up has given or taken
 * nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/co_waiter.h"

enum kind { SENDER, RECEIVER }; /* of a waiter, as its amount; data is its element */

struct CoChannel {
    CoQueue waiters; /* its lock guards all */
    size_t element_bytes;
    size_t capacity;
    size_t n; /* elements in the ring */
    size_t head;
    bool is_closed;
    unsigned char ring[];
};

int co_channel_new(size_t capacity, size_t element_bytes, CoChannel **ret_channel)
{
    CoChannel *channel;
    size_t ring_bytes;
    size_t bytes;

    if (element_bytes == 0)
        return -EINVAL;
    if (__builtin_mul_overflow(capacity, element_bytes, &ring_bytes) ||
        __builtin_add_overflow(ring_bytes, sizeof *channel, &bytes))
        return -ENOMEM;
    channel = malloc(bytes);
    if (!channel)
        return -ENOMEM;
    *channel = (CoChannel){.element_bytes = element_bytes, .capacity = capacity};
    co_queue_init(&channel->waiters);
    *ret_channel = channel;
    return 0;
}

void co_channel_free(CoChannel *channel)
{
    if (!channel)
        return;
    co_queue_finish(&channel->waiters, "a CoChannel");
    free(channel);
}

/* ---- under the lock ---- */

static void copy(const CoChannel *channel, void *to, const void *from)
{
    memcpy(to, from, channel->element_bytes);
}

static unsigned char *place(CoChannel *channel, size_t idx)
{
    return channel->ring + idx * channel->element_bytes;
}

static void put_last(CoChannel *channel, const void *element)
{
    size_t room_at_end = channel->capacity - channel->head;
    size_t idx = channel->n < room_at_end ? channel->head + channel->n : channel->n - room_at_end;

    copy(channel, place(channel, idx), element);
    channel->n++;
}

static void take_first(CoChannel *channel, void *ret_element)
{
    copy(channel, ret_element, place(channel, channel->head));
    channel->head = channel->head + 1 < channel->capacity ? channel->head + 1 : 0;
    channel->n--;
}

static bool first_is(const CoChannel *channel, enum kind kind)
{
    return channel->waiters.first && channel->waiters.first->amount == kind;
}

static struct co_waiter *serve_first(CoChannel *channel, struct co_woken *woken)
{
    struct co_waiter *waiter = co_waiter_grant(&channel->waiters, woken);

    waiter->is_granted = true;
    return waiter;
}

static int send_now(CoChannel *channel, const void *element, struct co_woken *woken)
{
    if (channel->is_closed)
        return -EPIPE;
    if (first_is(channel, RECEIVER))
        copy(channel, serve_first(channel, woken)->data, element);
    else if (channel->n < channel->capacity)
        put_last(channel, element);
    else
        return -EAGAIN;
    return 0;
}

static int recv_now(CoChannel *channel, void *ret_element, struct co_woken *woken)
{
    if (channel->n > 0) {
        take_first(channel, ret_element);
        if (first_is(channel, SENDER))
            put_last(channel, serve_first(channel, woken)->data);
        return 0;
    }
    if (first_is(channel, SENDER)) {
        copy(channel, ret_element, serve_first(channel, woken)->data);
        return 0;
    }
    return channel->is_closed ? -EPIPE : -EAGAIN;
}

/* ---- waiting ---- */

/* Lets the lock go. */
static int coroutine_fn wait_as(
    CoChannel *channel, enum kind kind, void *element, const char *function)
{
    struct co_waiter waiter = {.amount = kind, .data = element};
    int r = co_waiter_sleep(&channel->waiters, &waiter, function);

    if (r < 0)
        return r;
    return waiter.is_granted ? 0 : -EPIPE;
}

int coroutine_fn co_channel_send(CoChannel *channel, const void *element)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&channel->waiters.lock);
    int r = send_now(channel, element, &woken);
    if (r == -EAGAIN)
        return wait_as(channel, SENDER, (void *)(uintptr_t)element, __func__); /* read only */
    pthread_mutex_unlock(&channel->waiters.lock);
    co_wake(&woken);
    return r;
}

int coroutine_fn co_channel_recv(CoChannel *channel, void *ret_element)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&channel->waiters.lock);
    int r = recv_now(channel, ret_element, &woken);
    if (r == -EAGAIN)
        return wait_as(channel, RECEIVER, ret_element, __func__);
    pthread_mutex_unlock(&channel->waiters.lock);
    co_wake(&woken);
    return r;
}

int co_channel_try_send(CoChannel *channel, const void *element)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&channel->waiters.lock);
    int r = send_now(channel, element, &woken);
    pthread_mutex_unlock(&channel->waiters.lock);
    co_wake(&woken);
    return r;
}

int co_channel_try_recv(CoChannel *channel, void *ret_element)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&channel->waiters.lock);
    int r = recv_now(channel, ret_element, &woken);
    pthread_mutex_unlock(&channel->waiters.lock);
    co_wake(&woken);
    return r;
}

void co_channel_close(CoChannel *channel)
{
    struct co_woken woken = {.first = NULL};

    pthread_mutex_lock(&channel->waiters.lock);
    channel->is_closed = true;
    co_waiter_grant_all(&channel->waiters, &woken);
    pthread_mutex_unlock(&channel->waiters.lock);
    co_wake(&woken);
}

size_t co_channel_length(CoChannel *channel)
{
    pthread_mutex_lock(&channel->waiters.lock);
    size_t n = channel->n;
    pthread_mutex_unlock(&channel->waiters.lock);
    return n;
}
